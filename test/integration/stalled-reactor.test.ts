/**
 * A reactor that stands still in a debugger: its own queues wait, and nobody else does. When it goes on, so do they,
 * with nothing lost.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { WorkerDebugger } from '../support/inspector.ts';
import { until } from '../support/waiting.ts';
import { MIB, pattern, writeAndReadBack } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const cores = allowedCores().slice(0, 2);
const [stalledCore = 0, otherCore = 0] = cores;
/** A few requests wake it; more than fit into a ring would fail. */
const IN_FLIGHT_MAX = 16;
const PATIENT = { timeoutMs: 60_000, queueSize: 256 };

let daemon: RinghostDaemon | null = null;
afterEach(() => daemon?.close());

/** A daemon that a debugger can attach to, with a disk on each of two reactors. */
async function start(): Promise<{ served: RinghostDaemon; inspector: string }> {
  expect(cores).toHaveLength(2);
  process.env['NODE_OPTIONS'] = '--inspect=127.0.0.1:0';
  try {
    daemon = await RinghostDaemon.start(['-m', `[${cores}]`]);
  } finally {
    delete process.env['NODE_OPTIONS'];
  }
  const served = daemon;
  const find = (): string => /Debugger listening on (ws:\S+)/.exec(served.log)?.[1] ?? '';
  await until(() => find() !== '', 'debugger');
  for (const [name, core] of [
    ['stalled', stalledCore],
    ['other', otherCore],
  ] as const) {
    await served.rpc.call('bdev_malloc_create', { name, num_blocks: MIB / 512, block_size: 512 });
    await served.rpc.call('vhost_create_blk_controller', { ctrlr: name, dev_name: name, cpumask: `[${core}]` });
  }
  return { served, inspector: find() };
}

const ctrlrs = async (rpc: RpcClient): Promise<string[]> =>
  (await rpc.call('vhost_get_controllers')).map(({ ctrlr }) => ctrlr);

describe('a reactor that a debugger has stopped', () => {
  it('stops its own queues and calls about them, nobody else, and goes on where it was', async () => {
    const { served, inspector } = await start();
    const { rpc, directory } = served;
    const stalled = await BlkInitiator.connect(`${directory}/stalled`, PATIENT);
    const other = await BlkInitiator.connect(`${directory}/other`, PATIENT);
    const data = pattern(4096, 1);
    await stalled.write(0, data);
    const gdb = await WorkerDebugger.attach(inspector, `reactor_${stalledCore}`);

    // Writes wake it until one of them finds it stopped.
    const outcomes: Promise<string>[] = [];
    const submit = (request: Promise<unknown>): void => {
      outcomes.push(
        request.then(
          () => 'done',
          () => 'failed',
        ),
      );
    };
    await gdb.pause(() => {
      if (stalled.queue(0).pendingCount < IN_FLIGHT_MAX) submit(stalled.write((outcomes.length % 200) * 8, data));
    });
    let isAnswered = false;
    submit(stalled.read(0, 4096).finally(() => (isAnswered = true)));

    // The other guest, clients, and a front-end that comes now.
    await writeAndReadBack(other, 0, pattern(4096, 2));
    expect(await ctrlrs(rpc)).toEqual(['stalled', 'other']);
    expect((await rpc.call('framework_get_reactors')).reactors).toHaveLength(2);
    expect(await rpc.call('bdev_get_iostat')).toBeDefined();
    other.close();
    const next = await BlkInitiator.connect(`${directory}/other`, PATIENT);
    await writeAndReadBack(next, 64, pattern(4096, 3));

    // A call about its queues waits ten seconds and says so; other clients do not wait with it.
    const deleting = rpc.call('vhost_delete_controller', { ctrlr: 'stalled', force: true }).then(
      () => 'done',
      (error: Error) => error.message,
    );
    using second = await RpcClient.connect(`${directory}/rpc.sock`);
    expect(await second.call('spdk_get_version')).toBeDefined();
    expect(await deleting).toContain(`the reactor on core ${stalledCore} does not answer after 10 s`);
    expect(await ctrlrs(second)).toEqual(['other']);
    await writeAndReadBack(next, 128, pattern(4096, 4));
    expect(isAnswered).toBe(false);

    await gdb.resume();
    // The controller is gone by now: what was in flight is answered, well or with the error of a disk that is gone.
    await Promise.all(outcomes);
    expect(isAnswered).toBe(true);
    await writeAndReadBack(next, 0, pattern(4096, 5));
    stalled.close();
    next.close();
    gdb.close();
    await until(() => /front-end disconnected/.test(served.log), 'end of the session');
  });

  it('loses nothing of a guest that waits for it', async () => {
    const { served, inspector } = await start();
    const disk = await BlkInitiator.connect(`${served.directory}/stalled`, PATIENT);
    const gdb = await WorkerDebugger.attach(inspector, `reactor_${stalledCore}`);
    const writes: Promise<void>[] = [];
    await gdb.pause(() => {
      if (disk.queue(0).pendingCount < IN_FLIGHT_MAX) writes.push(disk.write((writes.length % 32) * 8, pattern(4096)));
    });
    for (let i = 0; i < 32; i++) writes.push(disk.write(512 + i * 8, pattern(4096, 100 + i)));
    await sleep(300);
    await gdb.resume();
    await Promise.all(writes);
    for (let i = 0; i < 32; i++) expect(await disk.read(512 + i * 8, 4096)).toEqual(pattern(4096, 100 + i));
    disk.close();
    gdb.close();
  });
});
