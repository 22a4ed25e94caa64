/** Disks over other vhost-user targets: qemu-storage-daemon, and another Ringhost in a chain. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { VirtioBlkBdev } from '../../src/bdev/modules/virtio/blk.ts';
import { Claim, QueueWord, queueWord } from '../../src/bdev/modules/virtio/layout.ts';
import type { VirtioParams } from '../../src/bdev/modules/virtio/link.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { describeConformance, type Kind } from '../support/bdev-conformance.ts';
import { DiskRig } from '../support/disk-rig.ts';
import { VerifiedLoad } from '../support/verified-load.ts';
import { VhostUserTarget } from '../support/vhost-user-target.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const MIB = 1 << 20;
const DISK_BYTES = 8 * MIB;

function diskOf(blockBytes: number): Kind {
  return {
    canWake: true,
    async make(name, sizeBytes) {
      const target = await VhostUserTarget.start(sizeBytes, blockBytes);
      const bdev = await VirtioBlkBdev.open({ name, path: target.socketPath, queueCount: 4 });
      const destruct = bdev.destruct.bind(bdev);
      bdev.destruct = async () => {
        await destruct();
        await target.close();
      };
      return bdev;
    },
  };
}

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

async function open(target: VhostUserTarget, params: Partial<VirtioParams> = {}): Promise<DiskRig> {
  const bdev = await VirtioBlkBdev.open({ name: 'Virtio0', path: target.socketPath, ...params });
  const rig = new DiskRig(bdev);
  bdev.onChange = () => rig.registry.changed(rig.entry);
  closers.push(() => rig.close());
  return rig;
}

async function startTarget(): Promise<VhostUserTarget> {
  const target = await VhostUserTarget.start(DISK_BYTES);
  closers.push(() => target.close());
  return target;
}

describe.skipIf(whyNoTool('qemu') !== null)('virtio-blk:', () => {
  describeConformance('a disk of qemu-storage-daemon', diskOf(512));
  describeConformance('a disk of qemu-storage-daemon of 4096-byte blocks', diskOf(4096));

  it('loses nothing when its target is killed and started again, five times under load', async () => {
    const target = await startTarget();
    const rig = await open(target);
    const load = new VerifiedLoad(rig, { depth: 32, seed: 5 });
    for (let kill = 0; kill < 5; kill++) {
      await load.run(200);
      load.begin(64);
      await rig.polled(target.kill());
      await rig.polled(sleep(kill * 30));
      await rig.polled(target.start());
      await load.settle();
    }
    expect(load.failures).toBe(0);
    await load.verify();
  });

  it('is deleted while its target is away, with its requests failed', async () => {
    const target = await startTarget();
    const rig = await open(target);
    const segments = [{ offset: 0, length: 4096 }];
    expect(await rig.run(IoType.write, 0, 8, segments)).toBe(IoStatus.success);
    await target.kill();
    const waiting = Array.from({ length: 200 }, () => rig.submit(IoType.read, 0, 8, segments));
    await rig.polled(sleep(300));
    await rig.polled(rig.channel.remove());
    expect((await Promise.all(waiting)).every((status) => status !== IoStatus.success)).toBe(true);
  });

  it('serves one reactor a queue, and says so', async () => {
    const rig = await open(await startTarget(), { queueCount: 2 });
    const table = new Int32Array(rig.entry.bdev.params()['table'] as SharedArrayBuffer);
    const claims = [0, 1].map((queue) => queueWord(queue, QueueWord.claim));
    // All channels of a thread have one queue together.
    rig.openChannel();
    expect(claims.map((word) => table[word])).toEqual([Claim.taken, Claim.free]);
    for (const channel of rig.channels.splice(0)) channel.close();
    expect(claims.map((word) => table[word])).toEqual([Claim.free, Claim.free]);
    // As two other reactors do.
    for (const word of claims) table[word] = Claim.taken;
    expect(() => rig.openChannel()).toThrow(
      expect.objectContaining({ code: 'EBUSY', message: expect.stringMatching(/vq_count/) }),
    );
    table[claims[1] as number] = Claim.free;
    rig.openChannel();
    expect(await rig.run(IoType.read, 0, 1, [{ offset: 0, length: 512 }])).toBe(IoStatus.success);
  });

  it('is not made over a target with fewer queues, or over nothing', async () => {
    const target = await startTarget();
    const path = target.socketPath;
    await expect(VirtioBlkBdev.open({ name: 'V', path, queueCount: 5 })).rejects.toThrow(/has 4 queues, not the 5/);
    await expect(VirtioBlkBdev.open({ name: 'V', path: join(target.directory, 'none') })).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });
});

describe('a Ringhost over another Ringhost', () => {
  it('serves its disk, and sees it grow', async () => {
    const below = await RinghostDaemon.start();
    closers.push(() => below.close());
    const above = await RinghostDaemon.start();
    closers.push(() => above.close());
    const file = join(above.directory, 'disk.raw');
    writeFileSync(file, '');
    truncateSync(file, DISK_BYTES);
    await below.rpc.call('bdev_aio_create', { name: 'Aio0', filename: file });
    await below.rpc.call('vhost_create_blk_controller', { ctrlr: 'below', dev_name: 'Aio0' });
    const target = { trtype: 'user', dev_type: 'blk', traddr: join(below.directory, 'below') } as const;
    expect(await above.rpc.call('bdev_virtio_attach_controller', { name: 'Virtio0', ...target })).toEqual(['Virtio0']);
    await above.rpc.call('vhost_create_blk_controller', { ctrlr: 'above', dev_name: 'Virtio0' });
    const disk = await BlkInitiator.connect(join(above.directory, 'above'));
    closers.push(async () => disk.close());
    const data = new Uint8Array(256 * 1024).map((_, i) => (i * 31 + (i >> 8)) & 0xff);
    await disk.write(16, data);
    await disk.flush();
    expect(Buffer.compare(await disk.read(16, data.length), data)).toBe(0);
    const changed = disk.nextConfigChange();
    truncateSync(file, 2 * DISK_BYTES);
    await below.rpc.call('bdev_aio_rescan', { name: 'Aio0' });
    expect((await changed).capacitySectors).toBe((2 * DISK_BYTES) / 512);
    await disk.write((2 * DISK_BYTES) / 512 - 8, data.subarray(0, 4096));
    await above.rpc.call('vhost_delete_controller', { ctrlr: 'above', force: true });
    expect(await above.rpc.call('bdev_virtio_detach_controller', { name: 'Virtio0' })).toBe(true);
  });
});
