/** Disks over the units of another vhost-user-scsi target: a Ringhost's, in this process and in a chain of two. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { SILENT } from '../../src/base/log.ts';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { VirtioControllers } from '../../src/bdev/modules/virtio/controllers.ts';
import { type BdevEntry, BdevRegistry } from '../../src/bdev/registry.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { waitUntil } from '../e2e/wait.ts';
import { describeConformance, type Kind } from '../support/bdev-conformance.ts';
import { DiskRig } from '../support/disk-rig.ts';
import { VerifiedLoad } from '../support/verified-load.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const MIB = 1 << 20;
const DISK_BYTES = 8 * MIB;
const LIMIT_MS = 60_000;
const { success, failed } = IoStatus;

/** The target of most tests. */
let below: RinghostDaemon;
beforeAll(async () => {
  below = await RinghostDaemon.start();
});
afterAll(() => below.close());

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

let lastNumber = 0;

/** A scsi controller with RAM disks as its targets, from 0. */
async function makeTarget(daemon: RinghostDaemon, sizes: readonly number[], blockBytes: 512 | 4096 = 512) {
  const number = ++lastNumber;
  const ctrlr = `scsi.${number}`;
  await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr });
  const names = sizes.map((_, target) => `M${number}_${target}`);
  for (const [target, name] of names.entries()) {
    const blocks = (sizes[target] as number) / blockBytes;
    await daemon.rpc.call('bdev_malloc_create', { name, num_blocks: blocks, block_size: blockBytes });
    await daemon.rpc.call('vhost_scsi_controller_add_target', { ctrlr, scsi_target_num: target, bdev_name: name });
  }
  const close = async (): Promise<void> => {
    await daemon.rpc.call('vhost_delete_controller', { ctrlr, force: true });
    for (const name of names) await daemon.rpc.call('bdev_malloc_delete', { name }).catch(() => undefined);
  };
  return { ctrlr, path: join(daemon.directory, ctrlr), names, close };
}

interface Attached {
  readonly registry: BdevRegistry;
  readonly controllers: VirtioControllers;
  readonly names: readonly string[];
  readonly lines: string[];
}

async function attach(path: string, queueCount?: number): Promise<Attached> {
  const registry = new BdevRegistry(1);
  const lines: string[] = [];
  const keep = (line: string): void => void lines.push(line);
  const controllers = new VirtioControllers(registry, { ...SILENT, warn: keep, error: keep, info: keep });
  const names = await controllers.attachScsi({ name: 'S', path, queueCount });
  return { registry, controllers, names, lines };
}

/** A rig with the disk, which hears what happens to it. */
function rigOf({ registry }: Attached, name: string): DiskRig {
  const entry = registry.get(name);
  const rig = new DiskRig(wrap(entry.bdev, async () => undefined));
  follow(rig, entry);
  return rig;
}

/** The disk for another registry, as it is at any time. */
function wrap(bdev: Bdev, destruct: () => Promise<void>): Bdev {
  const { name, kind, productName, uuid, blockSizeBytes, physicalBlockSizeBytes, hasWriteCache, ioTypes } = bdev;
  return {
    ...{ name, kind, productName, uuid, blockSizeBytes, physicalBlockSizeBytes, hasWriteCache, ioTypes },
    get blockCount() {
      return bdev.blockCount;
    },
    params: () => bdev.params(),
    driverSpecific: () => bdev.driverSpecific(),
    toConfig: () => bdev.toConfig(),
    destruct,
  };
}

function follow(rig: DiskRig, entry: BdevEntry): void {
  entry.users.add({
    bdevChanged: () => rig.registry.changed(rig.entry),
    bdevRemoved: async () => {
      for (const channel of rig.channels.splice(0)) await rig.polled(channel.remove());
    },
  });
}

function disksOf(blockBytes: 512 | 4096): Kind {
  return {
    canWake: true,
    async make(_, sizeBytes) {
      const target = await makeTarget(below, [sizeBytes], blockBytes);
      const attached = await attach(target.path, 2);
      const { bdev } = attached.registry.get('St0');
      return wrap(bdev, async () => {
        await attached.controllers.close();
        await target.close();
      });
    },
  };
}

describeConformance('a unit of a vhost-user-scsi target', disksOf(512));
describeConformance('a unit of a vhost-user-scsi target of 4096-byte blocks', disksOf(4096));

describe('virtio-scsi:', () => {
  it('makes a disk of every unit, which share the queue of their reactor', async () => {
    const target = await makeTarget(below, [DISK_BYTES, 2 * DISK_BYTES]);
    closers.push(() => target.close());
    const { ctrlr } = target;
    await below.rpc.call('bdev_null_create', { name: 'N0', num_blocks: 100, block_size: 4096 });
    closers.push(() => below.rpc.call('bdev_null_delete', { name: 'N0' }));
    const lun = { scsi_target_num: 200, lun: 300, bdev_name: 'N0', readonly: true };
    await below.rpc.call('vhost_scsi_controller_add_target', { ctrlr, ...lun });
    const attached = await attach(target.path);
    closers.push(() => attached.controllers.close());
    expect(attached.names).toEqual(['St0', 'St1', 'St200l300']);
    const bdevs = attached.names.map((name) => attached.registry.get(name).bdev);
    expect(bdevs.map(({ blockCount, blockSizeBytes }) => blockCount * blockSizeBytes)).toEqual([
      DISK_BYTES,
      2 * DISK_BYTES,
      100 * 4096,
    ]);
    expect(bdevs.map(({ ioTypes }) => ioTypes.includes(IoType.write))).toEqual([true, true, false]);
    expect(bdevs.map(({ ioTypes }) => ioTypes.includes(IoType.unmap))).toEqual([true, true, false]);
    expect(bdevs[2]?.driverSpecific()).toMatchObject({
      virtio: { type: 'user', socket: target.path, target: 200, lun: 300, vendor: 'INTEL' },
    });
    const rigs = attached.names.map((name) => rigOf(attached, name));
    const segments = [{ offset: 0, length: 4096 }];
    for (const [i, rig] of rigs.slice(0, 2).entries()) {
      rig.guest.fill(i + 1, 0, 4096);
      expect(await rig.run(IoType.write, 0, 8, segments)).toBe(success);
    }
    for (const [i, rig] of rigs.entries()) {
      expect(await rig.run(IoType.read, 0, 4096 / rig.blockSize, segments)).toBe(success);
      if (i < 2) expect(rig.guest[0]).toBe(i + 1);
    }
    for (const rig of rigs) await rig.close();
  });

  it('is told of units that come, grow and go', async () => {
    const target = await makeTarget(below, [DISK_BYTES]);
    closers.push(() => target.close());
    const { ctrlr, names } = target;
    const attached = await attach(target.path);
    closers.push(() => attached.controllers.close());
    const { registry } = attached;
    await below.rpc.call('bdev_malloc_create', { name: 'Late', num_blocks: 2048, block_size: 512 });
    closers.push(() => below.rpc.call('bdev_malloc_delete', { name: 'Late' }));
    await below.rpc.call('vhost_scsi_controller_add_target', { ctrlr, scsi_target_num: 5, bdev_name: 'Late' });
    await waitUntil(() => registry.find('St5') !== undefined, LIMIT_MS, 'the new disk');
    const rig = rigOf(attached, 'St0');
    await below.rpc.call('bdev_malloc_resize', { name: names[0] as string, new_size: (2 * DISK_BYTES) / MIB });
    await waitUntil(() => rig.blocks === (2 * DISK_BYTES) / 512, LIMIT_MS, 'the new size');
    expect(await rig.run(IoType.write, rig.blocks - 8, 8, [{ offset: 0, length: 4096 }])).toBe(success);
    await below.rpc.call('vhost_scsi_controller_remove_target', { ctrlr, scsi_target_num: 0 });
    await waitUntil(() => registry.find('St0') === undefined, LIMIT_MS, 'the end of the disk');
    expect(registry.list().map(({ name }) => name)).toEqual(['St5']);
    await rig.close();
  });

  it('passes on that a request failed, and takes no harm', async () => {
    const target = await makeTarget(below, []);
    closers.push(() => target.close());
    await below.rpc.call('bdev_malloc_create', { name: 'Base', num_blocks: 2048, block_size: 512 });
    closers.push(() => below.rpc.call('bdev_malloc_delete', { name: 'Base' }));
    await below.rpc.call('bdev_error_create', { base_name: 'Base' });
    const add = { ctrlr: target.ctrlr, scsi_target_num: 0, bdev_name: 'EE_Base' };
    await below.rpc.call('vhost_scsi_controller_add_target', add);
    const attached = await attach(target.path);
    closers.push(() => attached.controllers.close());
    const rig = rigOf(attached, 'St0');
    const segments = [{ offset: 0, length: 512 }];
    const fault = { name: 'EE_Base', io_type: 'read', error_type: 'failure', num: 2 } as const;
    await below.rpc.call('bdev_error_inject_error', fault);
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push(await rig.run(IoType.read, i, 1, segments));
    expect(statuses).toEqual([failed, failed, success, success]);
    await rig.close();
  });
});

describe('virtio-scsi, whose target dies,', () => {
  let directory: string;
  let target: RinghostDaemon;
  let attached: Attached;
  const units = ['a', 'b'];

  /** A target with a file for each unit; the second is not in its configuration. */
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ringhost-virtio-scsi-'));
    for (const name of units) {
      writeFileSync(join(directory, name), '');
      truncateSync(join(directory, name), DISK_BYTES);
    }
    const call = (method: string, params: object) => ({ method, params });
    const config = join(directory, 'config.json');
    const bdev = units.map((name) =>
      call('bdev_aio_create', { name, filename: join(directory, name), block_size: 512 }),
    );
    const vhost = [
      call('vhost_create_scsi_controller', { ctrlr: 'scsi' }),
      call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'a' }),
    ];
    const subsystems = [
      { subsystem: 'bdev', config: bdev },
      { subsystem: 'vhost_scsi', config: vhost },
    ];
    writeFileSync(config, JSON.stringify({ subsystems }));
    target = await RinghostDaemon.start(['-c', config]);
    await addSecond();
    attached = await attach(join(target.directory, 'scsi'));
  });
  afterAll(async () => {
    await attached.controllers.close();
    await target.close();
    rmSync(directory, { recursive: true });
  });

  const addSecond = () =>
    target.rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 1, bdev_name: 'b' });

  it('loses nothing, and waits for a unit that comes later than the others', async () => {
    expect(attached.names).toEqual(['St0', 'St1']);
    const rigs = attached.names.map((name) => rigOf(attached, name));
    const [first, second] = rigs as [DiskRig, DiskRig];
    const loads = rigs.map((rig, i) => new VerifiedLoad(rig, { depth: 16, seed: i + 1 }));
    for (let kill = 0; kill < 2; kill++) {
      for (const load of loads) load.begin(200);
      await first.polled(target.crash());
      await first.polled(target.restart());
      await loads[0]?.settle();
      expect(second.inFlight).toBeGreaterThan(0);
      await second.polled(addSecond());
      await loads[1]?.settle();
    }
    for (const load of loads) {
      expect(load.failures).toBe(0);
      await load.verify();
    }
    for (const rig of rigs) await rig.close();
  });

  it('does not take another unit for the one that was there', async () => {
    await target.crash();
    await target.restart();
    const { rpc } = target;
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 3, bdev_name: 'b' });
    await waitUntil(() => attached.registry.find('St3') !== undefined, LIMIT_MS, 'a new disk');
    expect(attached.registry.find('St1')?.bdev.driverSpecific()).toMatchObject({ virtio: { connected: false } });
    await rpc.call('bdev_null_create', { name: 'N', num_blocks: DISK_BYTES / 512, block_size: 512 });
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 1, bdev_name: 'N' });
    await waitUntil(
      () => attached.lines.some((line) => /St1: another unit is in its place/.test(line)),
      LIMIT_MS,
      'end of the old disk',
    );
    await waitUntil(() => attached.registry.find('St1')?.isRemoving === false, LIMIT_MS, 'the other disk');
  });
});

describe('a chain of two Ringhosts over scsi', () => {
  let above: RinghostDaemon;
  beforeAll(async () => {
    above = await RinghostDaemon.start();
  });
  afterAll(() => above.close());

  it('serves the units of the one below, by blk and by scsi, and passes on their size', async () => {
    const target = await makeTarget(below, [DISK_BYTES, DISK_BYTES]);
    closers.push(() => target.close());
    const params = { name: 'Chain', trtype: 'user', dev_type: 'scsi', traddr: target.path } as const;
    expect(await above.rpc.call('bdev_virtio_attach_controller', params)).toEqual(['Chaint0', 'Chaint1']);
    expect(await above.rpc.call('bdev_virtio_scsi_get_devices', {})).toEqual([
      { name: 'Chain', virtio: { vq_count: 1, vq_size: 256, type: 'user', socket: target.path } },
    ]);
    await above.rpc.call('vhost_create_blk_controller', { ctrlr: 'blk', dev_name: 'Chaint0' });
    await above.rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi' });
    const unit = { ctrlr: 'scsi', scsi_target_num: 2, bdev_name: 'Chaint1' };
    await above.rpc.call('vhost_scsi_controller_add_target', unit);

    const disk = await BlkInitiator.connect(join(above.directory, 'blk'));
    closers.push(async () => disk.close());
    const data = new Uint8Array(300 * 1024).map((_, i) => (i * 31 + (i >> 8)) & 0xff);
    await disk.write(16, data);
    await disk.flush();
    expect(Buffer.compare(await disk.read(16, data.length), data)).toBe(0);
    await disk.writeZeroes([{ sector: 20, sectors: 8 }]);
    await disk.discard([{ sector: 40, sectors: 8 }]);
    expect(Buffer.compare(await disk.read(20, 4096), Buffer.alloc(4096))).toBe(0);

    const host = await ScsiInitiator.connect(join(above.directory, 'scsi'));
    closers.push(async () => host.close());
    const write = [0x2a, 0, 0, 0, 0, 64, 0, 0, 16, 0];
    await host.good({ target: 2, cdb: write, out: data.subarray(0, 8192) });
    const read = await host.good({ target: 2, cdb: [0x28, ...write.slice(1)], inBytes: 8192 });
    expect(Buffer.compare(read, data.subarray(0, 8192))).toBe(0);

    const changed = disk.nextConfigChange();
    await below.rpc.call('bdev_malloc_resize', { name: target.names[0] as string, new_size: 16 });
    expect((await changed).capacitySectors).toBe((16 * MIB) / 512);

    expect(await above.rpc.call('bdev_virtio_detach_controller', { name: 'Chain' })).toBe(true);
    expect(await above.rpc.call('bdev_get_bdevs', {})).toEqual([]);
    await expect(disk.read(0, 512)).rejects.toThrow(/IOERR/);
    for (const ctrlr of ['blk', 'scsi']) await above.rpc.call('vhost_delete_controller', { ctrlr, force: true });
  });

  it('is saved as one call, and made again by it', async () => {
    const target = await makeTarget(below, [DISK_BYTES, DISK_BYTES]);
    closers.push(() => target.close());
    const params = {
      name: 'C',
      trtype: 'user',
      dev_type: 'scsi',
      traddr: target.path,
      vq_count: 2,
      vq_size: 64,
    } as const;
    await above.rpc.call('bdev_virtio_attach_controller', params);
    const saved = await above.rpc.call('save_config', {});
    const calls = saved.subsystems.flatMap(({ config }) => config ?? []);
    expect(calls).toEqual([{ method: 'bdev_virtio_attach_controller', params }]);
    await above.rpc.call('bdev_virtio_detach_controller', { name: 'C' });
    await above.rpc.call('load_config', saved);
    expect(await above.rpc.call('save_config', {})).toEqual(saved);
    expect((await above.rpc.call('bdev_get_bdevs', {})).map(({ name }) => name)).toEqual(['Ct0', 'Ct1']);
    await above.rpc.call('bdev_virtio_detach_controller', { name: 'C' });
  });

  it('says what it cannot attach', async () => {
    const target = await makeTarget(below, [DISK_BYTES]);
    closers.push(() => target.close());
    const call = (params: object) =>
      above.rpc.call('bdev_virtio_attach_controller', {
        ...{ name: 'X', trtype: 'user', dev_type: 'scsi', traddr: target.path },
        ...params,
      } as never);
    await expect(call({ traddr: join(below.directory, 'none') })).rejects.toMatchObject({ code: -2 });
    // A target of the other kind.
    await expect(call({ dev_type: 'blk' })).rejects.toMatchObject({ code: -95 });
    expect(await above.rpc.call('bdev_get_bdevs', {})).toEqual([]);
    expect(
      await above.rpc.call('construct_virtio_user_scsi_bdev' as never, { path: target.path, name: 'X' } as never),
    ).toEqual(['Xt0']);
    await expect(call({})).rejects.toMatchObject({ code: -17 });
    expect(await above.rpc.call('remove_virtio_scsi_bdev' as never, { name: 'X' } as never)).toBe(true);
    await expect(above.rpc.call('bdev_virtio_detach_controller', { name: 'X' })).rejects.toMatchObject({ code: -19 });
  });
});
