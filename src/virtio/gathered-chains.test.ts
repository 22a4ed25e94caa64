/** A chain that was gathered with its round is the one that the ring reads by itself, whatever the guest wrote. */
import * as fc from 'fast-check';
import { afterAll, expect, it } from 'vitest';
import { PackedRingRig } from '../../test/support/packed-ring-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BUFFER_WORDS, BufferWord, RECORDS, RecordWord } from '../sys/chain-gather.ts';
import { Chain, NO_RECORD, RingFault } from './chain.ts';
import type { Ring } from './ring.ts';
import { PACKED_BASE_FIRST } from './ring-shape.ts';

const SIZE = 8;
const REGION_BYTES = 64 * 1024;
/** Two regions that touch, and a hole behind them. The ring lies at the start of the first. */
const SECOND = RIG_GUEST_ADDRESS + REGION_BYTES;
const TABLES = RIG_GUEST_ADDRESS + 4096;
const TABLE_BYTES = 16 * SIZE;
const [NEXT, WRITE, INDIRECT, AVAIL] = [1, 2, 4, 0x80];

const options = {
  size: SIZE,
  regions: [
    { guestAddress: RIG_GUEST_ADDRESS, sizeBytes: REGION_BYTES },
    { guestAddress: SECOND, sizeBytes: REGION_BYTES },
  ],
};
const split = new RingRig(options);
const packed = new PackedRingRig(options);
afterAll(() => {
  split.close();
  packed.close();
});

const likely = <T>(usual: fc.Arbitrary<T>, odd: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 12, arbitrary: usual }, { weight: 1, arbitrary: odd });
const buffer = fc.record({
  address: likely(
    fc.nat(REGION_BYTES).map((at) => RIG_GUEST_ADDRESS + 8192 + (at & ~7)),
    fc.oneof(
      fc.nat(2 * REGION_BYTES).map((at) => RIG_GUEST_ADDRESS + at),
      fc.constantFrom(0, SECOND - 8, SECOND + REGION_BYTES - 8, 2 ** 52),
    ),
  ),
  length: likely(fc.constantFrom(1, 16, 16, 51, 512, 4096), fc.oneof(fc.nat(2 ** 32 - 1), fc.constant(0))),
});
/** Header, data, status, and what goes wrong with it. */
const table = fc.record({
  buffers: fc.array(buffer, { minLength: 1, maxLength: 6 }),
  readable: fc.nat(3),
  /** Flags that are changed, at a place, and a link that is. */
  odd: likely(fc.constant(0), fc.nat(7)),
  place: fc.nat(5),
  link: likely(fc.constant(-1), fc.nat(20)),
  isIndirect: fc.boolean(),
  tableOffset: likely(fc.constant(0), fc.constantFrom(1, 4, 8)),
  tableLength: likely(fc.constant(-1), fc.constantFrom(0, 8, 16, 2 ** 20)),
});
type Table = typeof table extends fc.Arbitrary<infer T> ? T : never;
type Rig = RingRig | PackedRingRig;

/** Buffers as descriptors, of which each has a word of its own beside address, length and flags. */
function encode(
  { buffers, readable, odd, place }: Table,
  wordOf: (flags: number, index: number) => number,
): Uint8Array {
  const bytes = new Uint8Array(TABLE_BYTES);
  const view = new DataView(bytes.buffer);
  buffers.forEach(({ address, length }, i) => {
    const flags = (i < buffers.length - 1 ? NEXT : 0) | (i < readable ? 0 : WRITE);
    view.setBigUint64(16 * i, BigInt(address), true);
    view.setUint32(16 * i + 8, length, true);
    view.setUint32(16 * i + 12, wordOf(i === place ? flags ^ odd : flags, i), true);
  });
  return bytes;
}

const tableLengthOf = ({ tableLength, buffers }: Table) => (tableLength < 0 ? 16 * buffers.length : tableLength);

/** Writes the chain as the guest would, with its head at 0. */
function writeSplit(chain: Table): void {
  const { place, link, odd, isIndirect, tableOffset } = chain;
  const bytes = encode(chain, (flags, i) => flags | ((i === place && link >= 0 ? link : i + 1) << 16));
  if (!isIndirect) {
    split.memory.write(split.driver.descriptorAddress, bytes);
    return;
  }
  split.memory.write(TABLES + tableOffset, bytes);
  split.driver.writeDescriptor(0, TABLES + tableOffset, tableLengthOf(chain), INDIRECT | (odd & NEXT), 0);
}

/** The same at the first places of a packed ring; a link is an id there. */
function writePacked(chain: Table): void {
  const { place, link, odd, isIndirect, tableOffset } = chain;
  const bytes = encode(chain, (flags, i) => (i === place && link >= 0 ? link : 0) | ((flags | AVAIL) << 16));
  if (!isIndirect) {
    packed.memory.write(packed.driver.descriptorAddress, bytes);
    return;
  }
  packed.memory.write(TABLES + tableOffset, bytes);
  packed.memory.write(packed.driver.descriptorAddress, new Uint8Array(TABLE_BYTES));
  const id = Math.max(link, 0);
  packed.write(0, TABLES + tableOffset, tableLengthOf(chain), id, INDIRECT | (odd & NEXT) | AVAIL);
}

/** What a ring makes of its next chain, and of the buffers of that. */
function take(ring: Ring, { guest }: Rig) {
  const chain = new Chain();
  const isTaken = ring.pop(chain);
  const { record } = chain;
  const result = { isTaken, fault: ring.fault, base: ring.base, ...summary(chain, isTaken) };
  if (record !== NO_RECORD && isTaken) expectPlaces(guest, chain, record);
  return { result, hasRecord: isTaken && record !== NO_RECORD };
}

function summary(chain: Chain, isTaken: boolean) {
  if (!isTaken) return null;
  const { head, count, readableCount, readableBytes, writableBytes } = chain;
  const [addresses, lengths] = [[...chain.addresses.slice(0, count)], [...chain.lengths.slice(0, count)]];
  return { head, count, readableCount, readableBytes, writableBytes, addresses, lengths };
}

/** What the record says of the places is what the memory says, and its header is the guest's. */
function expectPlaces(guest: GuestMemory, chain: Chain, record: number): void {
  for (let i = 0; i < chain.count; i++) {
    const at = record + RecordWord.buffers + i * BUFFER_WORDS;
    const word = (field: number): number => (RECORDS[at + field] as number) >>> 0;
    const window = guest.locate(chain.addresses, i, 0, chain.lengths[i] as number);
    expect(window).not.toBeNull();
    expect(window).toBe(guest.window(word(BufferWord.window)));
    const host = word(BufferWord.hostHigh) * 2 ** 32 + word(BufferWord.hostLow);
    expect(host - (window?.hostAddress ?? 0)).toBe(guest.offset);
  }
  if (chain.readableCount === 0) return;
  const header = new Uint32Array(4);
  guest.read(chain.addresses, 0, 0, new Uint8Array(header.buffer), 0, 16);
  const { header0, header2, header3 } = RecordWord;
  const words = [header0, header2, header3].map((field) => (RECORDS[record + field] as number) >>> 0);
  expect(words).toEqual([header[0], header[2], header[3]]);
}

it.each([
  ['split', split, writeSplit, 0],
  ['packed', packed, writePacked, PACKED_BASE_FIRST],
] as const)(
  'a gathered chain of a %s ring is the one that is read alone, and so is what is wrong with it',
  (...layout) => {
    const [, rig, write, base] = layout;
    let gathered = 0;
    let faults = 0;
    for (const head of [0, 1]) split.driver.expose(head);
    split.driver.publish();
    fc.assert(
      fc.property(table, (chain) => {
        write(chain);
        const [alone, together] = [rig.startDevice(base), rig.startDevice(base)];
        alone.look();
        // The records are this ring's now.
        together.look();
        const [expected, got] = [take(alone, rig), take(together, rig)];
        alone.close();
        together.close();
        expect(got.result).toEqual(expected.result);
        expect(expected.hasRecord).toBe(false);
        if (got.hasRecord) gathered++;
        if (got.result.fault !== RingFault.none) faults++;
      }),
      { numRuns: 1000 },
    );
    // All of it was seen.
    expect(gathered).toBeGreaterThan(50);
    expect(faults).toBeGreaterThan(20);
  },
);

it('a packed chain that is given back, or changed, between the look and the taking is the one that was seen', () => {
  const rig = new PackedRingRig({ size: SIZE });
  const chain = new Chain();
  const readable = { gpa: RIG_GUEST_ADDRESS + 2 ** 20, lengthBytes: 16, isWritable: false };
  const ids = [[readable, readable], [readable]].map((segments) => rig.submit(segments));
  expect(rig.device.look()).toBe(2);
  rig.memory.write(rig.driver.descriptorAddress, new Uint8Array(TABLE_BYTES).fill(0xff));
  for (const [id, count] of [
    [ids[0], 2],
    [ids[1], 1],
  ]) {
    expect(rig.device.pop(chain)).toBe(true);
    expect([chain.head, chain.count, ...chain.lengths.slice(0, chain.count)]).toEqual([
      id,
      count,
      ...Array(count).fill(16),
    ]);
  }
  expect(rig.device.base & 0x7fff).toBe(3);
  rig.close();
});

it('a head out of range, or one that is in flight, breaks a ring whose chains were gathered', () => {
  for (const [second, fault] of [
    [SIZE, RingFault.headOutOfRange],
    [0, RingFault.headInFlight],
  ] as const) {
    const other = new RingRig({ size: SIZE });
    other.submit([{ gpa: RIG_GUEST_ADDRESS + 2 ** 20, lengthBytes: 16, isWritable: false }]);
    other.show(second);
    const chain = new Chain();
    expect(other.device.look()).toBe(2);
    expect(other.device.pop(chain)).toBe(true);
    expect(other.device.pop(chain)).toBe(false);
    expect(other.device.fault).toBe(fault);
    other.close();
  }
});

it('records are of the ring that looked last; another reads for itself', () => {
  const [one, two] = [new RingRig({ size: SIZE }), new RingRig({ size: SIZE })];
  const chain = new Chain();
  for (const [ring, lengthBytes] of [
    [one, 16],
    [two, 32],
  ] as const) {
    for (let i = 0; i < 2; i++) ring.submit([{ gpa: RIG_GUEST_ADDRESS + 2 ** 20, lengthBytes, isWritable: false }]);
    expect(ring.device.look()).toBe(2);
  }
  expect(one.device.pop(chain)).toBe(true);
  expect([chain.record, chain.readableBytes]).toEqual([NO_RECORD, 16]);
  expect(two.device.pop(chain)).toBe(true);
  expect([chain.record === NO_RECORD, chain.readableBytes]).toEqual([false, 32]);
  one.close();
  two.close();
});
