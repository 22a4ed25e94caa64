/** Fetching ahead is a hint: whatever a guest puts into its ring, nothing is written, and nothing outside is read. */
import * as fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { ChainGather } from './chain-gather.ts';
import { Mapping, MappingViews } from './mapping.ts';

const PAGE = 4096;
const SIZE = 16;
const GUEST = 2 ** 32;
/** Entries of the available ring behind the descriptor table; the rest is for tables and buffers. */
const ENTRIES = SIZE * 16;

const mapping = Mapping.anonymous(PAGE);
const views = new MappingViews();
const bytes = new Uint8Array(views.view(mapping, 0, PAGE));
const data = new DataView(bytes.buffer);
const windows = [{ start: GUEST, end: GUEST + PAGE, hostAddress: mapping.address }];
const open = () => ChainGather.ofSplit(mapping.address, mapping.address + ENTRIES, SIZE, windows);

afterAll(() => {
  views.close();
  mapping.close();
});

const address = fc.oneof(
  fc.nat(PAGE).map((offset) => BigInt(GUEST + offset)),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const descriptor = fc.record({
  address,
  length: fc.oneof(fc.nat(600), fc.constantFrom(16, 32, 2 ** 32 - 1), fc.nat(2 ** 32 - 1)),
  flags: fc.nat(7),
  next: fc.oneof(fc.nat(SIZE), fc.nat(0xffff)),
});

describe('fetching chains ahead', () => {
  it('changes nothing, whatever the ring says', () => {
    const gather = open();
    const descriptors = fc.array(descriptor, { minLength: PAGE / 16, maxLength: PAGE / 16 });
    fc.assert(
      fc.property(descriptors, fc.nat(0xffff), fc.nat(300), fc.array(fc.nat(0xffff)), (table, first, count, heads) => {
        table.forEach((entry, i) => {
          data.setBigUint64(16 * i, entry.address, true);
          data.setUint32(16 * i + 8, entry.length, true);
          data.setUint16(16 * i + 12, entry.flags, true);
          data.setUint16(16 * i + 14, entry.next, true);
        });
        heads.slice(0, SIZE).forEach((head, i) => {
          data.setUint16(ENTRIES + 2 * i, head, true);
        });
        const before = bytes.slice();
        gather.run(first, count);
        expect(Buffer.compare(bytes, before)).toBe(0);
      }),
    );
    gather.close();
  });

  it('may be closed twice, and refuses to go on', () => {
    const gather = open();
    gather.close();
    gather.close();
    expect(() => gather.run(0, 1)).toThrow('no such ring');
  });

  it('refuses a ring that cannot be', () => {
    expect(() => ChainGather.ofSplit(0, mapping.address, SIZE, windows)).toThrow(TypeError);
    expect(() => ChainGather.ofSplit(mapping.address, mapping.address, 15, windows)).toThrow(TypeError);
    expect(() => ChainGather.ofSplit(mapping.address, mapping.address, 65_536, windows)).toThrow(TypeError);
  });
});
