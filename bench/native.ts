/**
 * Loads the benchmark's addon (native/bench) and types its calls. What stands in an array stands there in the order of
 * the lists below, which native/bench has as enums.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { TargetError } from '../src/base/errors.ts';

/** What the client's loop is told. */
export const CONFIG = [
  'mode',
  'protocol',
  'format',
  'hasEventIdx',
  'guestMinusHost',
  'depth',
  'blockBytes',
  'blockCount',
  'unitsPerBlock',
  'isSequential',
  'writePercent',
  'warmUpNs',
  'durationNs',
  'count',
  'seed',
  'stallNs',
  'napNs',
] as const;
/** A queue of the client's. Addresses are those of this process; positions are brought up to date by a run. */
export const QUEUE = [
  'descriptors',
  'available',
  'used',
  'size',
  'nextAvail',
  'nextUsed',
  'kickFd',
  'control',
  'data',
] as const;
/** What a run of the client's loop tells. */
export const RESULT = [
  'requests',
  'elapsedNs',
  'waitedNs',
  'kicks',
  'errors',
  'mismatches',
  'sumNs',
  'minNs',
  'maxNs',
] as const;
/** A ring that the limit serves. */
export const VRING = [
  'descriptors',
  'available',
  'used',
  'size',
  'nextAvail',
  'hasEventIdx',
  'callFd',
  'disk',
  'way',
] as const;

export const Mode = { measure: 0, stamp: 1, check: 2 } as const;
export const Protocol = { blk: 0, scsi: 1 } as const;
export const Format = { splitDirect: 0, splitIndirect: 1, packedDirect: 2, packedIndirect: 3 } as const;
/**
 * Ways to copy: one memcpy a block; the same with the next sources fetched meanwhile; `rep movsb`; past the caches; the
 * second for reads and the fourth for writes. `quickestWay` says which is best.
 */
export const CopyWay = { memcpy: 0, prefetch: 1, repMovsb: 2, stream: 3, streamWrites: 4 } as const;
/** Ways of a thread to sleep until its eventfd is written (native/bench/wake.c). */
export const SleepWay = { read: 0, epoll: 1, nested: 2 } as const;
/** Ways to learn of an io_uring's completions (native/bench/disk.c). */
export const LearnWay = { poll: 0, wait: 1, event: 2, offer: 3 } as const;

/** Bytes of a slot's control block in the client's memory. */
export const SLOT_BYTES = 256;
export const STATUSES = 256;

interface BenchNative {
  clientRun(
    config: Float64Array,
    queues: Float64Array,
    queueCount: number,
    buckets: Float64Array,
    statuses: Float64Array,
    result: Float64Array,
  ): number;
  stolenShare(durationNs: number): number;
  processCpuNs(pid: number): number;
  copyRate(
    diskBytes: number,
    blockBytes: number,
    depth: number,
    writePercent: number,
    isSequential: number,
    way: number,
    durationNs: number,
  ): number;
  wakeUps(core: number, way: number, napNs: number, latenciesNs: Float64Array): number;
  fileRate(
    fd: number,
    blocks: number,
    blockBytes: number,
    depth: number,
    isWrite: number,
    way: number,
    durationNs: number,
  ): number;
  limitStart(): number;
  limitDisk(bytes: number): number;
  limitAdd(place: number, vring: Float64Array, regions: Float64Array, regionCount: number): number;
  limitRemove(place: number): number;
  limitCall(place: number, fd: number): number;
}

export function pack<N extends string>(names: readonly N[], values: Readonly<Record<N, number>>): Float64Array {
  return Float64Array.from(names, (name) => values[name]);
}

export function unpack<N extends string>(names: readonly N[], array: Float64Array): Record<N, number> {
  return Object.fromEntries(names.map((name, i) => [name, array[i]])) as Record<N, number>;
}

function load(): BenchNative {
  const path = join(import.meta.dirname, '..', 'build', 'ringhost-bench.node');
  if (!existsSync(path)) {
    throw new TargetError('ENOENT', "the benchmark's addon is not built: start it with `npm run bench`");
  }
  return createRequire(import.meta.url)(path) as BenchNative;
}

export const benchNative: BenchNative = load();

/** The quicker way of copying blocks from and to a disk on this core: writes past the caches, or not. */
export function quickestWay(diskBytes: number): number {
  const ways = [CopyWay.prefetch, CopyWay.streamWrites] as const;
  const rates = ways.map(() => 0);
  for (let round = 0; round < 3; round++) {
    for (const [i, way] of ways.entries()) {
      const rate = benchNative.copyRate(diskBytes, 4096, 32, 100, 0, way, 30e6);
      rates[i] = Math.max(rates[i] as number, rate);
    }
  }
  return (rates[1] as number) > (rates[0] as number) ? CopyWay.streamWrites : CopyWay.prefetch;
}
