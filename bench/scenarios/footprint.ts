/**
 * What a target costs before it serves anything: the time from its start until its controllers can be connected to, the
 * memory that it keeps, and the processor time that it takes with nothing to do.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { cpuTimeNs, DISK_MIB, memoryOf, type Target } from '../targets/target.ts';
import { type Effort, formatMib, formatMs, formatShare, type Sample, type Scenario } from './scenario.ts';

const ENDPOINT = { protocol: 'blk', disk: 'ram' } as const;
/** Time for a target to notice that nothing happens any more. */
const SETTLE_MS = 300;
/** Processor time is counted over at least this long. */
const IDLE_MS_MIN = 500;
/** Starting programs takes longer than measuring them. */
const ROUNDS_MAX = 3;

async function idleShare(target: Target, durationMs: number): Promise<number> {
  const [beforeNs, sinceMs] = [cpuTimeNs(target.pid), performance.now()];
  await delay(durationMs);
  return (cpuTimeNs(target.pid) - beforeNs) / ((performance.now() - sinceMs) * 1e6);
}

async function measure(target: Target, effort: Effort): Promise<Sample> {
  const idleMs = Math.max(IDLE_MS_MIN, effort.durationMs);
  const { rss, pss } = memoryOf(target.pid);
  const alone = await idleShare(target, idleMs);
  const guest = await BlkInitiator.connect(target.path(ENDPOINT));
  await guest.read(0, 4096);
  await delay(SETTLE_MS);
  const connected = await idleShare(target, idleMs);
  await guest.stop();
  guest.close();
  return { startMs: target.startMs, rss, pss, alone, connected };
}

export const FOOTPRINT_SCENARIOS: readonly Scenario[] = [
  {
    group: 'Footprint',
    name: `RAM and null disks of ${DISK_MIB} MiB, one reactor`,
    metrics: [
      { key: 'startMs', title: 'start to ready', format: formatMs },
      { key: 'rss', title: 'RSS', format: formatMib },
      { key: 'pss', title: 'PSS', format: formatMib },
      { key: 'alone', title: 'CPU, no guest', format: formatShare },
      { key: 'connected', title: 'CPU, one idle guest', format: formatShare },
    ],
    isLessBetter: true,
    isFresh: true,
    roundsMax: ROUNDS_MAX,
    runsOn: ({ role, serves }) => role !== 'limit' && serves({ protocol: 'blk', disk: 'ram' }),
    measure,
  },
];
