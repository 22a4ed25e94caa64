/** A chain that was gathered with its round is the one that the ring reads by itself, whatever the guest wrote. */
import * as fc from 'fast-check';
import { afterAll, expect, it } from 'vitest';
import { RIG_GUEST_ADDRESS } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { BUFFER_WORDS, BufferWord, RECORDS, RecordWord } from '../sys/chain-gather.ts';
import { Chain, NO_RECORD, RingFault } from './chain.ts';
import type { SplitRing } from './split-ring.ts';

const SIZE = 8;
const REGION_BYTES = 64 * 1024;
/** Two regions that touch, and a hole behind them. The ring lies at the start of the first. */
const SECOND = RIG_GUEST_ADDRESS + REGION_BYTES;
const TABLES = RIG_GUEST_ADDRESS + 4096;
const TABLE_BYTES = 16 * SIZE;
const [NEXT, WRITE, INDIRECT] = [1, 2, 4];

const rig = new RingRig({
  size: SIZE,
  regions: [
    { guestAddress: RIG_GUEST_ADDRESS, sizeBytes: REGION_BYTES },
    { guestAddress: SECOND, sizeBytes: REGION_BYTES },
  ],
});
afterAll(() => rig.close());

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

/** Writes the chain as the guest would, with its head at 0. */
function write({ buffers, readable, odd, place, link, isIndirect, tableOffset, tableLength }: Table): void {
  const bytes = new Uint8Array(TABLE_BYTES);
  const view = new DataView(bytes.buffer);
  buffers.forEach(({ address, length }, i) => {
    const flags = (i < buffers.length - 1 ? NEXT : 0) | (i < readable ? 0 : WRITE);
    view.setBigUint64(16 * i, BigInt(address), true);
    view.setUint32(16 * i + 8, length, true);
    view.setUint16(16 * i + 12, i === place ? flags ^ odd : flags, true);
    view.setUint16(16 * i + 14, i === place && link >= 0 ? link : i + 1, true);
  });
  if (!isIndirect) {
    rig.memory.write(rig.driver.descriptorAddress, bytes);
    return;
  }
  rig.memory.write(TABLES + tableOffset, bytes);
  const length = tableLength < 0 ? 16 * buffers.length : tableLength;
  rig.driver.writeDescriptor(0, TABLES + tableOffset, length, INDIRECT | (odd & NEXT), 0);
}

/** What a ring that starts here makes of two chains, both with head 0 or 1, and of their buffers. */
function take(ring: SplitRing, isGathered: boolean) {
  if (isGathered) ring.look();
  const chain = new Chain();
  const isTaken = ring.pop(chain);
  const { record } = chain;
  const result = { isTaken, fault: ring.fault, ...summary(chain, isTaken) };
  if (record !== NO_RECORD && isTaken) expectPlaces(chain, record);
  return { result, hasRecord: isTaken && record !== NO_RECORD };
}

function summary(chain: Chain, isTaken: boolean) {
  if (!isTaken) return null;
  const { head, count, readableCount, readableBytes, writableBytes } = chain;
  const [addresses, lengths] = [[...chain.addresses.slice(0, count)], [...chain.lengths.slice(0, count)]];
  return { head, count, readableCount, readableBytes, writableBytes, addresses, lengths };
}

/** What the record says of the places is what the memory says, and its header is the guest's. */
function expectPlaces(chain: Chain, record: number): void {
  for (let i = 0; i < chain.count; i++) {
    const at = record + RecordWord.buffers + i * BUFFER_WORDS;
    const word = (field: number): number => (RECORDS[at + field] as number) >>> 0;
    const window = rig.guest.locate(chain.addresses, i, 0, chain.lengths[i] as number);
    expect(window).not.toBeNull();
    expect(window).toBe(rig.guest.window(word(BufferWord.window)));
    const host = word(BufferWord.hostHigh) * 2 ** 32 + word(BufferWord.hostLow);
    expect(host - (window?.hostAddress ?? 0)).toBe(rig.guest.offset);
  }
  if (chain.readableCount === 0) return;
  const header = new Uint32Array(4);
  rig.guest.read(chain.addresses, 0, 0, new Uint8Array(header.buffer), 0, 16);
  const { header0, header2, header3 } = RecordWord;
  const words = [header0, header2, header3].map((field) => (RECORDS[record + field] as number) >>> 0);
  expect(words).toEqual([header[0], header[2], header[3]]);
}

it('a gathered chain is the one that is read alone, and so is what is wrong with it', () => {
  let gathered = 0;
  let faults = 0;
  rig.driver.expose(0);
  rig.driver.expose(1);
  rig.driver.publish();
  fc.assert(
    fc.property(table, (chain) => {
      write(chain);
      const alone = rig.startDevice(0);
      const together = rig.startDevice(0);
      const expected = take(alone, false);
      const got = take(together, true);
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
