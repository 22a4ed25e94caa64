/**
 * Packed rings of any contents, and in-flight areas, read while another thread changes them: a chain that comes out is
 * one that the checks allow, and nothing throws. At times the device is killed with chains in flight.
 */
import { ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { Chain, RingFault } from '../../../src/virtio/chain.ts';
import { type InflightArea, PACKED_BASE_FIRST } from '../../../src/virtio/ring-shape.ts';
import { PackedRingRig } from '../../support/packed-ring-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../support/ring-rig.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';
import {
  CHANGED_BYTES,
  descriptors,
  inflightAreas,
  layOutInflight,
  layOutTable,
  type RawDescriptor,
  type RawInflight,
  REGIONS,
  TABLE_ENTRIES,
} from '../hostile-ring.ts';
import { RingMutator } from '../ring-mutator.ts';

/** Turns of the ring that the driver fills in a case. */
const TURNS = 30;
/** In the flags of an available descriptor, by the turn of the ring. */
const MARKS = [0x8000, 0x0080] as const;
const MARKS_MASK = 0x8080;

interface Case {
  readonly size: number;
  readonly ring: readonly RawDescriptor[];
  readonly table: readonly RawDescriptor[];
  /** Replace the marks of a descriptor: which, modulo the size, and by what. */
  readonly marks: readonly (readonly [at: number, marks: number])[];
  readonly inflight?: RawInflight;
  /** Turns after which there is another device, with some chains done and not shown. */
  readonly kills?: readonly number[];
  readonly changes: number;
}

class PackedRingTarget implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { chains: 0, faults: 0, 'taken up': 0 };
  readonly #mutator = new RingMutator();
  readonly #chain = new Chain();
  #inflight: InflightArea | null = null;

  attempt(one: Case): void {
    const rig = new PackedRingRig({ size: one.size, regions: REGIONS, base: PACKED_BASE_FIRST, hasEventIdx: true });
    try {
      layOutTable(rig.memory, one.table);
      this.#inflight = layOutInflight(rig.memory, one.inflight ?? null, true, one.size);
      this.#restart(rig);
      if (one.changes === 0) {
        for (let turn = 1; turn <= 3; turn++) this.#turn(rig, one, turn);
        return;
      }
      this.#mutator.start(one.changes, rig.memory.userAddressOf(RIG_GUEST_ADDRESS), CHANGED_BYTES);
      try {
        for (let turn = 1; turn <= TURNS; turn++) this.#turn(rig, one, turn);
      } finally {
        this.#mutator.stop();
      }
    } finally {
      rig.close();
    }
  }

  async close(): Promise<void> {
    this.counts['changes from another thread'] = this.#mutator.changes;
    await this.#mutator.close();
  }

  #restart(rig: PackedRingRig): void {
    rig.device.close();
    rig.device = rig.startDevice(PACKED_BASE_FIRST, this.#inflight);
    this.counts['taken up'] = (this.counts['taken up'] ?? 0) + rig.device.recovery.heads.length;
  }

  #turn(rig: PackedRingRig, { size, ring, marks, kills = [] }: Case, turn: number): void {
    for (let place = 0; place < size; place++) {
      const { gpa, lengthBytes, flags, next } = ring[place % ring.length] as RawDescriptor;
      const own = marks.find(([at]) => at % size === place)?.[1] ?? (MARKS[turn % 2] as number);
      rig.write(place, gpa, lengthBytes, next < 0 ? place : next & 0xffff, (flags & ~MARKS_MASK) | own);
    }
    const taken: number[] = [];
    while (rig.device.look() > 0 && rig.device.pop(this.#chain)) {
      this.#check(size);
      ok(!taken.includes(this.#chain.head), 'an id is taken once');
      taken.push(this.#chain.head);
    }
    this.counts['chains'] = (this.counts['chains'] ?? 0) + taken.length;
    const isKilled = kills.includes(turn);
    for (const head of isKilled ? taken.slice(1) : taken) rig.device.push(head, 0);
    if (isKilled) {
      this.#restart(rig);
      return;
    }
    rig.device.publish();
    rig.device.armKick();
    rig.device.disarmKick();
    if (rig.device.fault === RingFault.none) return;
    this.counts['faults'] = (this.counts['faults'] ?? 0) + 1;
    ok(!rig.device.hasAvailable() && rig.device.look() === 0, 'nothing is taken from a broken ring');
    this.#restart(rig);
  }

  #check(size: number): void {
    const { head, count, readableCount, readableBytes, writableBytes, lengths } = this.#chain;
    ok(head < size && count >= 1 && count <= size + 1024 && readableCount <= count);
    const sum = (from: number, to: number): number => lengths.subarray(from, to).reduce((all, one) => all + one, 0);
    ok(sum(0, readableCount) === readableBytes && sum(readableCount, count) === writableBytes, 'sums are of the copy');
    ok(readableBytes + writableBytes <= 2 ** 32);
  }
}

export const packedRing = defineFuzzer<Case>({
  name: 'packed-ring',
  purpose: 'packed rings of any contents, changed by another thread while they are read',
  cases: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(1, 2, 32)).chain((size) =>
    fc.record({
      size: fc.constant(size),
      ring: descriptors(40),
      table: descriptors(TABLE_ENTRIES),
      marks: fc.oneof(fc.constant([]), fc.array(fc.tuple(fc.nat(40), fc.constantFrom(0, 0x80, 0x8000, 0x8080)))),
      inflight: inflightAreas(true, size),
      kills: fc.oneof(fc.constant([]), fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 3 })),
      changes: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 2 ** 31 - 1 })),
    }),
  ),
  open: () => new PackedRingTarget(),
});
