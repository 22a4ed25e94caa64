/**
 * One disk over two cores, compared with one core. There is no third for the client, so that one sleeps whenever it has
 * nothing to do: its requests are so many, or so large, that the reactors have work until it looks again.
 */
import { type Load, LoadClient } from '../client.ts';
import { RINGHOST_TWICE } from '../targets/ringhost.ts';
import type { Endpoint, Target } from '../targets/target.ts';
import { compared, RAM_CTRLR } from './idle.ts';
import { COMPARISON } from './load.ts';
import type { Effort, Sample, Scenario } from './scenario.ts';

const RAM: Endpoint = { protocol: 'blk', disk: 'ram' };
const NAP_NS = 50_000;
const KIB = 1024;

async function fill(target: Target, load: Load): Promise<void> {
  const client = await LoadClient.connect(target.path(RAM), load);
  client.fill();
  await client.close();
}

/** Both cores, and the target's own, which is the last one. */
async function measure(target: Target, load: Load, effort: Effort): Promise<Sample> {
  await fill(target, load);
  return await compared(target, load, effort, async (rpc, isOther) => {
    const { reactors } = await rpc.call('framework_get_reactors');
    const cores = reactors.map(({ lcore }) => lcore);
    const cpumask = `[${isOther ? cores.at(-1) : cores}]`;
    await rpc.call('vhost_controller_set_placement', { ctrlr: RAM_CTRLR, cpumask, queue_placement: 'spread' });
  });
}

const SIZES = [
  { title: '4 KiB random read', blockBytes: 4 * KIB, pattern: 'random', depth: 256 },
  { title: '128 KiB sequential read', blockBytes: 128 * KIB, pattern: 'sequential', depth: 32 },
] as const;

export const CORES_SCENARIOS: readonly Scenario[] = SIZES.map(({ title, blockBytes, pattern, depth }) => {
  const common = { protocol: 'blk', format: 'indirect', queues: 4, writePercent: 0, napNs: NAP_NS } as const;
  const load: Load = { ...common, blockBytes, pattern, depth };
  return {
    group: 'Queues spread over two cores (compared with one)',
    name: `blk, RAM disk, 4 queues, ${title}, depth 4 × ${depth}`,
    metrics: COMPARISON,
    isDetail: true,
    runsOn: ({ name }) => name === RINGHOST_TWICE.name,
    measure: (target, effort) => measure(target, load, effort),
  };
});
