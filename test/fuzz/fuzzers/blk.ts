/**
 * virtio-blk requests of any content in any framing, over a RAM disk between guard bytes, some of them changed by
 * another thread while they are carried out.
 */
import { ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { MallocChannel } from '../../../src/bdev/modules/malloc/malloc-channel.ts';
import { Mapping, MappingViews } from '../../../src/sys/mapping.ts';
import { BlkRequestType } from '../../../src/virtio/blk.ts';
import { BlkRig, blkHeader, blkRange } from '../../support/blk-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../support/ring-rig.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';
import { CHANGED_BYTES, REGIONS } from '../hostile-ring.ts';
import { type ChainShape, chainShapes, QueueCase, REQUESTS_MAX } from '../queue-case.ts';
import { RingMutator } from '../ring-mutator.ts';

const BLOCKS = 64;
const BLOCK_BYTES = 512;
const GUARD_BYTES = 4096;
const GUARD = 0xee;
/** Rounds of the reactor while another thread changes what it reads. */
const ROUNDS = 12;
const MUTATED_ROUNDS = 60;
const { IN, OUT, GET_ID, DISCARD, WRITE_ZEROES } = BlkRequestType;

interface Request {
  readonly type: number;
  readonly sector: number;
  /** Blocks of data, and bytes more or less. */
  readonly blocks: number;
  readonly excess: number;
  /** Ranges of DISCARD and WRITE_ZEROES: sector, count, flags. */
  readonly ranges: readonly (readonly [sector: number, count: number, flags: number])[];
  readonly shape: ChainShape;
}

interface Case {
  readonly requests: readonly Request[];
  readonly isReadonly: boolean;
  readonly hasWriteCache: boolean;
  readonly changes: number;
}

const sector = fc.oneof(
  { weight: 8, arbitrary: fc.nat(BLOCKS + 1) },
  { weight: 1, arbitrary: fc.constantFrom(2 ** 32, 2 ** 53, 2 ** 55, 2 ** 63, 2 ** 64 - 2048) },
);
const request: fc.Arbitrary<Request> = fc.record({
  type: fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom<number>(...Object.values(BlkRequestType)) },
    { weight: 1, arbitrary: fc.nat(0xffff_ffff) },
  ),
  sector,
  blocks: fc.nat(7),
  excess: fc.oneof(
    { weight: 8, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: -20, max: 20 }) },
  ),
  ranges: fc.array(
    fc.tuple(
      sector,
      fc.oneof({ weight: 8, arbitrary: fc.nat(BLOCKS) }, { weight: 1, arbitrary: fc.constant(0xffff_ffff) }),
      fc.oneof({ weight: 8, arbitrary: fc.constantFrom(0, 1) }, { weight: 1, arbitrary: fc.nat(0xffff_ffff) }),
    ),
    { maxLength: 20 },
  ),
  shape: chainShapes,
});

class BlkTarget implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { requests: 0 };
  readonly #disk = Mapping.anonymous(BLOCKS * BLOCK_BYTES + 2 * GUARD_BYTES);
  readonly #views = new MappingViews();
  readonly #bytes = new Uint8Array(this.#views.view(this.#disk, 0, this.#disk.lengthBytes));
  readonly #mutator = new RingMutator();

  attempt({ requests, isReadonly, hasWriteCache, changes }: Case): void {
    this.#bytes.fill(GUARD);
    const disk = this.#bytes.subarray(GUARD_BYTES, -GUARD_BYTES).fill(0x11);
    const rig = new BlkRig({
      size: 64,
      regions: REGIONS,
      bdev: { blockCount: BLOCKS, hasWriteCache, params: { address: this.#disk.address + GUARD_BYTES } },
      device: { isReadonly },
      factory: (description, context) => new MallocChannel(description, context),
    });
    try {
      const one = new QueueCase(rig.ring);
      rig.ring.driver.reset();
      for (const { shape, ...content } of requests) one.submit(...bytesOf(content), shape);
      this.counts['requests'] = (this.counts['requests'] ?? 0) + requests.length;
      if (changes === 0) {
        one.checkUntouched(() => this.#carryOut(rig, ROUNDS));
        const left = one.collect();
        ok(left === 0 || rig.ring.device.fault !== 0, 'every request of a ring that is whole is answered');
      } else this.#underChange(rig, changes);
      if (isReadonly)
        ok(
          disk.every((byte) => byte === 0x11),
          'a read-only disk is not written',
        );
      this.#checkGuards();
      ok(rig.ring.device.inFlightCount === 0 && rig.channel.inFlight === 0, 'a RAM disk leaves nothing in flight');
      rig.channel.close();
    } finally {
      rig.close();
    }
  }

  async close(): Promise<void> {
    this.counts['changes from another thread'] = this.#mutator.changes;
    await this.#mutator.close();
    this.#views.close();
    this.#disk.close();
  }

  #carryOut(rig: BlkRig, rounds: number): void {
    for (let i = 0; i < rounds; i++) rig.round();
  }

  #underChange(rig: BlkRig, seed: number): void {
    this.#mutator.start(seed, rig.ring.memory.userAddressOf(RIG_GUEST_ADDRESS), CHANGED_BYTES);
    try {
      this.#carryOut(rig, MUTATED_ROUNDS);
    } finally {
      this.#mutator.stop();
    }
  }

  #checkGuards(): void {
    const isGuard = (byte: number): boolean => byte === GUARD;
    ok(this.#bytes.subarray(0, GUARD_BYTES).every(isGuard), 'nothing is written before the disk');
    ok(this.#bytes.subarray(-GUARD_BYTES).every(isGuard), 'nothing is written behind the disk');
  }
}

/** What the device reads, and how much room there is for its answer. */
function bytesOf({ type, sector: first, blocks, excess, ranges }: Omit<Request, 'shape'>): [Uint8Array, number] {
  const data = Math.max(0, blocks * BLOCK_BYTES + excess);
  const header = blkHeader(type, BigInt(first));
  if (type === OUT) return [Buffer.concat([header, new Uint8Array(data).fill(0x77)]), 1];
  if (type === IN) return [header, data + 1];
  if (type === GET_ID) return [header, 21 + excess];
  if (type !== DISCARD && type !== WRITE_ZEROES) return [header, 1];
  return [Buffer.concat([header, ...ranges.map(([at, count, flags]) => blkRange(BigInt(at), count, flags))]), 1];
}

export const blk = defineFuzzer<Case>({
  name: 'blk',
  purpose: 'virtio-blk requests of any content, cut anywhere, over a RAM disk',
  cases: fc.record({
    requests: fc.array(request, { minLength: 1, maxLength: REQUESTS_MAX }),
    isReadonly: fc.boolean(),
    hasWriteCache: fc.boolean(),
    changes: fc.oneof(
      { weight: 7, arbitrary: fc.constant(0) },
      { weight: 1, arbitrary: fc.integer({ min: 1, max: 2 ** 31 - 1 }) },
    ),
  }),
  open: () => new BlkTarget(),
});
