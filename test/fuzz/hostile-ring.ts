/** Split rings as no good driver makes them: descriptors and heads as data, and their layout in a rig's memory. */
import * as fc from 'fast-check';
import { DescriptorFlag, encodeDescriptor } from '../../src/initiator/driver-ring.ts';
import type { OwnedMemory, OwnedRegionOptions } from '../../src/initiator/owned-memory.ts';
import { type InflightArea, inflightBytes } from '../../src/virtio/ring-shape.ts';
import { RIG_GUEST_ADDRESS } from '../support/ring-rig.ts';
import type { RingRig } from '../support/split-ring-rig.ts';

const REGION_BYTES = 256 << 10;
/** The ring lies in the first; the second touches it; behind a gap of a page comes the third. */
export const REGIONS: readonly OwnedRegionOptions[] = [
  { guestAddress: RIG_GUEST_ADDRESS, sizeBytes: REGION_BYTES },
  { guestAddress: RIG_GUEST_ADDRESS + REGION_BYTES, sizeBytes: REGION_BYTES },
  { guestAddress: RIG_GUEST_ADDRESS + 2 * REGION_BYTES + 4096, sizeBytes: REGION_BYTES },
];
/** Where the indirect table of a rig is, and how many entries are filled in. */
export const TABLE_ADDRESS = RIG_GUEST_ADDRESS + (64 << 10);
export const TABLE_ENTRIES = 24;
/** Where buffers are. */
export const BUFFERS_ADDRESS = RIG_GUEST_ADDRESS + (128 << 10);

/** Where a ring keeps what it has in flight: a front-end may write there too. */
const INFLIGHT_ADDRESS = RIG_GUEST_ADDRESS + (96 << 10);

/** From the start of the memory: the ring, tables and the first buffers, which another thread changes. */
export const CHANGED_BYTES = (128 + 32) << 10;

export interface RawDescriptor {
  readonly gpa: number;
  readonly lengthBytes: number;
  readonly flags: number;
  readonly next: number;
}

/** The same for both layouts. */
const INFLIGHT_VERSION_AT = 4;
const INFLIGHT_ENTRIES_AT = 5;

const { next: NEXT, write: WRITE, indirect: INDIRECT } = DescriptorFlag;

/** Guest addresses: mostly memory, often its borders, sometimes nowhere. */
export const gpas: fc.Arbitrary<number> = fc.oneof(
  { weight: 6, arbitrary: fc.nat(REGION_BYTES / 2).map((at) => BUFFERS_ADDRESS + at) },
  { weight: 2, arbitrary: fc.integer({ min: -64, max: 64 }).map((at) => RIG_GUEST_ADDRESS + REGION_BYTES + at) },
  { weight: 2, arbitrary: fc.integer({ min: -64, max: 64 }).map((at) => RIG_GUEST_ADDRESS + 2 * REGION_BYTES + at) },
  {
    weight: 1,
    arbitrary: fc.integer({ min: -64, max: 64 }).map((at) => RIG_GUEST_ADDRESS + 3 * REGION_BYTES + 4096 + at),
  },
  { weight: 1, arbitrary: fc.constantFrom(0, 0xffff_f000, 2 ** 53, 2 ** 53 + 4096, 2 ** 63, 2 ** 64 - 4096) },
);
const lengths: fc.Arbitrary<number> = fc.oneof(
  { weight: 6, arbitrary: fc.nat(600) },
  { weight: 2, arbitrary: fc.constantFrom(0, 1, 16, 512, 4096) },
  { weight: 1, arbitrary: fc.constantFrom(0x1_0000, 0x8000_0000, 0xffff_f000, 0xffff_ffff) },
);

/** Descriptors of a table of `entries`: mostly chains that go on to the next one and end. */
export function descriptors(entries: number): fc.Arbitrary<RawDescriptor[]> {
  const one = fc
    .record({
      gpa: gpas,
      lengthBytes: lengths,
      flags: fc.oneof(
        { weight: 12, arbitrary: fc.constantFrom(0, NEXT, NEXT, WRITE, NEXT | WRITE, NEXT | WRITE) },
        { weight: 1, arbitrary: fc.nat(0xffff) },
      ),
      next: fc.oneof(
        { weight: 8, arbitrary: fc.constant(-1) },
        { weight: 2, arbitrary: fc.nat(entries) },
        { weight: 1, arbitrary: fc.nat(0xffff) },
      ),
      isTable: fc.integer({ min: 0, max: 11 }),
      tableBytes: fc.oneof(
        { weight: 6, arbitrary: fc.integer({ min: 1, max: TABLE_ENTRIES }).map((count) => 16 * count) },
        { weight: 1, arbitrary: lengths },
      ),
    })
    .map(({ isTable, tableBytes, ...plain }): RawDescriptor => {
      if (isTable !== 0) return plain;
      return { gpa: TABLE_ADDRESS, lengthBytes: tableBytes, flags: INDIRECT, next: 0 };
    });
  return fc.array(one, { minLength: 1, maxLength: entries, size: 'max' });
}

/** A `next` of -1 is the entry that follows. */
export function layOut(rig: RingRig, ring: readonly RawDescriptor[], table: readonly RawDescriptor[]): void {
  ring.forEach(({ gpa, lengthBytes, flags, next }, i) => {
    rig.driver.writeDescriptor(i, gpa, lengthBytes, flags, next < 0 ? i + 1 : next);
  });
  layOutTable(rig.memory, table);
}

export function layOutTable(memory: OwnedMemory, table: readonly RawDescriptor[]): void {
  const words = memory.uint32s(TABLE_ADDRESS, 4 * TABLE_ENTRIES);
  table.slice(0, TABLE_ENTRIES).forEach(({ gpa, lengthBytes, flags, next }, i) => {
    encodeDescriptor(words, i, gpa, lengthBytes, flags, next < 0 ? i + 1 : next);
  });
}

/** Empties a rig's ring and table, and starts a new device on it. */
export function resetRing(rig: RingRig, base: number, inflight: InflightArea | null = null): void {
  rig.device.close();
  rig.driver.reset(base);
  rig.memory.uint32s(TABLE_ADDRESS, 4 * TABLE_ENTRIES).fill(0);
  rig.device = rig.startDevice(base, inflight);
}

/** Half-words of an in-flight area and what they hold, in place of zeroes; null: there is none. */
export type RawInflight = readonly (readonly [at: number, value: number])[] | null;

/** For a ring of up to `entries`: most with a version that is known. */
export function inflightAreas(isPacked: boolean, entries: number): fc.Arbitrary<RawInflight> {
  const at = fc.nat(inflightBytes(isPacked, entries) / 2 - 1);
  const value = fc.oneof(fc.constantFrom(0, 1), fc.nat(entries), fc.nat(0xffff));
  const others = fc.array(fc.tuple(at, value), { maxLength: 24 });
  return fc.oneof(
    fc.constant(null),
    others,
    others.map((all): RawInflight => [[INFLIGHT_VERSION_AT, 1], [INFLIGHT_ENTRIES_AT, entries], ...all]),
  );
}

export function layOutInflight(
  memory: OwnedMemory,
  raw: RawInflight,
  isPacked: boolean,
  entries: number,
): InflightArea | null {
  if (raw === null) return null;
  const halves = memory.uint16s(INFLIGHT_ADDRESS, inflightBytes(isPacked, entries) / 2);
  halves.fill(0);
  for (const [at, value] of raw) halves[at] = value;
  return { address: memory.userAddressOf(INFLIGHT_ADDRESS), entries };
}
