/**
 * The rounds: every scenario once on every target, one after the other (A B C A B C …), so that a noisy minute hits all
 * of them. All targets are started before, and stand still (SIGSTOP) while it is not their turn.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { LoadClient } from './client.ts';
import { makeFileBeside } from './file.ts';
import { measureNoise, type Noise, stealTicks } from './noise.ts';
import type { BenchOptions } from './options.ts';
import type { Outcome } from './report.ts';
import type { Sample, Scenario } from './scenarios/scenario.ts';
import type { Place, Target, TargetKind } from './targets/target.ts';

/** What a target still does about a connection that ended, before it is stopped. */
const SETTLE_MS = 20;

export interface Measurements {
  readonly outcomes: readonly Outcome[];
  /** What the targets are, by name. */
  readonly targets: Readonly<Record<string, string>>;
  /** Before every round. */
  readonly noise: readonly Noise[];
  readonly stealTicks: number;
  readonly elapsedMs: number;
  /** The signal that ended it before its time. */
  readonly stoppedBy?: string;
}

interface Row {
  readonly scenario: Scenario;
  readonly samples: Map<string, Sample[]>;
}

/** Who looks on. */
export interface Onlooker {
  say(line: string): void;
  /** So many of all measurements have been made. */
  measured(done: number, total: number): void;
}

/** `stop` ends it before its time, with the name of a signal as its reason: what was measured until then is kept. */
export async function runRounds(
  scenarios: readonly Scenario[],
  kinds: readonly TargetKind[],
  place: Place,
  { rounds, effort }: BenchOptions,
  onlooker: Onlooker,
  stop: AbortSignal,
): Promise<Measurements> {
  const rows: Row[] = scenarios.map((scenario) => ({
    scenario,
    samples: new Map(kinds.filter((kind) => scenario.runsOn(kind)).map(({ name }) => [name, []])),
  }));
  const targets = new Map<TargetKind, Target>();
  const noise: Noise[] = [];
  const roundsOf = ({ scenario }: Row): number => Math.min(rounds, scenario.roundsMax ?? rounds);
  const total = rows.reduce((sum, row) => sum + roundsOf(row) * row.samples.size, 0);
  let done = 0;
  const [sinceMs, stealBefore] = [performance.now(), stealTicks()];
  try {
    for (const kind of kinds) {
      const target = await kind.start(place);
      targets.set(kind, target);
      await fillDisks(kind, target);
      target.suspend();
      onlooker.say(`  ${target.name}: ${target.description}`);
    }
    for (let round = 0; round < rounds; round++) {
      noise.push(measureNoise([place.target, place.client]));
      for (const { scenario, samples } of rows) {
        if (round >= (scenario.roundsMax ?? rounds)) continue;
        for (const [kind, target] of rotated([...targets], round)) {
          stop.throwIfAborted();
          const list = samples.get(kind.name);
          if (list === undefined) continue;
          const instance =
            scenario.isFresh === true ? await kind.start({ ...place, file: makeFileBeside(place.file) }) : target;
          try {
            instance.resume();
            list.push(await scenario.measure(instance, effort));
            await delay(SETTLE_MS);
            onlooker.measured(++done, total);
          } finally {
            instance.suspend();
            if (instance !== target) await instance.stop();
          }
        }
      }
      onlooker.say(`round ${round + 1} of ${rounds} done, ${((performance.now() - sinceMs) / 1000).toFixed(0)} s`);
    }
  } catch (error) {
    // A terminal's signal ends the targets as well, and that may be seen before the signal itself.
    await delay(SETTLE_MS);
    if (!stop.aborted) throw error;
  } finally {
    for (const target of targets.values()) await target.stop();
  }
  return {
    outcomes: rows,
    targets: Object.fromEntries([...targets.values()].map(({ name, description }) => [name, description])),
    noise,
    stealTicks: stealTicks() - stealBefore,
    elapsedMs: performance.now() - sinceMs,
    ...(stop.aborted ? { stoppedBy: String(stop.reason) } : {}),
  };
}

/** Another one is first in every round: a disk that has rested takes the first writes faster. */
function rotated<T>(list: readonly T[], by: number): T[] {
  const at = by % Math.max(1, list.length);
  return [...list.slice(at), ...list.slice(0, at)];
}

/** Pages that were never touched are read and written faster, or slower, than those of a disk in use. */
async function fillDisks(kind: TargetKind, target: Target): Promise<void> {
  if (target.measureAlone !== undefined) return;
  for (const protocol of ['blk', 'scsi'] as const) {
    if (!kind.serves({ protocol, disk: 'ram' })) continue;
    const shape = { format: 'indirect', queues: 1, depth: 8, blockBytes: 128 * 1024 } as const;
    const load = { ...shape, protocol, pattern: 'sequential', writePercent: 100 } as const;
    const client = await LoadClient.connect(target.path({ protocol, disk: 'ram' }), load);
    client.fill();
    await client.close();
  }
  await delay(SETTLE_MS);
}
