/**
 * Split rings of any contents, and in-flight areas, read while another thread changes them: a chain that comes out is
 * one that the checks allow, its buffers are in the memory or are refused, and nothing throws.
 */
import { ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { CHAIN_DESCRIPTORS_MAX } from '../../../src/base/limits.ts';
import { NOWHERE } from '../../../src/memory/guest-memory.ts';
import { IOV_LONG_ENTRIES, IovArena } from '../../../src/sys/iov-arena.ts';
import { Chain, RingFault } from '../../../src/virtio/chain.ts';
import type { InflightArea } from '../../../src/virtio/ring-shape.ts';
import { RIG_GUEST_ADDRESS } from '../../support/ring-rig.ts';
import { RingRig } from '../../support/split-ring-rig.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';
import {
  CHANGED_BYTES,
  descriptors,
  inflightAreas,
  layOut,
  layOutInflight,
  type RawDescriptor,
  type RawInflight,
  REGIONS,
  resetRing,
  TABLE_ENTRIES,
} from '../hostile-ring.ts';
import { RingMutator } from '../ring-mutator.ts';

const SIZE = 32;
/** Times that the driver shows its heads while they are being changed. */
const TURNS = 40;

interface Case {
  readonly ring: readonly RawDescriptor[];
  readonly table: readonly RawDescriptor[];
  readonly heads: readonly number[];
  readonly base: number;
  readonly hasEventIdx: boolean;
  readonly inflight?: RawInflight;
  /** Seed of the changes from another thread; 0: none. */
  readonly changes: number;
}

class SplitRingTarget implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { chains: 0, faults: 0 };
  readonly #rigs = [false, true].map((hasEventIdx) => new RingRig({ size: SIZE, regions: REGIONS, hasEventIdx }));
  readonly #mutator = new RingMutator();
  readonly #arena = new IovArena(4, 1);
  readonly #chain = new Chain();

  attempt(one: Case): void {
    const { ring, table, base, hasEventIdx, changes } = one;
    const rig = this.#rigs[hasEventIdx ? 1 : 0] as RingRig;
    const inflight = layOutInflight(rig.memory, one.inflight ?? null, false, SIZE);
    resetRing(rig, base, inflight);
    layOut(rig, ring, table);
    if (changes === 0) {
      this.#turn(rig, one, inflight);
      return;
    }
    this.#mutator.start(changes, rig.memory.userAddressOf(RIG_GUEST_ADDRESS), CHANGED_BYTES);
    try {
      for (let i = 0; i < TURNS; i++) this.#turn(rig, one, inflight);
    } finally {
      this.#mutator.stop();
    }
  }

  async close(): Promise<void> {
    this.counts['changes from another thread'] = this.#mutator.changes;
    await this.#mutator.close();
    for (const rig of this.#rigs) rig.close();
    this.#arena.close();
  }

  #turn(rig: RingRig, { heads, ring, table }: Case, inflight: InflightArea | null): void {
    for (const head of heads) rig.driver.expose(head);
    rig.driver.publish();
    const taken: number[] = [];
    while (rig.device.pop(this.#chain)) {
      this.#check(rig);
      ok(!taken.includes(this.#chain.head), 'a head is taken once');
      taken.push(this.#chain.head);
    }
    this.counts['chains'] = (this.counts['chains'] ?? 0) + taken.length;
    for (const head of taken) rig.device.push(head, 0);
    rig.device.publish();
    rig.device.armKick();
    rig.device.disarmKick();
    if (rig.device.fault === RingFault.none) return;
    this.counts['faults'] = (this.counts['faults'] ?? 0) + 1;
    ok(!rig.device.hasAvailable() && rig.device.look() === 0, 'nothing is taken from a broken ring');
    resetRing(rig, rig.driver.nextAvail, inflight);
    layOut(rig, ring, table);
  }

  #check(rig: RingRig): void {
    const chain = this.#chain;
    ok(
      chain.head < SIZE && chain.count >= 1 && chain.count <= CHAIN_DESCRIPTORS_MAX,
      'a chain is no longer than allowed',
    );
    ok(chain.count <= SIZE + TABLE_ENTRIES + 0x1_0000 / 16 && chain.readableCount <= chain.count);
    let readable = 0;
    let writable = 0;
    for (let i = 0; i < chain.count; i++) {
      const length = chain.lengths[i] as number;
      if (i < chain.readableCount) readable += length;
      else writable += length;
      const end = rig.guest.appendSegments(chain.addresses, i, 0, length, this.#arena, 0, IOV_LONG_ENTRIES);
      if (end !== NOWHERE) this.#checkSegments(rig, end, length);
    }
    ok(readable === chain.readableBytes && writable === chain.writableBytes, 'the sums are those of the copy');
    ok(readable + writable <= 2 ** 32);
  }

  /** Segments lie in the memory and hold the buffer. */
  #checkSegments(rig: RingRig, end: number, lengthBytes: number): void {
    let total = 0;
    for (let entry = 0; entry < end; entry++) {
      const [address, length] = [this.#arena.addressOf(entry), this.#arena.lengthOf(entry)];
      const isInside = rig.guest.regions.some(
        ({ hostAddress, sizeBytes }) => address >= hostAddress && address + length <= hostAddress + sizeBytes,
      );
      ok(isInside, 'a segment lies in one region');
      total += length;
    }
    ok(total === lengthBytes, 'the segments hold the buffer');
  }
}

export const splitRing = defineFuzzer<Case>({
  name: 'split-ring',
  purpose: 'split rings of any contents, changed by another thread while they are read',
  cases: fc.record({
    ring: descriptors(SIZE),
    table: descriptors(TABLE_ENTRIES),
    heads: fc.array(fc.oneof({ weight: 8, arbitrary: fc.nat(SIZE - 1) }, { weight: 1, arbitrary: fc.nat(0xffff) }), {
      minLength: 1,
      maxLength: SIZE + 2,
    }),
    base: fc.constantFrom(0, 5, 0xfff0, 0xffff),
    hasEventIdx: fc.boolean(),
    inflight: inflightAreas(false, SIZE),
    changes: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 2 ** 31 - 1 })),
  }),
  open: () => new SplitRingTarget(),
});
