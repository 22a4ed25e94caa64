/**
 * The configuration space and what a driver may change of it (virtio 1.3 §5.2.4, vhost-user GET_CONFIG and SET_CONFIG).
 */
import { deepEqual, equal, ok, rejects } from 'node:assert/strict';
import { maskOf } from '../../src/vhost-user/messages.ts';
import { BlkFeature, BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { MIB, pattern, SECTOR, sameBytes, writeAndReadBack } from './blk-case-helpers.ts';
import type { BlkCase } from './blk-cases.ts';

/** Offset that front-ends which count from the start of the PCI bar ask for. */
const PCI_CONFIG_OFFSET = 0x100;

export const configCases: readonly BlkCase[] = [
  {
    name: 'shows a sane configuration',
    async run(context) {
      const disk = await context.connect();
      const { config } = disk;
      equal(config.capacitySectors * SECTOR, context.target.sizeBytes);
      equal(config.blockSizeBytes, context.target.blockBytes);
      ok(config.segMax >= 1 && config.segMax <= 1022, 'seg_max');
      ok(!disk.hasFeature(BlkFeature.SIZE_MAX) || config.sizeMax > 0, 'size_max is never 0 when offered');
      ok(config.queueCount >= context.target.queues, 'num_queues');
      ok(config.maxWriteZeroesSectors > 0 && config.maxWriteZeroesSegments > 0, 'write zeroes limits');
      ok(config.maxDiscardSectors > 0 && config.maxDiscardSegments > 0, 'discard limits');
      ok(config.discardSectorAlignment > 0, 'discard alignment');
      ok(config.optIoSizeBlocks === 0 || config.optIoSizeBlocks >= config.minIoSizeBlocks, 'optimal I/O size');
      deepEqual([config.unused0, config.unused1, config.unused2], [0, 0, 0]);
    },
  },
  {
    name: 'answers GET_CONFIG with as many bytes as asked, from the offset asked',
    async run(context) {
      const { frontend } = await context.connect();
      const whole = await frontend.getConfig(0, 60);
      for (const [offset, size] of [
        [0, 8],
        [0, 24],
        [8, 4],
        [20, 4],
        [32, 1],
        [34, 2],
        [36, 24],
        [59, 1],
      ] as const) {
        const part = await frontend.getConfig(offset, size);
        deepEqual([offset, size, part], [offset, size, whole.slice(offset, offset + size)]);
      }
    },
  },
  {
    name: 'answers GET_CONFIG past its own fields with zeroes',
    async run(context) {
      const { frontend } = await context.connect();
      const whole = await frontend.getConfig(0, 60);
      for (const size of [72, 96, 128, 256]) {
        const more = await frontend.getConfig(0, size);
        deepEqual(more.slice(0, 60), whole);
        ok(
          more.slice(96).every((byte) => byte === 0),
          `${size} bytes`,
        );
      }
      deepEqual(await frontend.getConfig(200, 8), new Uint8Array(8));
    },
  },
  {
    name: 'understands front-ends that count offsets from 0x100',
    async run(context) {
      const { frontend } = await context.connect();
      deepEqual(await frontend.getConfig(PCI_CONFIG_OFFSET, 60), await frontend.getConfig(0, 60));
    },
  },
  {
    name: 'lets the driver switch the write cache by the writeback field',
    async run(context) {
      const disk = await context.connect();
      ok(disk.hasFeature(BlkFeature.CONFIG_WCE));
      for (const isWriteback of [false, true, false, true]) {
        await disk.setWriteback(isWriteback);
        equal(disk.config.writeback, isWriteback ? 1 : 0);
        await writeAndReadBack(disk, 0, pattern(4096, isWriteback ? 1 : 2));
        await disk.flush();
      }
    },
  },
  {
    name: 'starts with its write cache off when CONFIG_WCE was acked without FLUSH',
    async run(context) {
      const features = maskOf(VirtioFeature.VERSION_1, BlkFeature.CONFIG_WCE);
      const disk = await context.connect({ features });
      equal((await disk.readConfig()).writeback, 0);
    },
  },
  {
    name: 'lets the driver change nothing else of the configuration',
    async run(context) {
      const disk = await context.connect();
      const before = await disk.frontend.getConfig(0, 60);
      for (const [offset, size] of [
        [0, 8],
        [20, 4],
        [34, 2],
        [31, 2],
        [32, 2],
        [33, 1],
        [0, 60],
      ] as const) {
        await rejects(disk.frontend.setConfig(offset, new Uint8Array(size).fill(1)), `offset ${offset}, ${size} bytes`);
        deepEqual(await disk.frontend.getConfig(0, 60), before, `offset ${offset}, ${size} bytes`);
      }
      await writeAndReadBack(disk, 0, pattern(SECTOR));
    },
  },
  {
    name: 'tells the driver of a new size, and serves it',
    async run(context) {
      const disk = await context.connect();
      const { sizeBytes } = context.target;
      const end = sizeBytes / SECTOR;
      await disk.write(end - 8, pattern(4096, 1));
      const beyond = { type: BlkRequestType.IN, sector: end, inBytes: 4096 };
      equal((await disk.request(beyond)).status, BlkStatus.IOERR);
      const announced = disk.nextConfigChange();
      await context.target.resize(sizeBytes + 32 * MIB);
      equal((await announced).capacitySectors, (sizeBytes + 32 * MIB) / SECTOR);
      equal((await disk.request(beyond)).status, BlkStatus.OK);
      await writeAndReadBack(disk, disk.config.capacitySectors - 8, pattern(4096, 2));
      sameBytes(await disk.read(end - 8, 4096), pattern(4096, 1), 'what was there before');
    },
  },
];
