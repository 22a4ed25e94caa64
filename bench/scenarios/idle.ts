/**
 * What idleness costs, and what it costs to end it. Only Ringhost: no other target has the controls, and SPDK's never
 * sleeps. A row that compares two ways of running measures both in the same round.
 */
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '../../src/base/assert.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { NO_HEAD } from '../../src/initiator/driver-ring.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { clockNs } from '../../src/sys/thread.ts';
import { QUEUES_MAX } from '../../src/virtio/features.ts';
import type { Load } from '../client.ts';
import { summarize } from '../statistics.ts';
import { RINGHOST } from '../targets/ringhost.ts';
import { SLEEPER, SLEEPER_VARIANTS } from '../targets/sleeper.ts';
import { cpuTimeNs, type Endpoint, type Target } from '../targets/target.ts';
import { COMPARISON, iopsOf } from './load.ts';
import { type Effort, formatNs, type Sample, type Scenario } from './scenario.ts';

const RAM: Endpoint = { protocol: 'blk', disk: 'ram' };
export const RAM_CTRLR = 'blk-ram';
const IDLE_BDEV = 'Null0';
const KIB = 1024;
/** Idle controllers are left alone for so long before anything is measured: then their queues wait for kicks. */
const SETTLE_MS = 500;
/** A reactor has been asleep for most of this. */
const NAP_MS = 3;
const WAKE_UPS = 100;
/** One measurement of idle processor time: long enough to see a hundredth of a percent. */
const IDLE_MS = 2000;

const LOAD = { protocol: 'blk', format: 'indirect', pattern: 'random', writePercent: 0, blockBytes: 4 * KIB } as const;

async function connectRpc(target: Target): Promise<RpcClient> {
  return await RpcClient.connect(join(dirname(target.path(RAM)), 'rpc'));
}

/** Runs `work` beside guests that have started their rings and do nothing. */
async function withIdleGuests<T>(target: Target, guests: number, queues: number, work: () => Promise<T>): Promise<T> {
  using rpc = await connectRpc(target);
  const directory = dirname(target.path(RAM));
  const names = Array.from({ length: guests }, (_, i) => `idle.${i}`);
  const initiators: BlkInitiator[] = [];
  try {
    for (const ctrlr of names) {
      await rpc.call('vhost_create_blk_controller', { ctrlr, dev_name: IDLE_BDEV });
      const initiator = await BlkInitiator.connect(join(directory, ctrlr), { queues, queueSize: 16 });
      initiators.push(initiator);
      await initiator.read(0, 512);
    }
    await delay(SETTLE_MS);
    return await work();
  } finally {
    for (const initiator of initiators) {
      await initiator.stop();
      initiator.close();
      initiator.memory.close();
    }
    for (const ctrlr of names) await rpc.call('vhost_delete_controller', { ctrlr, force: true });
  }
}

async function idleCpu(target: Target): Promise<Sample> {
  return await withIdleGuests(target, 64, 1, async () => {
    const [beforeNs, beforeMs] = [cpuTimeNs(target.pid), performance.now()];
    await delay(IDLE_MS);
    return { cpu: (cpuTimeNs(target.pid) - beforeNs) / ((performance.now() - beforeMs) * 1e6) };
  });
}

async function idleNeighbours(target: Target, depth: number, effort: Effort): Promise<Sample> {
  const load: Load = { ...LOAD, queues: 1, depth };
  const base = await iopsOf(target, RAM, load, effort);
  const guests = Math.ceil(1000 / QUEUES_MAX);
  const iops = await withIdleGuests(target, guests, QUEUES_MAX, () => iopsOf(target, RAM, load, effort));
  return { iops, base, ratio: iops / base };
}

/** The same load before and after the parameters of the RAM disk's controller are changed, in both orders. */
export async function compared(
  target: Target,
  load: Load,
  effort: Effort,
  set: (rpc: RpcClient, isOther: boolean) => Promise<unknown>,
): Promise<Sample> {
  using rpc = await connectRpc(target);
  const iops = [0, 0];
  for (const isOther of [false, true, true, false]) {
    await set(rpc, isOther);
    iops[isOther ? 1 : 0] = (iops[isOther ? 1 : 0] as number) + (await iopsOf(target, RAM, load, effort)) / 2;
  }
  const [own = Number.NaN, base = Number.NaN] = iops;
  return { iops: own, base, ratio: own / base };
}

async function wakeUp(target: Target): Promise<Sample> {
  const initiator = await BlkInitiator.connect(target.path(RAM), { queues: 1 });
  try {
    const queue = initiator.queue(0);
    const { ring } = queue;
    const latencies: number[] = [];
    const { memory } = initiator;
    const header = memory.allocate(16);
    memory.write(header, new Uint8Array(16));
    const head = ring.addChain([
      { gpa: header, lengthBytes: 16, isWritable: false },
      { gpa: memory.allocate(4 * KIB, { alignment: 4 * KIB }), lengthBytes: 4 * KIB, isWritable: true },
      { gpa: memory.allocate(1), lengthBytes: 1, isWritable: true },
    ]);
    ring.refuseCalls();
    for (let tries = 0; latencies.length < WAKE_UPS; tries++) {
      assert(tries < 10 * WAKE_UPS, 'the reactor goes to sleep');
      await delay(NAP_MS);
      const kicks = queue.kicks;
      const startNs = clockNs();
      ring.expose(head);
      queue.publish();
      while (ring.popUsed() === NO_HEAD) {
        // The device has its own core.
      }
      // Without a kick it was awake: something else kept it from its sleep.
      if (queue.kicks > kicks) latencies.push(clockNs() - startNs);
    }
    const sorted = latencies.toSorted((a, b) => a - b);
    return { p50: summarize(latencies).median, p90: sorted[Math.floor(WAKE_UPS * 0.9)] ?? Number.NaN };
  } finally {
    await initiator.stop();
    initiator.close();
    initiator.memory.close();
  }
}

const WOKEN = new Set([RINGHOST, SLEEPER, ...SLEEPER_VARIANTS].map(({ name }) => name));
const isRinghost: Scenario['runsOn'] = (kind) => kind.name === RINGHOST.name;

const neighbourRows = [1, 128].map(
  (depth): Scenario => ({
    group: 'A busy queue beside 1,000 idle ones (compared with none)',
    name: `blk, RAM disk, 4 KiB random read, depth ${depth}`,
    metrics: COMPARISON,
    isDetail: true,
    runsOn: isRinghost,
    measure: (target, effort) => idleNeighbours(target, depth, effort),
  }),
);

const modeRows = [1, 32, 128].map(
  (depth): Scenario => ({
    group: 'Adaptive mode (compared with poll)',
    name: `blk, RAM disk, 4 KiB random read, depth ${depth}`,
    metrics: COMPARISON,
    isDetail: depth === 32,
    runsOn: isRinghost,
    measure: (target, effort) =>
      compared(target, { ...LOAD, queues: 1, depth }, effort, (rpc, isOther) =>
        rpc.call('vhost_controller_set_mode', { ctrlr: RAM_CTRLR, mode: isOther ? 'poll' : 'adaptive' }),
      ),
  }),
);

const placementRow: Scenario = {
  group: 'Queues spread, one reactor (compared with pinned)',
  name: 'blk, RAM disk, 4 queues, 4 KiB random read, depth 4 × 32',
  metrics: COMPARISON,
  isDetail: true,
  runsOn: isRinghost,
  measure: (target, effort) =>
    compared(target, { ...LOAD, queues: 4, depth: 32 }, effort, (rpc, isOther) =>
      rpc.call('vhost_controller_set_placement', {
        ctrlr: RAM_CTRLR,
        queue_placement: isOther ? 'pinned' : 'spread',
      }),
    ),
};

export const IDLE_SCENARIOS: readonly Scenario[] = [
  {
    group: 'Idle guests',
    name: '64 controllers, each with a guest',
    metrics: [{ key: 'cpu', title: 'CPU', format: (share) => `${(share * 100).toFixed(3)} %`, hasRange: true }],
    isLessBetter: true,
    runsOn: isRinghost,
    measure: idleCpu,
  },
  {
    group: 'First request after sleep',
    name: 'blk, RAM disk, 4 KiB read',
    metrics: [
      { key: 'p50', title: 'p50', format: formatNs, hasRange: true },
      { key: 'p90', title: 'p90', format: formatNs },
    ],
    isLessBetter: true,
    runsOn: ({ name }) => WOKEN.has(name),
    measure: async (target, effort) =>
      (await target.measureAlone?.({ ...LOAD, queues: 1, depth: 1 }, effort)) ?? (await wakeUp(target)),
  },
  ...neighbourRows,
  ...modeRows,
  placementRow,
];
