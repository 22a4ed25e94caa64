/** What a front-end may map here, and what it may not. */

import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { memoryTable, SessionRig, singleRegion } from '../../test/support/session-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { MEMORY_SLOTS_MAX } from '../base/limits.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { closeFd, createEventFd } from '../sys/events.ts';
import { createMemoryFile, MappingViews, truncateFile } from '../sys/mapping.ts';
import { MemoryTable, type RegionDescription } from './memory-table.ts';
import { MEMORY_TABLE_REGIONS_MAX, MemoryTableHead } from './messages.ts';
import { isMappedPrivately } from './sharing.ts';

const PAGE = 4096;
const MIB = 1 << 20;
const TABLE_BYTES = 16 * PAGE;

let table: MemoryTable;
let fdsBefore = 0;

beforeEach(async () => {
  await turns();
  fdsBefore = openFdCount();
  table = new MemoryTable();
});

afterEach(async () => {
  table.clear();
  await until(() => openFdCount() === fdsBefore, 'end without a descriptor left over');
}, 30_000);

function region(parts: Partial<RegionDescription> = {}): RegionDescription {
  return { guestAddress: 0x1000_0000, sizeBytes: TABLE_BYTES, userAddress: 0x7f00_0000_0000, mmapOffset: 0, ...parts };
}

const file = (sizeBytes = TABLE_BYTES): number => createMemoryFile('test', sizeBytes);

/** Bytes of the host's memory. */
function peek(hostAddress: number, length: number): { bytes: Uint8Array; close: () => void } {
  const views = new MappingViews();
  const bytes = new Uint8Array(views.view({ address: hostAddress, lengthBytes: length }, 0, length));
  return { bytes, close: () => views.close() };
}

describe('a region', () => {
  it('is the memory that the front-end shares, at its offset, whose descriptor it keeps for its successor', () => {
    const memory = new OwnedMemory([{ guestAddress: 0, sizeBytes: 4 * PAGE, mmapOffset: 8 * PAGE }]);
    const [shared] = memory.regions;
    assert(shared !== undefined);
    const copy = openSync(`/proc/self/fd/${shared.fd}`, 'r+');
    const before = openFdCount();
    table.add(shared, copy);
    expect(openFdCount()).toBe(before);
    shared.bytes.set([1, 2, 3], 100);
    const [info] = table.regions;
    assert(info !== undefined);
    const { bytes, close } = peek(info.hostAddress + 100, 4);
    expect([...bytes]).toEqual([1, 2, 3, 0]);
    bytes[3] = 4;
    expect(shared.bytes[103]).toBe(4);
    close();
    expect(info).toMatchObject({ guestAddress: 0, sizeBytes: 4 * PAGE, userAddress: shared.userAddress });
    expect([table.count, table.totalBytes, table.wasTruncated]).toEqual([1, 4 * PAGE, false]);
    table.clear();
    expect(openFdCount()).toBe(before - 1);
    memory.close();
  });

  it('may start at any byte of its file, and be of any size', () => {
    table.add(region({ mmapOffset: 4097, sizeBytes: 777 }), file(PAGE + 1 + 777));
    const [info] = table.regions;
    expect((info?.hostAddress as number) % PAGE).toBe(1);
    const { bytes, close } = peek(info?.hostAddress as number, 777);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    close();
  });

  it('may touch others', () => {
    table.add(region(), file());
    table.add(region({ guestAddress: 0x1000_0000 + TABLE_BYTES }), file());
    table.add(region({ guestAddress: 0x1000_0000 - TABLE_BYTES }), file());
    expect(table.count).toBe(3);
  });

  it.each<readonly [string, Partial<RegionDescription>]>([
    ['the same addresses', {}],
    ['its start inside', { guestAddress: 0x1000_0000 + TABLE_BYTES - 1 }],
    ['its end inside', { guestAddress: 0x1000_0000 - TABLE_BYTES + 1 }],
    ['all of it inside', { guestAddress: 0x1000_0000 + PAGE, sizeBytes: PAGE }],
    ['another all around it', { guestAddress: 0x1000_0000 - PAGE, sizeBytes: TABLE_BYTES + 2 * PAGE }],
  ])('may not overlap another with %s', (_, parts) => {
    table.add(region(), file());
    expect(() => table.add(region(parts), file(2 * TABLE_BYTES))).toThrow(/overlaps 0x10000000\+0x10000/);
    expect(table.count).toBe(1);
  });

  it.each<readonly [string, Partial<RegionDescription>]>([
    ['no bytes', { sizeBytes: 0 }],
    ['more bytes than its file', { sizeBytes: TABLE_BYTES + 1 }],
    ['an offset past its file', { mmapOffset: TABLE_BYTES }],
    ['an offset and size past its file', { mmapOffset: 1 }],
    ['a guest address that overflows', { guestAddress: Number.MAX_SAFE_INTEGER - PAGE }],
    ['a guest address beyond 2^53', { guestAddress: 2 ** 63 }],
    ['a front-end address that overflows', { userAddress: Number.MAX_SAFE_INTEGER - PAGE }],
    ['an offset that overflows', { mmapOffset: 2 ** 64 - 1024 }],
    ['an offset that wraps to 0 with the size', { mmapOffset: 2 ** 64 - TABLE_BYTES }],
    ['a size beyond 2^53', { sizeBytes: 2 ** 63 }],
    [
      'everything at its largest',
      { guestAddress: 2 ** 64, sizeBytes: 2 ** 64, userAddress: 2 ** 64, mmapOffset: 2 ** 64 },
    ],
  ])('may not have %s', (_, parts) => {
    expect(() => table.add(region(parts), file())).toThrow(expect.objectContaining({ code: 'VHOST_MEM_REGION' }));
    expect(table.count).toBe(0);
  });

  it('may not be something that cannot be mapped', () => {
    const readOnly = openSync(import.meta.filename, 'r');
    expect(() => table.add(region({ sizeBytes: 16 }), readOnly)).toThrow(expect.objectContaining({ code: 'EACCES' }));
    expect(() => table.add(region(), createEventFd())).toThrow(expect.objectContaining({ name: 'TargetError' }));
    expect(() => table.add(region(), openSync('/', 'r'))).toThrow(expect.objectContaining({ name: 'TargetError' }));
    expect(() => table.add(region(), 99_999)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  it('on hugepages is mapped in whole ones', () => {
    // Hugepages are taken from the machine when they are touched, which this test does not do.
    const fd = createMemoryFile('test', 4 * MIB, 2 * MIB);
    table.add(region({ sizeBytes: 2 * MIB + PAGE, mmapOffset: PAGE }), fd);
    expect(table.regions[0]?.hostAddress).toSatisfy((address: number) => address % (2 * MIB) === PAGE);
  });

  it('beyond the last slot is refused', () => {
    const fd = file(PAGE);
    for (let i = 0; i < MEMORY_SLOTS_MAX; i++) {
      table.add(region({ guestAddress: i * PAGE, sizeBytes: PAGE }), openSync(`/proc/self/fd/${fd}`, 'r+'));
    }
    const one = region({ guestAddress: 2 ** 40, sizeBytes: PAGE });
    expect(() => table.add(one, fd)).toThrow(expect.objectContaining({ code: 'VHOST_MEM_SLOTS' }));
    table.remove(region({ guestAddress: 0, sizeBytes: PAGE }));
    expect(() => table.add(one, file(PAGE))).not.toThrow();
  });
});

describe('removal', () => {
  it('takes the region with exactly these addresses and this size', () => {
    table.add(region(), file());
    table.add(region({ guestAddress: 0 }), file());
    for (const wrong of [{ guestAddress: 1 }, { sizeBytes: PAGE }, { userAddress: 1 }]) {
      expect(table.has(region(wrong))).toBe(false);
      expect(() => table.remove(region(wrong))).toThrow(expect.objectContaining({ code: 'VHOST_MEM_REGION' }));
    }
    // The offset is not part of its name.
    table.remove(region({ mmapOffset: 12345 }));
    expect(table.regions.map(({ guestAddress }) => guestAddress)).toEqual([0]);
    expect(() => table.remove(region())).toThrow();
  });

  it('makes room for another at its place', () => {
    table.add(region(), file());
    table.remove(region());
    table.add(region({ sizeBytes: PAGE }), file());
    table.clear();
    table.add(region(), file());
    expect(table.count).toBe(1);
  });
});

describe('truncation', () => {
  it('is seen once a lost page was touched', () => {
    const fd = file();
    const copy = openSync(`/proc/self/fd/${fd}`, 'r+');
    table.add(region(), fd);
    truncateFile(copy, PAGE);
    closeSync(copy);
    expect(table.wasTruncated).toBe(false);
    const { bytes, close } = peek((table.regions[0]?.hostAddress as number) + 2 * PAGE, 1);
    expect([bytes[0], table.wasTruncated]).toEqual([0, true]);
    close();
  });
});

describe('a front-end that maps its memory privately', () => {
  it('is found out, unless nobody lets us look', () => {
    // The runtime's own program file is mapped privately by every process; a memory file is shared by its nature here.
    const program = openSync('/proc/self/exe', 'r');
    expect(isMappedPrivately(process.pid, program)).toBe(true);
    closeSync(program);
    const memory = OwnedMemory.single(PAGE);
    expect(isMappedPrivately(process.pid, memory.regions[0]?.fd as number)).toBe(false);
    expect(isMappedPrivately(2 ** 30, memory.regions[0]?.fd as number)).toBe(false);
    memory.close();
    expect(isMappedPrivately(process.pid, 99_999)).toBe(false);
  });
});

describe('the messages about memory', () => {
  let rig: SessionRig;
  let memory: OwnedMemory;

  beforeEach(async () => {
    rig = await SessionRig.negotiated();
    memory = new OwnedMemory([0, 1, 2].map((i) => ({ guestAddress: i * MIB, sizeBytes: PAGE * (i + 1) })));
  });

  afterEach(async () => {
    await rig.close();
    memory.close();
  }, 30_000);

  const fdsOf = (): number[] => memory.regions.map(({ fd }) => fd);

  it('map a whole table, and another in its place', async () => {
    await rig.shareMemory(memory);
    expect(rig.session.memory.regions.map(({ sizeBytes }) => sizeBytes)).toEqual([PAGE, 2 * PAGE, 3 * PAGE]);
    const other = OwnedMemory.single(PAGE, 5);
    await rig.shareMemory(other);
    expect(rig.session.memory.regions.map(({ guestAddress }) => guestAddress)).toEqual([5]);
    other.close();
  });

  it('map as many regions as one message holds', async () => {
    for (let i = 3; i < MEMORY_TABLE_REGIONS_MAX; i++) memory.add({ guestAddress: i * MIB, sizeBytes: PAGE });
    await rig.shareMemory(memory);
    expect(rig.session.memory.count).toBe(32);
  });

  it('may be longer than their regions', async () => {
    await rig.accept('SET_MEM_TABLE', Buffer.concat([memoryTable(memory), new Uint8Array(64)]), fdsOf());
    expect(rig.session.memory.count).toBe(3);
  });

  it('are refused with fewer or more descriptors than regions', async () => {
    expect(await rig.refusal('SET_MEM_TABLE', memoryTable(memory), fdsOf().slice(1))).toContain('2 descriptors for 3');
    expect(await rig.refusal('SET_MEM_TABLE', memoryTable(memory), [...fdsOf(), ...fdsOf()])).toContain('6 desc');
    expect(await rig.refusal('SET_MEM_TABLE', memoryTable(memory))).toContain('0 descriptors for 3');
    expect(rig.session.memory.count).toBe(0);
  });

  it('are refused when they do not hold the regions they announce', async () => {
    for (const regionCount of [4, 33, 0xffff_ffff]) {
      const lie = memoryTable(memory);
      MemoryTableHead.encode({ regionCount, padding: 0 }, lie);
      expect(await rig.refusal('SET_MEM_TABLE', lie, fdsOf())).toContain(`do not hold ${regionCount}`);
    }
  });

  it('are refused without a region, with a hint at what QEMU lacks', async () => {
    const empty = MemoryTableHead.encode({ regionCount: 0, padding: 0 });
    expect(await rig.refusal('SET_MEM_TABLE', empty)).toContain('is empty');
    expect(rig.lines.some((line) => line.includes('share=on'))).toBe(true);
  });

  it('add and remove one region, which may come with a descriptor', async () => {
    const added = memory.add({ guestAddress: 2 ** 33, sizeBytes: PAGE });
    await rig.accept('ADD_MEM_REG', singleRegion(added), [added.fd]);
    expect(rig.session.memory.count).toBe(1);
    await rig.accept('REM_MEM_REG', singleRegion(added), [added.fd]);
    expect(rig.session.memory.count).toBe(0);
    expect(await rig.refusal('REM_MEM_REG', singleRegion(added))).toContain('does not exist');
  });

  it('say how many regions there may be', async () => {
    expect(await rig.askU64('GET_MAX_MEM_SLOTS')).toBe(509n);
  });
});

it('closes a descriptor that it was given for nothing', () => {
  const before = openFdCount();
  expect(() => table.add(region({ sizeBytes: 0 }), file())).toThrow();
  expect(openFdCount()).toBe(before);
  closeFd(file());
});
