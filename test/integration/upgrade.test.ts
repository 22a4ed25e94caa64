/**
 * A daemon hands everything over to a new one under load: no request fails, none is lost or mixed up, no front-end
 * loses its connection. And when it goes wrong at any step the old one serves on. RINGHOST_UPGRADES is how often;
 * docs/reliability.md has the figures of a long run.
 */
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { encodeMessage, HeaderFlag, REQUESTS } from '../../src/vhost-user/messages.ts';
import { waitUntil } from '../e2e/wait.ts';
import { connectBlk, connectScsi, STAMPED_BYTES, type StampedDisk, StampedLoad } from '../support/stamped-load.ts';
import { PATIENT, spreadOf } from '../support/upgrade-load.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const UPGRADES = Number(process.env.RINGHOST_UPGRADES ?? 3);
const LIFE_MS_MAX = 300;
/** Of waits and of requests: a machine may be slow. */
const LONG_MS = 120_000;
const MORTAL_VERSION = join(import.meta.dirname, 'fixtures', 'mortal-version.ts');
/** A file system on a disk, with O_DIRECT where it can. */
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');
const SHM = `upgrade-${process.pid}`;

let directory: string;
let daemon: RinghostDaemon;

beforeEach(async () => {
  directory = mkdtempSync(join(ON_DISK, 'upgrade-'));
  daemon = await RinghostDaemon.start(['--state-dir', join(directory, 'state')]);
  onTestFailed(() => console.log(`--- the daemon's log\n${daemon.log}`));
});

afterEach(async () => {
  try {
    await daemon.close();
  } finally {
    rmSync(directory, { recursive: true });
    rmSync(`/dev/shm/ringhost.${SHM}`, { force: true });
  }
});

async function makeFileDisk(name: string): Promise<void> {
  const filename = join(directory, name);
  writeFileSync(filename, '');
  truncateSync(filename, STAMPED_BYTES);
  await daemon.rpc.call('bdev_aio_create', { name, filename });
}

async function serveBlk(name: string): Promise<string> {
  await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: `${name}.blk`, dev_name: name });
  return join(daemon.directory, `${name}.blk`);
}

async function serveScsi(name: string): Promise<string> {
  const ctrlr = `${name}.scsi`;
  await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr });
  await daemon.rpc.call('vhost_scsi_controller_add_target', { ctrlr, scsi_target_num: 0, bdev_name: name });
  return join(daemon.directory, ctrlr);
}

describe('an upgrade', () => {
  test(
    'under load loses nothing on split and packed rings, on blk and scsi, on files and RAM disks',
    async () => {
      const num_blocks = STAMPED_BYTES / 512;
      await daemon.rpc.call('bdev_malloc_create', { name: 'Ram', num_blocks, block_size: 512, shm_name: SHM });
      for (const name of ['File', 'OtherFile', 'ScsiFile']) await makeFileDisk(name);
      await daemon.rpc.call('bdev_passthru_create', { name: 'Stacked', base_bdev_name: 'OtherFile' });
      const options = { timeoutMs: LONG_MS };
      const disks: StampedDisk[] = [
        await connectBlk(await serveBlk('File'), options),
        await connectBlk(await serveBlk('Ram'), { ...options, isPacked: true }),
        await connectScsi(await serveScsi('ScsiFile'), options),
        await connectScsi(await serveScsi('Stacked'), { ...options, isPacked: true }),
      ];
      const loads = disks.map((disk) => new StampedLoad(disk));
      const pauses: number[] = [];
      for (let i = 0; i < UPGRADES; i++) {
        await sleep(Math.random() * LIFE_MS_MAX);
        const { pid } = daemon;
        const before = loads.map(({ writes }) => writes);
        const { pause_ms, sessions } = await daemon.upgrade(PATIENT);
        expect(sessions).toBe(disks.length);
        expect(daemon.pid).not.toBe(pid);
        await waitUntil(() => !existsSync(`/proc/${pid}`), LONG_MS, 'end of the old daemon');
        for (const [at, load] of loads.entries()) {
          await waitUntil(() => load.writes > (before[at] as number), LONG_MS, 'writes by the new daemon');
        }
        pauses.push(pause_ms);
      }
      await Promise.all(loads.map((load) => load.stop()));
      await Promise.all(loads.map((load) => load.verify()));
      expect(disks.map((disk) => disk.unknownIds())).toEqual([0, 0, 0, 0]);
      const [writes, reads] = [loads.map((load) => load.writes), loads.map((load) => load.reads)];
      const longest = Math.max(...loads.map(({ longestMs }) => longestMs)).toFixed(1);
      const figures = `pauses: ${spreadOf(pauses)}, longest request ${longest} ms`;
      console.log(`${UPGRADES} upgrades: ${figures}, ${writes.join('+')} writes, ${reads.join('+')} reads`);
      for (const disk of disks) disk.close();
    },
    LONG_MS * 5,
  );

  test(
    'that fails at any step leaves the old daemon serving, with nothing lost',
    async () => {
      await makeFileDisk('File');
      const disk = await connectBlk(await serveBlk('File'), { timeoutMs: LONG_MS });
      const load = new StampedLoad(disk);
      const { pid } = daemon;
      const failing = async (step: string, how: 'exits' | 'hangs', limits = {}): Promise<string> => {
        const own = ['serve', '-S', daemon.directory, '-r', join(daemon.directory, 'rpc.sock'), '-m', '0x1'];
        const args = [MORTAL_VERSION, step, how, ...own, '--state-dir', join(directory, 'state')];
        const params = { exec: process.execPath, args, ...PATIENT, ...limits };
        const error = await daemon.rpc.call('framework_upgrade', params).catch((thrown: Error) => thrown);
        expect(error, `${step} ${how}`).toBeInstanceOf(Error);
        const { pid: now } = await daemon.rpc.call('framework_get_reactors');
        expect(now).toBe(pid);
        const before = load.writes;
        await waitUntil(() => load.writes > before + 10, LONG_MS, `writes after ${step} ${how}`);
        return (error as Error).message;
      };
      const steps = ['start', 'offer<', 'prepared>', 'prepared>>', 'state<', 'ready>', 'ready>>', 'go<', 'taken>'];
      for (const step of steps) expect(await failing(step, 'exits')).toContain('serves on');
      for (const step of ['offer<', 'prepared>']) {
        expect(await failing(step, 'hangs', { max_start_ms: 1500 })).toContain('more than 1500 ms to be ready');
      }
      for (const step of ['state<', 'ready>']) {
        // On a slow machine the requests in flight may take all of the time.
        const reason = /more than \d+ ms to take the sessions|are not done after 500 ms/;
        expect(await failing(step, 'hangs', { max_pause_ms: 500 })).toMatch(reason);
      }
      expect(await failing('go<', 'hangs')).toContain('before it took the rings');
      // What was tried has left nothing behind that is in the way.
      await daemon.upgrade(PATIENT);
      await load.stop();
      await load.verify();
      expect(disk.unknownIds()).toBe(0);
      disk.close();
    },
    LONG_MS * 5,
  );

  test(
    'does not wait for a request that takes too long, and that request ends as any other',
    async () => {
      await makeFileDisk('File');
      await daemon.rpc.call('bdev_error_create', { base_name: 'File' });
      const disk = await BlkInitiator.connect(await serveBlk('EE_File'), { timeoutMs: LONG_MS, queues: 2 });
      await daemon.rpc.call('bdev_error_inject_error', { name: 'EE_File', io_type: 'read', error_type: 'pending' });
      const slow = disk.read(0, 4096);
      await waitUntil(async () => (await inFlight('EE_File.blk')) === 1, LONG_MS, 'request in flight');
      await expect(daemon.upgrade({ max_pause_ms: 200 })).rejects.toThrow(
        /1 requests are not done after 200 ms.*serves on/,
      );
      await disk.write(8, new Uint8Array(4096).fill(1), { queue: 0 });
      await disk.write(16, new Uint8Array(4096).fill(2), { queue: 1 });
      await daemon.rpc.call('bdev_error_resume_pending', { name: 'EE_File' });
      expect((await slow).length).toBe(4096);
      disk.close();
    },
    LONG_MS,
  );

  test(
    'keeps what SCSI units know, and takes the rest of a message that had begun',
    async () => {
      await makeFileDisk('File');
      const path = await serveScsi('File');
      const host = await ScsiInitiator.connect(path, { timeoutMs: LONG_MS });
      await host.good({ cdb: [0x00, 0, 0, 0, 0, 0] });
      const key = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
      const register = new Uint8Array(24);
      register.set(key, 8);
      await host.good({ cdb: [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], out: register });
      await makeFileDisk('Other');
      const other = connect(await serveBlk('Other'));
      const message = encodeMessage(REQUESTS.GET_FEATURES.code, 0, new Uint8Array(0));
      other.write(message.subarray(0, 5));
      await waitUntil(
        async () => (await daemon.rpc.call('vhost_get_controllers')).some(isConnected),
        LONG_MS,
        'session',
      );
      await daemon.upgrade(PATIENT);
      // A unit that came with the new daemon would tell of its power-on first.
      const ready = await host.command({ cdb: [0x00, 0, 0, 0, 0, 0] });
      expect(ready.status).toBe(0);
      const keys = await host.good({ cdb: [0x5e, 0, 0, 0, 0, 0, 0, 0, 16, 0], inBytes: 16 });
      expect([...keys.subarray(8)]).toEqual([...key]);
      const reply = new Promise<Buffer>((resolve) => other.once('data', resolve));
      other.write(message.subarray(5));
      const bytes = await reply;
      expect(bytes.readUInt32LE(0)).toBe(REQUESTS.GET_FEATURES.code);
      expect(bytes.readUInt32LE(4) & HeaderFlag.reply).toBe(HeaderFlag.reply);
      other.destroy();
      host.close();
    },
    LONG_MS,
  );

  test(
    'keeps the configuration and the state directory',
    async () => {
      await makeFileDisk('File');
      await serveBlk('File');
      await daemon.rpc.call('log_set_level', { level: 'DEBUG' });
      const config = await daemon.rpc.call('save_config');
      // Both at once: one is refused. Changes are, too, until it is over.
      const [first, second] = await Promise.allSettled([
        daemon.upgrade(PATIENT),
        daemon.rpc.call('framework_upgrade', PATIENT),
      ]);
      expect(first.status).toBe('fulfilled');
      expect(second).toMatchObject({
        status: 'rejected',
        reason: { message: expect.stringContaining('being upgraded') },
      });
      expect(await daemon.rpc.call('save_config')).toEqual(config);
      expect(await daemon.rpc.call('log_get_level')).toBe('DEBUG');
      await daemon.rpc.call('bdev_null_create', { name: 'Null', num_blocks: 2048, block_size: 512 });
      await daemon.crash();
      await daemon.restart();
      await daemon.rpc.call('framework_wait_init');
      const bdevs = await daemon.rpc.call('bdev_get_bdevs');
      expect(bdevs.map(({ name }) => name)).toEqual(['File', 'Null']);
    },
    LONG_MS,
  );
});

async function inFlight(ctrlr: string): Promise<number> {
  const [controller] = await daemon.rpc.call('vhost_get_controllers', { name: ctrlr });
  return controller?.sessions[0]?.inflight_task_cnt ?? 0;
}

function isConnected({ ctrlr, sessions }: { ctrlr: string; sessions: readonly unknown[] }): boolean {
  return ctrlr === 'Other.blk' && sessions.length > 0;
}
