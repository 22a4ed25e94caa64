/** Where buffers lie: memory regions, their borders and gaps, 1 GiB windows, indirect tables, long chains. */
import { deepEqual, equal, ok } from 'node:assert/strict';
import type { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { DescriptorFlag } from '../../src/initiator/driver-ring.ts';
import { STORAGE_PROTOCOL_FEATURES } from '../../src/initiator/frontend-session.ts';
import { OwnedMemory, type OwnedRegionOptions } from '../../src/initiator/owned-memory.ts';
import { ProtocolFeature } from '../../src/vhost-user/messages.ts';
import { BLK_HEADER_BYTES, BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { KIB, MIB, pattern, repeat, SECTOR, sameBytes } from './blk-case-helpers.ts';
import type { BlkCase } from './blk-cases.ts';

const GIB = 1024 * MIB;
const WITHOUT_SLOTS = STORAGE_PROTOCOL_FEATURES & ~(1n << BigInt(ProtocolFeature.CONFIGURE_MEM_SLOTS));

/** Rings in the first region, then two regions that touch at `border`. */
const ADJACENT: readonly OwnedRegionOptions[] = [
  { guestAddress: 0, sizeBytes: 16 * MIB },
  { guestAddress: 64 * MIB, sizeBytes: 4 * MIB },
  { guestAddress: 68 * MIB, sizeBytes: 4 * MIB },
];
const BORDER = 68 * MIB;

/** Writes and reads 64 KiB with the data at `gpa`. */
async function useBuffer(disk: BlkInitiator, gpa: number, seed: number): Promise<void> {
  const data = pattern(64 * KIB, seed);
  const place = (lengthBytes: number): number => (lengthBytes === data.length ? gpa : disk.memory.allocate(16));
  await disk.write(seed * 128, data, { place });
  disk.memory.write(gpa, new Uint8Array(data.length));
  sameBytes(await disk.read(seed * 128, data.length, { place }), data, `buffer at 0x${gpa.toString(16)}`);
}

function readHeader(sector: number): Uint8Array {
  const header = new Uint8Array(BLK_HEADER_BYTES);
  header[0] = BlkRequestType.IN;
  header[8] = sector;
  return header;
}

function regionsWithGaps(count: number): OwnedRegionOptions[] {
  const more = Array.from({ length: count - 1 }, (_, i) => ({
    guestAddress: GIB + i * 32 * MIB,
    sizeBytes: (1 + (i % 3)) * MIB,
  }));
  return [{ guestAddress: 0, sizeBytes: 16 * MIB }, ...more];
}

export const bufferCases: readonly BlkCase[] = [
  {
    name: 'uses buffers that cross from one memory region into the next',
    options: { memory: ADJACENT },
    async run(context) {
      const disk = await context.connect();
      for (const [i, before] of [1, 7, 512, 4096, 65535].entries()) await useBuffer(disk, BORDER - before, i + 1);
    },
  },
  {
    name: 'uses a header that crosses a region border',
    options: { memory: ADJACENT },
    async run(context) {
      const disk = await context.connect();
      for (const before of [1, 8, 15, 16]) {
        const place = (lengthBytes: number): number =>
          lengthBytes === BLK_HEADER_BYTES ? BORDER - before : disk.memory.allocate(lengthBytes);
        const data = pattern(SECTOR, before);
        await disk.write(before, data, { place });
        sameBytes(await disk.read(before, SECTOR, { place }), data, `header ${before} bytes before the border`);
      }
    },
  },
  {
    name: 'uses a status byte next to a region border',
    options: { memory: ADJACENT },
    async run(context) {
      const disk = await context.connect();
      const data = pattern(SECTOR, 3);
      await disk.write(8, data);
      for (const statusAt of [BORDER - 1, BORDER]) {
        const place = (lengthBytes: number): number =>
          lengthBytes === 1 ? statusAt : disk.memory.allocate(lengthBytes);
        sameBytes(await disk.read(8, SECTOR, { place }), data, `status at ${statusAt}`);
        const whole = (lengthBytes: number): number =>
          lengthBytes === SECTOR + 1 ? statusAt - SECTOR : disk.memory.allocate(lengthBytes);
        sameBytes(await disk.read(8, SECTOR, { place: whole, writable: [SECTOR + 1] }), data, `status in ${statusAt}`);
      }
    },
  },
  {
    name: 'uses an indirect table that crosses a region border',
    options: { memory: ADJACENT },
    async run(context) {
      const disk = await context.connect();
      const data = pattern(SECTOR, 4);
      await disk.write(8, data);
      const { ring } = disk.queue(0);
      const header = disk.memory.allocate(16);
      disk.memory.write(header, readHeader(8));
      const buffer = disk.memory.allocate(SECTOR + 1);
      const segments = [
        { gpa: header, lengthBytes: BLK_HEADER_BYTES, isWritable: false },
        { gpa: buffer, lengthBytes: SECTOR + 1, isWritable: true },
      ];
      for (const before of [16, 8, 1]) {
        disk.memory.write(buffer, new Uint8Array(SECTOR + 1).fill(0xff));
        const head = ring.addIndirect(segments, BORDER - before);
        await disk.queue(0).submit(head, disk.session.timeoutMs);
        equal(disk.memory.bytes(buffer + SECTOR, 1)[0], BlkStatus.OK);
        sameBytes(disk.memory.read(buffer, SECTOR), data, `table ${before} bytes before the border`);
      }
    },
  },
  {
    name: 'uses 8 regions with gaps, given in one memory table',
    options: { memory: regionsWithGaps(8), protocolFeatures: WITHOUT_SLOTS },
    async run(context) {
      const disk = await context.connect();
      for (const [i, region] of disk.memory.regions.slice(1).entries()) {
        await useBuffer(disk, region.guestAddress, i + 1);
        await useBuffer(disk, region.guestAddress + region.sizeBytes - 64 * KIB, i + 20);
      }
    },
  },
  {
    name: 'uses 24 regions, added one by one',
    options: { memory: regionsWithGaps(24) },
    async run(context) {
      const disk = await context.connect();
      ok(disk.session.memSlotsMax >= 24);
      for (const [i, region] of disk.memory.regions.slice(1).entries())
        await useBuffer(disk, region.guestAddress, i + 1);
    },
  },
  {
    name: 'uses regions that are parts of one file, as QEMU has memory below and above 4 GiB',
    async run(context) {
      const memory = OwnedMemory.single(16 * MIB, 0);
      const [low] = memory.regions;
      ok(low);
      memory.add({ guestAddress: 4 * GIB, sizeBytes: 16 * MIB, sameFileAs: low, mmapOffset: 16 * MIB });
      try {
        const disk = await context.connect({ memory });
        await useBuffer(disk, 8 * MIB, 1);
        await useBuffer(disk, 4 * GIB, 2);
        await useBuffer(disk, 4 * GIB + 16 * MIB - 64 * KIB, 3);
        disk.close();
      } finally {
        memory.close();
      }
    },
  },
  {
    name: 'uses every part of a region of several GiB',
    options: { memory: [{ guestAddress: 2 ** 40, sizeBytes: 5 * GIB }] },
    async run(context) {
      const disk = await context.connect();
      const start = 2 ** 40;
      const offsets = [GIB - 100, GIB, 2 * GIB - 4096, 2 * GIB, 3 * GIB - 1, 4 * GIB - 32 * KIB, 5 * GIB - 64 * KIB];
      for (const [i, offset] of offsets.entries()) await useBuffer(disk, start + offset, i + 1);
    },
  },
  {
    name: 'uses memory at guest physical address 0',
    options: { memory: [{ guestAddress: 0, sizeBytes: 16 * MIB }] },
    async run(context) {
      const disk = await context.connect();
      equal(disk.memory.userAddressOf(0), disk.memory.regions[0]?.userAddress);
      await useBuffer(disk, 4 * MIB, 1);
    },
  },
  {
    name: 'takes the same requests by indirect tables',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(64 * SECTOR, 5);
      const readable = [8, 8, 100, ...repeat(SECTOR, 63), SECTOR - 100];
      await disk.write(0, data, { isIndirect: true, readable });
      sameBytes(await disk.read(0, data.length), data, 'written by a table');
      const writable = [...repeat(SECTOR, 64), 1];
      sameBytes(await disk.read(0, data.length, { isIndirect: true, writable }), data, 'read by a table');
      await disk.flush({ isIndirect: true });
      equal(await disk.getId({ isIndirect: true }), context.target.serial);
    },
  },
  {
    name: 'takes a chain whose last descriptor is an indirect table',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(SECTOR, 6);
      await disk.write(5, data);
      const { ring } = disk.queue(0);
      const control = disk.memory.allocate(64);
      const buffer = disk.memory.allocate(SECTOR + 1);
      disk.memory.write(control, readHeader(5));
      const inner = [
        { gpa: buffer, lengthBytes: SECTOR, isWritable: true },
        { gpa: buffer + SECTOR, lengthBytes: 1, isWritable: true },
      ];
      const tail = ring.addIndirect(inner, control + 16);
      const head = ring.takeDescriptor();
      ring.writeDescriptor(head, control, BLK_HEADER_BYTES, DescriptorFlag.next, tail);
      await disk.queue(0).submit(head, disk.session.timeoutMs);
      equal(disk.memory.bytes(buffer + SECTOR, 1)[0], BlkStatus.OK);
      sameBytes(disk.memory.read(buffer, SECTOR), data, 'read');
    },
  },
  {
    name: 'ignores the write flag of the descriptor that refers to an indirect table',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(SECTOR, 7);
      await disk.write(9, data);
      const { ring } = disk.queue(0);
      const control = disk.memory.allocate(128);
      const buffer = disk.memory.allocate(SECTOR + 1);
      disk.memory.write(control, readHeader(9));
      const segments = [
        { gpa: control, lengthBytes: BLK_HEADER_BYTES, isWritable: false },
        { gpa: buffer, lengthBytes: SECTOR + 1, isWritable: true },
      ];
      const head = ring.addIndirect(segments, control + 16);
      ring.writeDescriptor(head, control + 16, 32, DescriptorFlag.indirect | DescriptorFlag.write, 0);
      await disk.queue(0).submit(head, disk.session.timeoutMs);
      sameBytes(disk.memory.read(buffer, SECTOR), data, 'read');
    },
  },
  {
    name: 'takes chains of 256 direct descriptors',
    options: { queueSize: 256 },
    async run(context) {
      const disk = await context.connect();
      const data = pattern(254 * SECTOR, 8);
      await disk.write(3, data, { readable: [16, ...repeat(SECTOR, 254)] });
      sameBytes(await disk.read(3, data.length, { writable: [...repeat(SECTOR, 254), 1] }), data, '254 parts');
      const odd = [16, ...repeat(509, 250), data.length - 250 * 509];
      await disk.write(3, data, { readable: odd });
      sameBytes(await disk.read(3, data.length), data, 'odd parts');
    },
  },
  {
    name: 'takes chains of 515 and 1024 descriptors, as Windows makes them',
    options: { queueSize: 1024 },
    async run(context) {
      const disk = await context.connect();
      const data = pattern(1022 * SECTOR, 9);
      await disk.write(0, data, { readable: [16, ...repeat(SECTOR, 1022)] });
      sameBytes(await disk.read(0, data.length, { writable: [...repeat(SECTOR, 1022), 1] }), data, '1024 direct');
      const part = data.subarray(0, 513 * SECTOR);
      const writable = [...repeat(SECTOR, 513), 1];
      sameBytes(await disk.read(0, part.length, { isIndirect: true, writable }), part, '515 indirect');
    },
  },
  {
    name: 'takes an indirect table longer than the ring',
    options: { queueSize: 16 },
    async run(context) {
      const disk = await context.connect();
      const data = pattern(128 * SECTOR, 10);
      await disk.write(0, data, { isIndirect: true, readable: [16, ...repeat(SECTOR, 128)] });
      const writable = [...repeat(SECTOR, 128), 1];
      sameBytes(await disk.read(0, data.length, { isIndirect: true, writable }), data, '130 in a ring of 16');
    },
  },
  {
    name: 'takes memory added while it runs, and does without it when it is removed',
    async run(context) {
      const disk = await context.connect();
      ok(disk.session.hasProtocolFeature('CONFIGURE_MEM_SLOTS'));
      for (let round = 0; round < 5; round++) {
        const region = disk.memory.add({ guestAddress: 64 * GIB + round * GIB, sizeBytes: 2 * MIB });
        await disk.session.shareMemory();
        await useBuffer(disk, region.guestAddress + MIB, round + 1);
        disk.memory.remove(region);
        await disk.session.shareMemory();
        await useBuffer(disk, disk.memory.allocate(64 * KIB), round + 30);
      }
      deepEqual(disk.memory.regions.length, 1);
    },
  },
];
