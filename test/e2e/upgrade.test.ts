/**
 * The daemon is replaced by a new one, several times, under a guest that writes and verifies on a blk disk with split
 * rings and a SCSI disk with packed ones. QEMU is not told to reconnect: a connection that ends would be the end.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { whyNoGuests } from './requirements.ts';

const UPGRADES = Number(process.env['RINGHOST_UPGRADES'] ?? 3);
const MIB = 1 << 20;
const SIZE_MIB = 16;
const QUEUES = 2;
const LONG_MS = 600_000;
/** Below the slots that `Guest` gives to its disks. */
const SCSI_SLOT = 0x0f;
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');

describe.skipIf(whyNoGuests() !== null)('a guest whose daemon is upgraded', () => {
  const directory = mkdtempSync(join(ON_DISK, 'upgrade-guest-'));
  let daemon: Daemon;
  let guest: Guest;

  beforeAll(async () => {
    daemon = await Daemon.start({ args: ['--state-dir', join(directory, 'state')] });
    for (const name of ['Blk', 'Scsi']) {
      const filename = join(directory, name);
      writeFileSync(filename, '');
      truncateSync(filename, SIZE_MIB * MIB);
      await daemon.rpc('bdev_aio_create', { name, filename });
    }
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'blk', dev_name: 'Blk' });
    await daemon.rpc('vhost_create_scsi_controller', { ctrlr: 'scsi' });
    await daemon.rpc('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'Scsi' });
    const scsi = `vhost-user-scsi-pci,chardev=scsi,num_queues=${QUEUES},packed=on,addr=${SCSI_SLOT.toString(16)}`;
    guest = await Guest.start({
      name: 'upgrade',
      cpus: QUEUES,
      memoryMiB: 512,
      disks: [{ id: 'disk', socketPath: daemon.socketPath('blk'), queues: QUEUES }],
      qemuArgs: ['-chardev', `socket,id=scsi,path=${daemon.socketPath('scsi')}`, '-device', scsi],
    });
  }, LONG_MS);

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  /** Until the guest saw more requests of each disk end than now. */
  async function goesOn(paths: readonly string[]): Promise<void> {
    const names = paths.map((path) => path.replace('/dev/', ''));
    await guest.run(
      `ended() { read -r reads _ _ _ writes _ </sys/block/$1/stat; echo $((reads + writes)); }
      for name in ${names.join(' ')}; do
        first=$(ended $name)
        until [ $(ended $name) -ge $((first + 64)) ]; do sleep 0.05; done
      done`,
      { timeoutMs: LONG_MS },
    );
  }

  test(
    'goes on, and finds everything that it wrote',
    async () => {
      const pattern = '/sys/class/scsi_device/*:0:0:0/device/block/*';
      const { stdout } = await guest.run(`until ls -d ${pattern} 2>/dev/null; do sleep 0.1; done`);
      const paths = [await guest.devicePath('disk'), `/dev/${stdout.trim().split('/').at(-1)}`];
      const verified = paths.map((path, i) =>
        guest.run(
          `round=0
          until [ -e /run/stop ]; do
            round=$((round + 1))
            # With another seed no block of the round before is taken for one of this.
            fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=16 --bs=4k --size=2M \\
              --rw=randwrite --randseed=$round --verify=crc32c --verify_fatal=1 --output=/tmp/fio-${i}.txt ||
              { cat /tmp/fio-${i}.txt; exit 1; }
          done
          echo $round`,
          { timeoutMs: LONG_MS },
        ),
      );
      const pauses: number[] = [];
      const upgraded = (async () => {
        for (let i = 0; i < UPGRADES; i++) {
          await goesOn(paths);
          pauses.push(await daemon.upgrade());
        }
        await goesOn(paths);
        await guest.run('touch /run/stop');
      })();
      const [, ...rounds] = await Promise.all([upgraded, ...verified]);
      console.info(`pauses of ${pauses.join(', ')} ms, ${rounds.map((one) => one.stdout.trim())} rounds verified`);
      expect((await guest.run('dmesg')).stdout).not.toMatch(/I\/O error/);
    },
    LONG_MS * (1 + UPGRADES / 10),
  );
});
