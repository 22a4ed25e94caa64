/**
 * Disks over files and block devices, served by a daemon: stamped load over blk and scsi, what a restart keeps, what a
 * full file system and a failing device do, resize, and what is refused. What needs loop devices or mounts needs root.
 */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { FileBdev } from '../../src/bdev/modules/file/file.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator, ScsiLoadGenerator } from '../../src/initiator/load-generator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { BlkFeature, BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { whyNoLoopDevices } from '../e2e/requirements.ts';
import { describeConformance } from '../support/bdev-conformance.ts';
import { MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';
import { attentions, write10 } from './scsi-bench.ts';

const BLOCK_BYTES = 4096;
const DISK_BYTES = 32 * MIB;
const DIRECTORY = mkdtempSync(join(import.meta.dirname, '../../build/file-disks-'));
const MEMORY_DIRECTORY = mkdtempSync('/dev/shm/ringhost-file-disks-');
const CORES = ['-m', '0x3'];

afterAll(() => {
  for (const directory of [DIRECTORY, MEMORY_DIRECTORY]) rmSync(directory, { recursive: true });
});

let number = 0;
function fileOf(bytes: number, directory = DIRECTORY): string {
  const path = join(directory, `disk${number++}`);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
}

/** The file itself, a ring, its eventfd: what an open disk has. */
function isOfDisk(pid: number, fd: string): boolean {
  try {
    return /file-disks-|io_uring|eventfd/.test(readlinkSync(`/proc/${pid}/fd/${fd}`));
  } catch {
    return false;
  }
}

async function serveBlk(daemon: RinghostDaemon, name: string, params: Readonly<Record<string, unknown>>) {
  await daemon.rpc.request('bdev_aio_create', { name, ...params });
  await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: name, dev_name: name });
  return join(daemon.directory, name);
}

const LOAD = { depth: 32, blockBytes: BLOCK_BYTES, writePercent: 50, stallMs: 60_000 };

describe.for([
  ['with O_DIRECT where it is taken', DIRECTORY, {}],
  ['in the page cache', DIRECTORY, { direct: false }],
  ['in memory', MEMORY_DIRECTORY, {}],
] as const)('a file %s', ([, directory, params]) => {
  test('holds what was written under load, through blk and through scsi, before and after a restart', async () => {
    const filename = fileOf(DISK_BYTES, directory);
    const stamps = new BlockStamps(DISK_BYTES / BLOCK_BYTES, BLOCK_BYTES, { isZeroed: true });
    const first = await RinghostDaemon.start(CORES);
    const path = await serveBlk(first, 'File0', { filename, ...params });
    const blk = await BlkInitiator.connect(path, { queues: 2 });
    const blkLoad = new BlkLoadGenerator(blk, { ...LOAD, stamps });
    expect(await blkLoad.runAsync({ count: 20_000 })).toMatchObject({ errors: 0, mismatches: 0 });
    blkLoad.close();
    await blk.flush();
    blk.close();
    await first.close();

    const second = await RinghostDaemon.start(CORES);
    await second.rpc.request('bdev_uring_create', { name: 'File0', filename, ...params });
    await second.rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi.0' });
    await second.rpc.call('vhost_scsi_controller_add_target', {
      ctrlr: 'scsi.0',
      scsi_target_num: 0,
      bdev_name: 'File0',
    });
    const scsi = await ScsiInitiator.connect(join(second.directory, 'scsi.0'), { requestQueues: 2 });
    await attentions(scsi, {});
    const disk = { target: 0, lun: 0, sizeBytes: DISK_BYTES, logicalBlockBytes: 512 };
    const scsiLoad = new ScsiLoadGenerator(scsi, disk, { ...LOAD, stamps });
    expect(await scsiLoad.runAsync({ count: 20_000 })).toMatchObject({ errors: 0, mismatches: 0 });
    scsiLoad.close();
    scsi.close();
    await second.close();
  });
});

test('a reactor that sleeps at once is woken by completions', async () => {
  const daemon = await RinghostDaemon.start(['--mode', 'interrupt']);
  const path = await serveBlk(daemon, 'File0', { filename: fileOf(DISK_BYTES) });
  const stamps = new BlockStamps(DISK_BYTES / BLOCK_BYTES, BLOCK_BYTES, { isZeroed: true });
  const host = await BlkInitiator.connect(path);
  for (const depth of [1, 4, 64]) {
    const load = new BlkLoadGenerator(host, { ...LOAD, depth, stamps });
    expect(await load.runAsync({ count: 3000 })).toMatchObject({ errors: 0, mismatches: 0 });
    load.close();
  }
  await host.flush();
  host.close();
  await daemon.close();
});

describe('a file disk', () => {
  let daemon: RinghostDaemon;
  beforeAll(async () => {
    daemon = await RinghostDaemon.start(CORES);
  });
  afterEach(() => daemon.checkAlive());
  afterAll(() => daemon.close());

  test('grows while it is used, and does not shrink', async () => {
    const filename = fileOf(4 * MIB);
    const host = await BlkInitiator.connect(await serveBlk(daemon, 'Grows', { filename }));
    truncateSync(filename, 8 * MIB);
    const change = host.nextConfigChange();
    expect(await daemon.rpc.call('bdev_aio_rescan', { name: 'Grows' })).toBe(true);
    expect((await change).capacitySectors).toBe((8 * MIB) / 512);
    const data = pattern(BLOCK_BYTES, 3);
    await host.write((8 * MIB) / 512 - 8, data);
    sameBytes(await host.read((8 * MIB) / 512 - 8, BLOCK_BYTES), data, 'the new end');
    truncateSync(filename, 4 * MIB);
    await expect(daemon.rpc.call('bdev_aio_rescan', { name: 'Grows' })).rejects.toMatchObject({ code: -16 });
    const cut = { type: BlkRequestType.IN, sector: (8 * MIB) / 512 - 8, inBytes: BLOCK_BYTES } as const;
    expect((await host.request(cut)).status).toBe(BlkStatus.IOERR);
    expect((await host.request({ ...cut, sector: 0 })).status).toBe(BlkStatus.OK);
    host.close();
  });

  test('opened for reading only is read-only to blk and scsi guests', async () => {
    const filename = fileOf(MIB);
    const host = await BlkInitiator.connect(await serveBlk(daemon, 'Fixed', { filename, readonly: true }));
    expect(host.hasFeature(BlkFeature.RO)).toBe(true);
    expect((await host.request({ type: BlkRequestType.OUT, sector: 0, out: pattern(512, 1) })).status).toBe(
      BlkStatus.IOERR,
    );
    await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr: 'fixed.scsi' });
    const params = { ctrlr: 'fixed.scsi', scsi_target_num: 0, bdev_name: 'Fixed' };
    await daemon.rpc.call('vhost_scsi_controller_add_target', params);
    const scsi = await ScsiInitiator.connect(join(daemon.directory, 'fixed.scsi'));
    await attentions(scsi, {});
    const { sense } = await scsi.command({ cdb: write10(0, 1), out: pattern(512, 1) });
    // DATA PROTECT, WRITE PROTECTED
    expect([(sense[2] as number) & 0x0f, sense[12]]).toEqual([7, 0x27]);
    scsi.close();
    host.close();
  });

  test('frees what its guest discards', async () => {
    const filename = fileOf(8 * MIB);
    const host = await BlkInitiator.connect(await serveBlk(daemon, 'Discards', { filename }));
    for (let i = 0; i < 8; i++) await host.write((i * MIB) / 512, pattern(MIB, i));
    await host.flush();
    const before = statSync(filename).blocks;
    await host.discard([{ sector: MIB / 512, sectors: (4 * MIB) / 512 }]);
    expect(before - statSync(filename).blocks).toBeGreaterThanOrEqual((4 * MIB) / 512);
    await host.writeZeroes([{ sector: (6 * MIB) / 512, sectors: 100 }]);
    sameBytes(await host.read((6 * MIB) / 512, 100 * 512), new Uint8Array(100 * 512), 'a zeroed range');
    sameBytes(await host.read(0, MIB), pattern(MIB, 0), 'what was not discarded');
    host.close();
  });

  test('leaves no descriptor behind', async () => {
    const filename = fileOf(MIB);
    const fds = (): number => readdirSync(`/proc/${daemon.pid}/fd`).filter((fd) => isOfDisk(daemon.pid, fd)).length;
    const cycle = async (): Promise<void> => {
      const host = await BlkInitiator.connect(await serveBlk(daemon, 'Cycle', { filename }));
      await host.write(0, pattern(4096, 1));
      expect(fds()).toBeGreaterThanOrEqual(3);
      host.close();
      await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'Cycle', force: true });
      await daemon.rpc.call('bdev_aio_delete', { name: 'Cycle' });
    };
    await cycle();
    const before = fds();
    for (let i = 0; i < 5; i++) await cycle();
    await expect.poll(fds, { timeout: 20_000 }).toBe(before);
  });

  test('deleted under load gives its guest errors', async () => {
    const filename = fileOf(DISK_BYTES);
    const host = await BlkInitiator.connect(await serveBlk(daemon, 'Doomed', { filename }), { queues: 2 });
    const load = new BlkLoadGenerator(host, LOAD);
    const running = load.runAsync({ durationMs: 1000 });
    await daemon.rpc.call('bdev_aio_delete', { name: 'Doomed' });
    expect((await running).errors).toBeGreaterThan(0);
    load.close();
    host.close();
  });
});

describe.skipIf(whyNoLoopDevices() !== null)('as root,', () => {
  /** What to undo at the end of a test, last thing first. */
  const undo: (() => void | Promise<void>)[] = [];
  afterEach(async () => {
    for (const step of undo.splice(0).toReversed()) await step();
  });

  function run(command: string, ...args: readonly string[]): string {
    return execFileSync(command, args, { encoding: 'utf8' }).trim();
  }

  function loopOver(file: string, ...options: readonly string[]): string {
    const device = run('losetup', '--find', '--show', ...options, file);
    undo.push(() => void run('losetup', '--detach', device));
    return device;
  }

  /** A file system on a device. */
  function mounted(device: string, ...options: string[]): string {
    const directory = join(DIRECTORY, `mount${number++}`);
    mkdirSync(directory);
    run('mkfs.ext4', '-q', ...options, device);
    run('mount', device, directory);
    // What a killed daemon had open is closed when the kernel comes to it.
    undo.push(() => expect.poll(() => run('umount', directory), { timeout: 60_000 }).toBe(''));
    return directory;
  }

  /** A device whose file system can be frozen under it: what is written to it then ends after the thaw. */
  function freezableDevice(): { device: string; freeze(): void; thaw(): void; requests(): number } {
    const below = mounted(loopOver(fileOf(64 * MIB)));
    const backing = fileOf(48 * MIB, below);
    writeFileSync(backing, new Uint8Array(48 * MIB));
    const device = loopOver(backing);
    let isFrozen = false;
    const thaw = () => {
      if (isFrozen) run('fsfreeze', '--unfreeze', below);
      isFrozen = false;
    };
    return {
      device,
      freeze() {
        // A test that ran out of time has not thawed it, and nothing could be cleaned up.
        undo.push(thaw);
        // Not all there are: one that another program has frozen would hold this up.
        run('sync', '--file-system', below);
        run('fsfreeze', '--freeze', below);
        isFrozen = true;
      },
      thaw,
      requests: () => {
        const counts = readFileSync(`/sys/block/${basename(device)}/inflight`, 'utf8')
          .trim()
          .split(/\s+/);
        return counts.reduce((sum, count) => sum + Number(count), 0);
      },
    };
  }

  test.each(['device', 'file'] as const)(
    "a %s with a killed daemon's writes in flight is not served before they ended",
    async (kind) => {
      const below = freezableDevice();
      // Without a journal: a write would wait for the commit under way, and the end of the killed daemon for its write.
      const directory = (): string => mounted(below.device, '-O', '^has_journal');
      const filename = kind === 'device' ? below.device : fileOf(MIB, directory());
      if (kind === 'file') {
        writeFileSync(filename, new Uint8Array(MIB));
        run('sync', '--file-system', filename);
      }
      const daemon = await RinghostDaemon.start();
      const host = await BlkInitiator.connect(await serveBlk(daemon, 'Late', { filename }), { keepsRequests: true });
      try {
        below.freeze();
        host.write(0, pattern(4096, 1)).catch(() => {}); // nobody answers it
        await expect.poll(below.requests, { timeout: 60_000 }).toBeGreaterThan(0);
        await daemon.crash();
        await daemon.restart();
        let isServed = false;
        const served = serveBlk(daemon, 'Late', { filename });
        served.then(
          () => (isServed = true),
          () => {}, // told below
        );
        // Time enough to serve it, were it not for what is in flight.
        await sleep(1000);
        expect([isServed, below.requests() > 0]).toEqual([false, true]);
        below.thaw();
        const successor = await BlkInitiator.connect(await served);
        sameBytes(await successor.read(0, 4096), pattern(4096, 1), 'what was in flight');
        successor.close();
        await daemon.close();
      } finally {
        below.thaw();
        host.close();
        await daemon.crash();
      }
    },
  );

  /** A tmpfs of its own. */
  function smallFileSystem(mebibytes: number): string {
    const directory = join(DIRECTORY, `mount${number++}`);
    mkdirSync(directory);
    run('mount', '-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'none', directory);
    undo.push(() => void run('umount', directory));
    return directory;
  }

  const loops: string[] = [];
  const loopKind = (...options: readonly string[]) => ({
    canWake: true,
    make(name: string, bytes: number): FileBdev {
      const device = run('losetup', '--find', '--show', ...options, fileOf(bytes));
      loops.push(device);
      return new FileBdev({ flavor: 'uring', name, filename: device });
    },
    clean(): void {
      for (const device of loops.splice(0)) run('losetup', '--detach', device);
    },
  });
  describeConformance('a loop device', loopKind());
  describeConformance('a loop device of 4096-byte sectors', loopKind('--sector-size', '4096'));

  // It has no fallocate at all: discards are ignored there, and zeroes are written.
  const ramfses: string[] = [];
  describeConformance('a file on a file system without holes', {
    canWake: true,
    make(name, bytes) {
      const directory = join(DIRECTORY, `ramfs${number++}`);
      mkdirSync(directory);
      run('mount', '-t', 'ramfs', 'none', directory);
      ramfses.push(directory);
      return new FileBdev({ flavor: 'uring', name, filename: fileOf(bytes, directory) });
    },
    clean(): void {
      for (const directory of ramfses.splice(0)) run('umount', directory);
    },
  });

  test('a block device has the sizes that the kernel says, and is not taken from who has it', () => {
    const device = loopOver(fileOf(DISK_BYTES), '--sector-size', '4096');
    const open = (params = {}) => new FileBdev({ flavor: 'aio', name: 'Loop0', filename: device, ...params });
    expect(() => open({ blockSizeBytes: 512 })).toThrow(`below the 4096 bytes of ${device}`);
    const bdev = open();
    expect(bdev).toMatchObject({ blockSizeBytes: 4096, blockCount: DISK_BYTES / 4096, isDirect: true });
    expect(open).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    void bdev.destruct();
    expect(() => open({ isPolled: true })).toThrow('no polled queues');
    run('mkfs.ext4', '-q', device);
    const directory = join(DIRECTORY, 'mounted');
    mkdirSync(directory);
    run('mount', device, directory);
    undo.push(() => void run('umount', directory));
    expect(open).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    const reader = open({ isReadonly: true });
    void reader.destruct();
  });

  test('a full file system gives its guest errors, and others go on', async () => {
    const directory = smallFileSystem(8);
    const daemon = await RinghostDaemon.start();
    const full = await BlkInitiator.connect(await serveBlk(daemon, 'Full', { filename: fileOf(32 * MIB, directory) }));
    const other = await BlkInitiator.connect(await serveBlk(daemon, 'Other', { filename: fileOf(MIB) }));
    const statuses: number[] = [];
    for (let i = 0; i < 32; i++) {
      const request = { type: BlkRequestType.OUT, sector: (i * MIB) / 512, out: pattern(MIB, i) } as const;
      statuses.push((await full.request(request)).status);
    }
    expect([statuses[0], statuses.at(-1)]).toEqual([BlkStatus.OK, BlkStatus.IOERR]);
    sameBytes(await full.read(0, MIB), pattern(MIB, 0), 'what was written before');
    await full.discard([{ sector: 0, sectors: MIB / 512 }]);
    await full.write(0, pattern(MIB / 2, 9));
    await other.write(0, pattern(MIB, 1));
    sameBytes(await other.read(0, MIB), pattern(MIB, 1), 'another disk');
    full.close();
    other.close();
    await daemon.close();
  });

  test('a device that fails gives its guest errors', async () => {
    const backing = fileOf(DISK_BYTES);
    const device = loopOver(backing);
    const daemon = await RinghostDaemon.start();
    const host = await BlkInitiator.connect(await serveBlk(daemon, 'Fails', { filename: device }));
    await host.write(0, pattern(MIB, 1));
    // Beyond the end of its file a loop device has nothing to read.
    truncateSync(backing, 2 * MIB);
    const read = { type: BlkRequestType.IN, sector: (16 * MIB) / 512, inBytes: MIB } as const;
    expect((await host.request(read)).status).toBe(BlkStatus.IOERR);
    sameBytes(await host.read(0, MIB), pattern(MIB, 1), 'what is still there');
    host.close();
    await daemon.close();
  });

  test('a device whose size changed is seen by its guest', async () => {
    const backing = fileOf(4 * MIB);
    const device = loopOver(backing);
    const daemon = await RinghostDaemon.start();
    await daemon.rpc.request('bdev_uring_create', { name: 'Loop0', filename: device });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'Loop0', dev_name: 'Loop0' });
    const host = await BlkInitiator.connect(join(daemon.directory, 'Loop0'));
    truncateSync(backing, 8 * MIB);
    run('losetup', '--set-capacity', device);
    const change = host.nextConfigChange();
    await daemon.rpc.call('bdev_uring_rescan', { name: 'Loop0' });
    expect((await change).capacitySectors).toBe((8 * MIB) / 512);
    host.close();
    await daemon.close();
    expect(existsSync(backing)).toBe(true);
  });
});
