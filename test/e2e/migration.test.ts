/**
 * Live migration: a guest moves between two QEMUs on this host, to and fro, while fio writes and verifies on a blk disk
 * and on a SCSI disk. Each QEMU has controllers of its own over the same bdevs. RINGHOST_MIGRATIONS is how
 * often it moves; docs/reliability.md has the figures of a long run.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { whyNoGuests } from './requirements.ts';

const MIB = 1 << 20;
const SIZE_MIB = 32;
const QUEUES = 2;
const MOVES = Number(process.env['RINGHOST_MIGRATIONS'] ?? 2);
const LONG_MS = 600_000 + MOVES * 60_000;
/** Below the slots that `Guest` gives to its disks. */
const SCSI_SLOT = 0x0f;
const HOSTS = ['home', 'away'] as const;

describe.skipIf(whyNoGuests() !== null)('a guest that migrates', () => {
  let daemon: Daemon;
  let guest: Guest;

  const scsiArgs = (host: string): string[] => [
    ...['-chardev', `socket,id=scsi,path=${daemon.socketPath(`scsi.${host}`)}`],
    ...['-device', `vhost-user-scsi-pci,chardev=scsi,num_queues=${QUEUES},addr=${SCSI_SLOT.toString(16)}`],
  ];

  beforeAll(async () => {
    daemon = await Daemon.start();
    for (const name of ['Blk', 'Scsi']) {
      await daemon.rpc('bdev_malloc_create', { name, num_blocks: (SIZE_MIB * MIB) / 512, block_size: 512 });
    }
    for (const host of HOSTS) {
      await daemon.rpc('vhost_create_blk_controller', { ctrlr: `blk.${host}`, dev_name: 'Blk' });
      await daemon.rpc('vhost_create_scsi_controller', { ctrlr: `scsi.${host}` });
      await daemon.rpc('vhost_scsi_controller_add_target', {
        ctrlr: `scsi.${host}`,
        scsi_target_num: 0,
        bdev_name: 'Scsi',
      });
    }
    guest = await Guest.start({
      name: 'migration',
      cpus: 2,
      memoryMiB: 512,
      disks: [{ id: 'disk', socketPath: daemon.socketPath('blk.home'), queues: QUEUES }],
      qemuArgs: scsiArgs('home'),
    });
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test(`to another QEMU and back loses nothing, over blk and scsi (${MOVES} moves)`, { timeout: LONG_MS }, async () => {
    const pattern = '/sys/class/scsi_device/*:0:0:0/device/block/*';
    const { stdout } = await guest.run(`until ls -d ${pattern} 2>/dev/null; do sleep 0.1; done`);
    const paths = [await guest.devicePath('disk'), `/dev/${stdout.trim().split('/').at(-1)}`];
    const verify = paths.map((path, i) =>
      guest.run(
        `fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=16 --size=${SIZE_MIB / 2}M \\
          --rw=randrw --bs=4k --verify=crc32c --verify_fatal=1 --verify_backlog=128 --rate_iops=400,400 \\
          --loops=1000 --time_based --runtime=3600 --output=/tmp/fio-${i}.txt & fio=$!
        while [ ! -e /run/moved ]; do kill -0 $fio || { cat /tmp/fio-${i}.txt; exit 1; }; sleep 0.2; done
        # An interrupted fio sums up what it did, and ends with an exit status of its own.
        kill -INT $fio
        wait $fio || true
        grep -q 'err= 0' /tmp/fio-${i}.txt || { cat /tmp/fio-${i}.txt; exit 1; }`,
        { timeoutMs: LONG_MS },
      ),
    );
    // Data that the page cache holds was written by the device alone: a page that was not marked has old bytes there.
    const skipMiB = SIZE_MIB / 2;
    const cached = paths.map((path) =>
      guest.run(
        `dd if=/dev/urandom of=/tmp/data${path.replaceAll('/', '-')} bs=1M count=8
        dd if=/tmp/data${path.replaceAll('/', '-')} of=${path} bs=1M seek=${skipMiB} oflag=direct
        while [ ! -e /run/moved ]; do
          echo 1 >/proc/sys/vm/drop_caches
          dd if=${path} of=/dev/null bs=256k skip=${4 * skipMiB} count=32
          dd if=${path} bs=256k skip=${4 * skipMiB} count=32 | cmp - /tmp/data${path.replaceAll('/', '-')}
        done`,
        { timeoutMs: LONG_MS },
      ),
    );
    const moves = (async () => {
      // Something was written before the first move, and something is in flight at each.
      await guest.run('sleep 3');
      for (let move = 1; move <= MOVES; move++) {
        const host = HOSTS[move % HOSTS.length] as string;
        await guest.migrate({ disk: daemon.socketPath(`blk.${host}`) }, scsiArgs(host));
        await guest.run(
          `for disk in ${paths.join(' ')}; do dd if=$disk bs=4k count=64 iflag=direct of=/dev/null; done`,
        );
      }
      await guest.run('sleep 1; touch /run/moved');
    })();
    await Promise.all([moves, ...verify, ...cached]);
    const controllers = (await daemon.rpc('vhost_get_controllers')) as { ctrlr: string }[];
    expect(controllers).toHaveLength(4);
  });
});
