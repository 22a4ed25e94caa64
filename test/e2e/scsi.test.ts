/**
 * A Linux guest with Ringhost's SCSI targets: the example of the vhost guide (two cores, a scsi controller with two
 * targets, a blk controller, four queues each), what a guest does with such disks, hot attach and detach.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { carriesExt4, type GuestDisk, keepsPattern, takesPartitions, verifiesUnderLoad } from './guest-cases.ts';
import { whyNoGuests } from './requirements.ts';

const MIB = 1 << 20;
const QUEUES = 4;
const LONG_MS = 300_000;
/** A long run, of 100, is made now and then. */
const ATTACH_CYCLES = Number(process.env['RINGHOST_ATTACH_CYCLES'] ?? 10);
/** It took ten minutes on a very busy machine. */
const CYCLES_MS_MAX = 1_800_000;
/** Below the slots that `Guest` gives to its disks. */
const SCSI_SLOT = 0x0f;

describe.skipIf(whyNoGuests() !== null)('a guest on SCSI targets', () => {
  let daemon: Daemon;
  let guest: Guest;
  let scratch: GuestDisk;
  let second: GuestDisk;

  const malloc = (name: string, sizeMiB: number, blockSize = 512): Promise<unknown> =>
    daemon.rpc('bdev_malloc_create', { name, num_blocks: (sizeMiB * MIB) / blockSize, block_size: blockSize });
  const addTarget = (target: number, bdev: string, more: Record<string, unknown> = {}): Promise<unknown> =>
    daemon.rpc('vhost_scsi_controller_add_target', {
      ctrlr: 'vhost.0',
      scsi_target_num: target,
      bdev_name: bdev,
      ...more,
    });
  const removeTarget = (target: number): Promise<unknown> =>
    daemon.rpc('vhost_scsi_controller_remove_target', { ctrlr: 'vhost.0', scsi_target_num: target });

  const diskAt = (target: number, lun = 0): Promise<string> => guest.scsiDevicePath(target, lun);

  async function waitUntilGone(path: string): Promise<void> {
    await guest.run(`while [ -e ${path} ]; do sleep 0.1; done`);
  }

  beforeAll(async () => {
    daemon = await Daemon.start({ coreMask: '0x3' });
    await malloc('Malloc0', 32);
    await malloc('Malloc1', 128);
    await malloc('Malloc2', 128);
    await daemon.rpc('vhost_create_scsi_controller', { ctrlr: 'vhost.0', cpumask: '0x1' });
    await addTarget(0, 'Malloc0');
    await addTarget(1, 'Malloc1', { vendor: 'ACME', model: 'Fast disk', serial: 'SN-1' });
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'vhost.1', dev_name: 'Malloc2', cpumask: '0x2' });
    const socket = `socket,id=scsi,path=${daemon.socketPath('vhost.0')}`;
    guest = await Guest.start({
      name: 'ringhost-scsi',
      cpus: QUEUES,
      disks: [{ id: 'blk', socketPath: daemon.socketPath('vhost.1'), queues: QUEUES }],
      qemuArgs: [
        ...['-chardev', socket],
        ...['-device', `vhost-user-scsi-pci,chardev=scsi,num_queues=${QUEUES},addr=${SCSI_SLOT.toString(16)}`],
      ],
    });
    scratch = { path: await diskAt(0), sizeBytes: 32 * MIB };
    second = { path: await diskAt(1), sizeBytes: 128 * MIB };
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test('lsblk shows the disks as the guide has them', async () => {
    const columns = 'NAME,KNAME,MODEL,HCTL,SIZE,VENDOR,SUBSYSTEMS';
    const { stdout } = await guest.run(`lsblk --nodeps --json --output ${columns}`);
    const { blockdevices } = JSON.parse(stdout) as { blockdevices: Record<string, string | null>[] };
    const disks = blockdevices.map((disk) =>
      Object.fromEntries(Object.entries(disk).map(([column, value]) => [column, value?.trim() ?? null])),
    );
    const nameOf = (path: string): string => path.replace('/dev/', '');
    const find = (path: string) => disks.find(({ name }) => name === nameOf(path));
    const subsystems = 'block:scsi:virtio:pci';
    expect(find(scratch.path)).toMatchObject({ model: 'Malloc disk', size: '32M', vendor: 'INTEL', subsystems });
    expect(find(scratch.path)?.hctl).toMatch(/^\d+:0:0:0$/);
    expect(find(second.path)).toMatchObject({ model: 'Fast disk', size: '128M', vendor: 'ACME', subsystems });
    expect(find(second.path)?.hctl).toMatch(/^\d+:0:1:0$/);
    expect(find(await guest.devicePath('blk'))).toMatchObject({ size: '128M', subsystems: 'block:virtio:pci' });
  });

  test('there is no error in the kernel log of the guest', async () => {
    const { stdout } = await guest.run('dmesg --level=err,crit,alert,emerg 2>/dev/null || dmesg');
    expect(stdout.split('\n').filter((line) => /\bsd[a-z]\b|scsi/.test(line) && /error|fail/i.test(line))).toEqual([]);
  });

  test('a pattern written by O_DIRECT reads back', async () => {
    await keepsPattern(guest, scratch);
  });
  test('partitions are where the table says', async () => await takesPartitions(guest, scratch));
  test('ext4 keeps its files and is clean', async () => await carriesExt4(guest, second));
  test('fio verifies 32 deep on four queues', async () => await verifiesScsi(guest, second));
  test('the blk controller on the other core works too', async () => {
    await verifiesUnderLoad(guest, { path: await guest.devicePath('blk'), sizeBytes: 128 * MIB });
  });

  test('discarded and zeroed ranges read as zeroes', async () => {
    await guest.run(
      `cd /sys/block/$(basename ${scratch.path})/queue
      [ "$(cat discard_max_bytes)" -gt 0 ]
      head -c 4M /dev/urandom >/tmp/noise
      dd if=/tmp/noise of=${scratch.path} bs=1M oflag=direct conv=notrunc 2>/dev/null
      blkdiscard -f --offset 4096 --length 65536 ${scratch.path}
      blkdiscard -f -z --offset 1M --length 1M ${scratch.path}
      head -c 65536 /dev/zero | dd of=/tmp/noise bs=4096 seek=1 conv=notrunc 2>/dev/null
      head -c 1M /dev/zero | dd of=/tmp/noise bs=1M seek=1 conv=notrunc 2>/dev/null
      dd if=${scratch.path} bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/noise
      rm /tmp/noise`,
    );
  });

  test('a resize is seen by itself', async () => {
    await daemon.rpc('bdev_malloc_resize', { name: 'Malloc1', new_size: 160 });
    await guest.run(`until [ "$(blockdev --getsize64 ${second.path})" = ${160 * MIB} ]; do sleep 0.2; done`);
  });

  test('a target comes and goes while the guest runs', async () => {
    await malloc('Hot', 16, 4096);
    await addTarget(5, 'Hot', { lun: 0 });
    const path = await diskAt(5);
    await keepsPattern(guest, { path, sizeBytes: 16 * MIB, blockSizeBytes: 4096 });
    await removeTarget(5);
    await waitUntilGone(path);
    await daemon.rpc('bdev_malloc_delete', { name: 'Hot' });
  });

  test('two LUNs of one target come and go', async () => {
    await malloc('LunA', 16);
    await malloc('LunB', 24);
    await addTarget(6, 'LunA');
    await addTarget(6, 'LunB', { lun: 3 });
    const paths = [await diskAt(6, 0), await diskAt(6, 3)];
    const { stdout } = await guest.run(`for disk in ${paths.join(' ')}; do blockdev --getsize64 $disk; done`);
    expect(stdout).toBe(`${16 * MIB}\n${24 * MIB}\n`);
    await removeTarget(6);
    for (const path of paths) await waitUntilGone(path);
    await daemon.rpc('delete_bdev', { name: 'LunA' });
    await daemon.rpc('delete_bdev', { name: 'LunB' });
  });

  test('a bdev that is deleted under I/O takes its disk away, and no other notices', {
    timeout: CYCLES_MS_MAX,
  }, async () => {
    const busy = guest.run(
      `fio --name=other --filename=${scratch.path} --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k \\
        --size=8M --verify=crc32c --verify_fatal=1 --time_based --runtime=${ATTACH_CYCLES} --output=/tmp/other.txt || \\
        { cat /tmp/other.txt; exit 1; }`,
      { timeoutMs: LONG_MS },
    );
    for (let cycle = 0; cycle < ATTACH_CYCLES; cycle++) {
      await malloc('Doomed', 8);
      await addTarget(7, 'Doomed');
      const path = await diskAt(7);
      const reading = guest.tryRun(
        `touch /tmp/reading
        while dd if=${path} of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done
        rm -f /tmp/reading`,
      );
      await guest.run('until [ -e /tmp/reading ]; do sleep 0.05; done');
      await daemon.rpc('delete_bdev', { name: 'Doomed' });
      await reading;
      await waitUntilGone(path);
    }
    await busy;
  });

  test('the disks are used again after a reboot', async () => {
    await guest.run(
      `head -c 2M /dev/urandom >/tmp/data; dd if=/tmp/data of=${scratch.path} bs=1M oflag=direct 2>/dev/null`,
    );
    const sum = async (path: string): Promise<string> =>
      (await guest.run(`dd if=${path} bs=1M count=2 iflag=direct 2>/dev/null | sha256sum`)).stdout;
    const written = await sum(scratch.path);
    await guest.reboot();
    expect(await sum(await diskAt(0))).toBe(written);
  });

  test('the daemon ends in order with the guest still there', async () => {
    expect(await daemon.stop('SIGINT')).toEqual({ code: 0, signal: null });
  });
});

/** fio writes at random with checksums and reads them back, 32 requests deep on each of the queues. */
async function verifiesScsi(guest: Guest, { path }: GuestDisk): Promise<void> {
  const { stdout } = await guest.run(
    `[ "$(ls /sys/block/$(basename ${path})/mq | wc -l)" = ${QUEUES} ]
    fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=32 --numjobs=${QUEUES} \\
      --cpus_allowed=0-${QUEUES - 1} --cpus_allowed_policy=split --offset_increment=16M --size=8M \\
      --rw=randwrite --bsrange=4k-64k --verify=crc32c --verify_fatal=1 --group_reporting --output=/tmp/fio.txt || \\
      { cat /tmp/fio.txt; exit 1; }
    grep 'virtio[0-9]*-request' /proc/interrupts | \\
      awk '{ sum = 0; for (i = 2; i <= ${QUEUES + 1}; i++) sum += $i; print sum }'`,
    { timeoutMs: LONG_MS },
  );
  const interrupts = stdout.trim().split('\n').map(Number);
  expect(interrupts).toHaveLength(QUEUES);
  for (const count of interrupts) expect(count, `interrupts of each queue: ${interrupts}`).toBeGreaterThan(0);
}
