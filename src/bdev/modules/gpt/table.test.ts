/** Partition tables that are right, damaged, and made to deceive. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type GptEntry,
  type GptImageParams,
  gptImage,
  LINUX_TYPE,
  sealHeader,
} from '../../../../test/support/gpt-image.ts';
import { type PartitionTable, readPartitionTable } from './table.ts';

const BLOCKS = 256;
const guid = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const entry = (n: number, first: number, last: number, parts: Partial<GptEntry> = {}): GptEntry => {
  return { type: LINUX_TYPE, guid: guid(n), first, last, ...parts };
};
const ENTRIES = [entry(1, 40, 79, { name: 'höme' }), entry(2, 80, 200)];

function read(image: Buffer, blockBytes = 512): Promise<PartitionTable> {
  const blocks = image.length / blockBytes;
  const reader = async (first: number, count: number): Promise<Buffer> => {
    if (first + count > blocks) throw new Error(`blocks ${first} to ${first + count - 1} are not there`);
    return image.subarray(first * blockBytes, (first + count) * blockBytes);
  };
  return readPartitionTable(reader, blockBytes, blocks);
}

const fromImage = (params: Partial<GptImageParams>): Promise<PartitionTable> =>
  read(gptImage({ entries: ENTRIES, ...params }), params.blockBytes);

describe('a partition table', () => {
  it.each([512, 4096])('says where the partitions are, in blocks of %i bytes', async (blockBytes) => {
    expect(await fromImage({ blockBytes })).toEqual({
      diskGuid: '01020304-0506-0708-090a-0b0c0d0e0f10',
      primaryFault: null,
      partitions: [
        { number: 1, firstBlock: 40, blockCount: 40, typeGuid: LINUX_TYPE, guid: guid(1), name: 'höme' },
        { number: 2, firstBlock: 80, blockCount: 121, typeGuid: LINUX_TYPE, guid: guid(2), name: '' },
      ],
    });
  });

  it('numbers partitions by their places in it, not by where they are', async () => {
    const unused = { type: guid(0).replaceAll(/[48]/g, '0'), guid: guid(0), first: 0, last: 0 };
    const { partitions } = await fromImage({ entries: [unused, entry(1, 100, 110), entry(2, 40, 50)] });
    expect(partitions.map(({ number, firstBlock }) => [number, firstBlock])).toEqual([
      [2, 100],
      [3, 40],
    ]);
  });

  it('has partitions of the old type of SPDK one block shorter, as SPDK has them', async () => {
    const old = '7c5222bd-8f5d-4087-9c00-bf9843c7b58c';
    const { partitions } = await fromImage({ entries: [entry(1, 40, 79, { type: old }), entry(2, 80, 80)] });
    expect(partitions.map(({ blockCount }) => blockCount)).toEqual([39, 1]);
  });

  it('is taken from the backup at the end of the disk when the first copy is damaged, and says so', async () => {
    const image = gptImage({ entries: ENTRIES });
    const intact = await read(image);
    for (const [at, fault] of [
      [512, 'there is none'],
      [512 + 40, 'the checksum of its header is wrong'],
      [1024 + 32, 'the checksum of its partitions is wrong'],
    ] as const) {
      const damaged = Buffer.from(image);
      damaged[at] = (damaged[at] as number) ^ 0x40;
      expect(await read(damaged)).toEqual({ ...intact, primaryFault: fault });
    }
  });

  it.each<[string, Partial<GptImageParams>, RegExp]>([
    ['that is for another block', { fields: { ownBlock: 2 } }, /it is for block 2, but is in block 1/],
    ['with a header longer than a block', { fields: { bytes: 513 } }, /header is of 513 bytes/],
    ['with a header too short', { fields: { bytes: 91 } }, /header is of 91 bytes/],
    ['with four thousand million entries', { fields: { entryCount: 0xffff_ffff } }, /it has 4294967295 entries/],
    ['with no entries', { fields: { entryCount: 0 } }, /it has 0 entries/],
    ['with entries that are too small', { fields: { entryBytes: 64 } }, /entries are of 64 bytes/],
    ['with entries of an odd size', { fields: { entryBytes: 192 } }, /entries are of 192 bytes/],
    ['with entries that are huge', { fields: { entryBytes: 2 ** 31 } }, /entries are of 2147483648 bytes/],
    ['with entries behind the end', { fields: { entriesBlock: 2 ** 50 } }, /entries are in blocks 1125899906842624/],
    ['with entries among the partitions', { fields: { entriesBlock: 100 } }, /entries are in blocks 100 to 131/],
    [
      'with entries over its header',
      { backup: { entriesBlock: BLOCKS - 32 }, primary: { bytes: 1 } },
      /entries are where its header is/,
    ],
    ['with no room for partitions', { fields: { firstUsable: 100, lastUsable: 99 } }, /blocks 100 to 99/],
    ['larger than the disk', { fields: { lastUsable: BLOCKS } }, /blocks 34 to 256, of 256/],
    [
      'with a partition that ends before it starts',
      { entries: [entry(1, 60, 50)] },
      /partition 1 is in blocks 60 to 50/,
    ],
    ['with a partition over the table', { entries: [entry(1, 33, 50)] }, /partition 1 is in blocks 33/],
    ['with a partition over the backup', { entries: [entry(1, 60, 223)] }, /partition 1 is in blocks 60 to 223/],
    ['with partitions that overlap', { entries: [entry(1, 60, 80), entry(2, 40, 60)] }, /partitions 2 and 1 overlap/],
    ['with partitions of one GUID', { entries: [entry(7, 60, 80), entry(7, 81, 90)] }, /1 and 2 have the same GUID/],
  ])('%s is refused, with what is wrong', async (_, params, message) => {
    await expect(fromImage(params)).rejects.toThrow(message);
    await expect(fromImage(params)).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('is not looked for behind an MBR of another kind, or on a blank disk, or on one that is tiny', async () => {
    const image = gptImage({ entries: ENTRIES });
    image[446 + 4] = 0x83;
    await expect(read(image)).rejects.toThrow(/an MBR partition table only/);
    await expect(read(Buffer.alloc(BLOCKS * 512))).rejects.toThrow(/no partition table: make a GPT/);
    await expect(read(Buffer.alloc(5 * 512))).rejects.toThrow(/too small/);
  });

  it('gives partitions inside the disk and apart from one another, or none, whatever is in it', async () => {
    let tables = 0;
    const value = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
    const change = fc.tuple(fc.integer({ min: 0, max: 23 }), value);
    const random = fc.record({
      header: fc.array(change, { maxLength: 3 }),
      entries: fc.array(fc.tuple(fc.integer({ min: 34, max: 223 }), fc.integer({ min: 0, max: 40 })), { maxLength: 6 }),
    });
    await fc.assert(
      fc.asyncProperty(random, async ({ header, entries }) => {
        const image = gptImage({ entries: entries.map(([first, more], i) => entry(i, first, first + more)) });
        for (const block of [1, BLOCKS - 1]) {
          const bytes = image.subarray(block * 512, (block + 1) * 512);
          for (const [word, number] of header) bytes.writeUInt32LE(number, word * 4);
          if (bytes.readUInt32LE(12) <= 512) sealHeader(bytes);
        }
        let table: PartitionTable;
        try {
          table = await read(image);
        } catch (error) {
          expect(error).toMatchObject({ code: 'EINVAL' });
          return;
        }
        tables++;
        let end = 2;
        for (const { firstBlock, blockCount } of table.partitions.toSorted((a, b) => a.firstBlock - b.firstBlock)) {
          expect(firstBlock).toBeGreaterThanOrEqual(end);
          expect(blockCount).toBeGreaterThan(0);
          end = firstBlock + blockCount;
        }
        expect(end).toBeLessThan(BLOCKS);
      }),
      { numRuns: 400 },
    );
    expect(tables).toBeGreaterThan(20);
  });
});
