/**
 * Each kind of disk that a daemon hands over to a new one (docs/upgrade.md), under verified load: it loses nothing when
 * that works, and nothing when the new daemon fails in the middle of it. Kinds that cannot be are refused by name.
 */
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { RpcClient } from '../../src/rpc/client.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { FakeNbdServer } from '../support/fake-nbd-server.ts';
import { NbdServer } from '../support/nbd-servers.ts';
import { NvmeTcpTarget, TARGET_NQN } from '../support/nvme-tcp-target.ts';
import { connectBlk, connectScsi, STAMPED_BYTES, type StampedDisk, StampedLoad } from '../support/stamped-load.ts';
import { PATIENT, strayAnswers } from '../support/upgrade-load.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

/** Of waits and of requests: a machine may be slow. */
const LONG_MS = 120_000;

let daemon: RinghostDaemon;
const closers: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  daemon = await RinghostDaemon.start();
  closers.push(() => daemon.close());
  onTestFailed(() => console.log(`--- the daemon's log\n${daemon.log}`));
});

afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

async function started<T extends { close(): Promise<unknown> }>(server: Promise<T>): Promise<T> {
  const one = await server;
  closers.push(() => one.close());
  return one;
}

/** A disk behind a controller of its own. */
async function connect(name: string, kind: 'blk' | 'scsi'): Promise<StampedDisk> {
  const ctrlr = `${name.replace('/', '-')}.${kind}`;
  const options = { timeoutMs: LONG_MS };
  if (kind === 'blk') {
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr, dev_name: name });
    return await connectBlk(join(daemon.directory, ctrlr), { ...options, isPacked: true });
  }
  await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr });
  await daemon.rpc.call('vhost_scsi_controller_add_target', { ctrlr, scsi_target_num: 0, bdev_name: name });
  return await connectScsi(join(daemon.directory, ctrlr), options);
}

/** Snapshots of a volume come and go: all that is written meanwhile takes clusters, and gives them back. */
class Churn {
  #isStopping = false;
  readonly #running: Promise<number>;

  constructor(lvol_name: string) {
    this.#running = this.#churn(lvol_name);
  }

  /** Resolves with how many there were. */
  stop(): Promise<number> {
    this.#isStopping = true;
    return this.#running;
  }

  async #churn(lvol_name: string): Promise<number> {
    let [made, number] = [0, 0];
    // Calls are refused while a daemon hands over, and closed when it has.
    const tried = (call: Promise<unknown>): Promise<boolean> =>
      call.then(
        () => true,
        () => false,
      );
    while (!this.#isStopping) {
      await setImmediate();
      // Of its own: a call on one that closes could fail the answer to the upgrade with it.
      using rpc = await RpcClient.connect(join(daemon.directory, 'rpc.sock')).catch(() => null);
      if (rpc === null) continue;
      const snapshot_name = `snapshot${++number}`;
      if (await tried(rpc.call('bdev_lvol_snapshot', { lvol_name, snapshot_name }))) made++;
      for (const { alias, is_snapshot } of await rpc.call('bdev_lvol_get_lvols', {}).catch(() => [])) {
        if (is_snapshot) await tried(rpc.call('bdev_lvol_delete', { name: alias }));
      }
    }
    return made;
  }
}

describe('an upgrade under load loses nothing', () => {
  test(
    'of RAM disks in the memory of the daemon, also above a stacked one',
    async () => {
      const num_blocks = STAMPED_BYTES / 512;
      for (const name of ['Ram', 'Other', 'Base']) {
        await daemon.rpc.call('bdev_malloc_create', { name, num_blocks, block_size: 512 });
      }
      await daemon.rpc.call('bdev_passthru_create', { name: 'Stacked', base_bdev_name: 'Base' });
      const disks = [await connect('Ram', 'blk'), await connect('Other', 'scsi'), await connect('Stacked', 'blk')];
      expect(await strayAnswers(daemon, disks)).toBe(0);
      // What was handed over grows and shrinks as any other.
      await daemon.rpc.call('bdev_malloc_resize', { name: 'Ram', new_size: (STAMPED_BYTES >> 20) + 16 });
      await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'Ram.blk' });
      await daemon.rpc.call('bdev_malloc_resize', { name: 'Ram', new_size: 1 });
      await daemon.rpc.call('bdev_malloc_resize', { name: 'Ram', new_size: 8 });
      const again = await connect('Ram', 'blk');
      expect((await again.read(512, 0)).every((byte) => byte === 0)).toBe(true);
      again.close();
    },
    LONG_MS * 5,
  );

  test(
    'of volumes in a store, while snapshots of them come and go',
    async () => {
      await daemon.rpc.call('bdev_malloc_create', { name: 'Base', num_blocks: (64 << 20) / 512, block_size: 512 });
      const clusters = { cluster_sz: 16_384 };
      await daemon.rpc.call('bdev_lvol_create_lvstore', { bdev_name: 'Base', lvs_name: 'lvs', ...clusters });
      for (const lvol_name of ['thin', 'thick']) {
        const size = { size_in_mib: STAMPED_BYTES >> 20, thin_provision: lvol_name === 'thin' };
        await daemon.rpc.call('bdev_lvol_create', { lvs_name: 'lvs', lvol_name, ...size });
      }
      const disks = [await connect('lvs/thin', 'blk'), await connect('lvs/thick', 'scsi')];
      const churn = new Churn('lvs/thin');
      closers.push(() => churn.stop());
      expect(await strayAnswers(daemon, disks)).toBe(0);
      expect(await churn.stop()).toBeGreaterThan(3);
      const check = await daemon.rpc.call('bdev_lvol_check_lvstore', { lvs_name: 'lvs' });
      expect(check).toEqual({ name: 'lvs', is_consistent: true, faults: [] });
    },
    LONG_MS * 5,
  );

  describe.skipIf(whyNoTool('nbd') !== null)('of NBD disks', () => {
    test(
      'whose server keeps several connections consistent, or has one client only',
      async () => {
        const many = await started(NbdServer.nbdkitFile(STAMPED_BYTES));
        // The later of two --shared counts: with one client there is no CAN_MULTI_CONN.
        const one = await started(NbdServer.qemuNbd(STAMPED_BYTES, '--shared=1'));
        const other = await started(NbdServer.qemuNbd(STAMPED_BYTES, '--shared=1'));
        await daemon.rpc.call('bdev_nbd_create', { name: 'Many', uri: many.uri() });
        await daemon.rpc.call('bdev_nbd_create', { name: 'One', uri: one.uri() });
        await daemon.rpc.call('bdev_nbd_create', { name: 'Other', uri: other.uri() });
        expect(
          await strayAnswers(daemon, [
            await connect('Many', 'blk'),
            await connect('One', 'blk'),
            await connect('Other', 'scsi'),
          ]),
        ).toBe(0);
      },
      LONG_MS * 5,
    );
  });

  test(
    'of NVMe/TCP disks',
    async () => {
      const target = await new NvmeTcpTarget({ namespaceBytes: STAMPED_BYTES, queues: 32 }).listen();
      closers.unshift(() => target.kill());
      target.addNamespace(2);
      const address = { trtype: 'TCP', traddr: target.address, trsvcid: String(target.port), subnqn: TARGET_NQN };
      const digests = { hdgst: true, ddgst: true };
      await daemon.rpc.call('bdev_nvme_attach_controller', { name: 'Nvme0', ...address, ...digests });
      expect(await strayAnswers(daemon, [await connect('Nvme0n1', 'blk'), await connect('Nvme0n2', 'scsi')])).toBe(0);
    },
    LONG_MS * 5,
  );
});

test(
  'a new daemon has its connections made while the old one serves: guests do not wait for them',
  async () => {
    // One that asks what the export is, that of the old daemon's reactor, and that of the new one's.
    const [OLD, NEW] = [2, 3];
    let hasNewCome = false;
    let isServedMeanwhile = false;
    const meanwhile = Promise.withResolvers<void>();
    const server = await started(
      FakeNbdServer.listen(STAMPED_BYTES, {
        beforeGreeting: async (connection) => {
          if (connection !== NEW) return;
          hasNewCome = true;
          await meanwhile.promise;
        },
        onRequest: (_, connection) => {
          if (hasNewCome && connection === OLD) {
            isServedMeanwhile = true;
            meanwhile.resolve();
          }
          return null;
        },
      }),
    );
    await daemon.rpc.call('bdev_nbd_create', { name: 'Nbd', uri: server.uri });
    const disk = await connect('Nbd', 'blk');
    const load = new StampedLoad(disk);
    await daemon.upgrade(PATIENT);
    expect([hasNewCome, isServedMeanwhile, server.connections]).toEqual([true, true, NEW]);
    await load.stop();
    disk.close();
  },
  LONG_MS,
);

test('an upgrade refuses by name what two daemons cannot have', async () => {
  const other = await started(RinghostDaemon.start());
  await other.rpc.call('bdev_null_create', { name: 'Null', num_blocks: 2048, block_size: 512 });
  await other.rpc.call('vhost_create_blk_controller', { ctrlr: 'null', dev_name: 'Null' });
  await daemon.rpc.call('bdev_powercut_create', { name: 'Cut', num_blocks: 2048, block_size: 512 });
  await expect(daemon.upgrade()).rejects.toThrow('bdev "Cut": two daemons cannot have a');
  await daemon.rpc.call('delete_bdev', { name: 'Cut' });
  const filename = join(import.meta.dirname, 'fixtures', 'growing-disk.ts');
  await daemon.rpc.call('bdev_module_create', { name: 'Typed', path: filename });
  await expect(daemon.upgrade()).rejects.toThrow('bdev "Typed": two daemons cannot have a');
  await daemon.rpc.call('delete_bdev', { name: 'Typed' });
  const traddr = join(other.directory, 'null');
  await daemon.rpc.call('bdev_virtio_attach_controller', { name: 'V', trtype: 'user', traddr, dev_type: 'blk' });
  await expect(daemon.upgrade()).rejects.toThrow('"V" is the front-end of a target that has one at a time');
  await daemon.rpc.call('bdev_virtio_detach_controller', { name: 'V' });
});
