/** The driver against QEMU’s NVMe controller without a guest: every bdev case, a reset, what it says of itself. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { readHealth } from '../../src/nvme/admin.ts';
import type { PcieController } from '../../src/nvme/pcie/pcie-controller.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { describeConformance, type Kind } from '../support/bdev-conformance.ts';
import { DiskRig, GUEST_BYTES } from '../support/disk-rig.ts';
import { diskOf, guestMemory, openController } from '../support/nvme-rig.ts';
import { QtestNvme } from '../support/qtest-nvme.ts';

const MIB = 2 ** 20;
const DISK_BYTES = 4 * MIB;
/** One a disk that a test makes: each finds a new one. */
const NAMESPACES = 14;
const { success } = IoStatus;

function namespacesOf(blockBytes: number) {
  return Array.from({ length: NAMESPACES }, (_, i) => ({ nsid: i + 1, blockBytes, sizeBytes: DISK_BYTES }));
}

/** Disks of one controller. `isShared`: it reaches the memory of requests. */
function conform(name: string, blockBytes: number, isShared: boolean, properties: readonly string[]): void {
  describe.each([name])('%s', () => {
    let device: QtestNvme;
    let controller: PcieController;
    let nsid = 1;

    beforeAll(async () => {
      device = await QtestNvme.start({ namespaces: namespacesOf(blockBytes), properties });
      controller = await openController(device, { queues: 6 });
    });

    afterAll(() => controller?.close());

    const kind: Kind = {
      make: (disk): Bdev => diskOf(controller, nsid++, disk),
      ...(isShared ? { memory: () => guestMemory(device.allocate(GUEST_BYTES)) } : {}),
    };
    describeConformance('its namespace', kind);
  });
}

describe.skipIf(whyNoTool('qemu') !== null)('QEMU’s NVMe controller', () => {
  conform('that reaches the memory of requests', 512, true, []);
  conform('of 4096-byte blocks, with small transfers, whose requests are copied', 4096, false, ['mdts=2']);

  it('says what it is, is reset under load, and tells its health', async () => {
    const device = await QtestNvme.start({ namespaces: namespacesOf(512).slice(0, 2), properties: [] });
    const controller = await openController(device, { queues: 2 });
    expect(controller.identity).toMatchObject({ serialNumber: 'QTEST', modelNumber: 'QEMU NVMe Ctrl' });
    expect(controller.namespaces.map(({ nsid, blockSizeBytes }) => [nsid, blockSizeBytes])).toEqual([
      [1, 512],
      [2, 512],
    ]);
    const disk = new DiskRig(diskOf(controller, 2), guestMemory(device.allocate(GUEST_BYTES)));
    const place = (i: number) => [{ offset: i * 4096, length: 4096 }];
    for (let i = 0; i < 512; i++) disk.guest.fill((i % 255) + 1, i * 4096, (i + 1) * 4096);
    const writes = Array.from({ length: 512 }, (_, i) => disk.submit(IoType.write, i * 8, 8, place(i)));
    disk.channel.poll();
    await disk.polled(controller.reset());
    expect(new Set(await disk.polled(Promise.all(writes)))).toEqual(new Set([success]));
    disk.guest.fill(0);
    const reads = Array.from({ length: 512 }, (_, i) => disk.submit(IoType.read, i * 8, 8, place(i)));
    expect(new Set(await disk.polled(Promise.all(reads)))).toEqual(new Set([success]));
    for (let i = 0; i < 512; i++) expect(disk.guest[i * 4096 + 4095]).toBe((i % 255) + 1);
    const health = await readHealth(controller.admin);
    expect(Number(health.hostWrites)).toBeGreaterThanOrEqual(512);
    expect(health.temperatureKelvin).toBeGreaterThan(273);
    await disk.close();
    await controller.close();
  });
});
