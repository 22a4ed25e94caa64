/**
 * `npm run bench`: Ringhost, its peers and its limits, in the same run on the same core.
 *
 * One polling client (this process, on the first core) drives one target after the other (each on the second core, all
 * others stopped) in interleaved rounds, so that a noisy minute hits all of them; the tables show medians with their
 * range, and ratios taken pair by pair.
 *
 *   npm run bench -- [--only PATTERN] [--targets PATTERN] [--rounds N] [--seconds S] [--quick] [--json FILE]
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { allowedCores, pinToCore } from '../src/sys/thread.ts';
import { type Outcome, report } from './report.ts';
import { SCENARIOS } from './scenarios/all.ts';
import type { Effort, Sample } from './scenarios/scenario.ts';
import { LIMIT } from './targets/limit.ts';
import { QEMU_STORAGE_DAEMON } from './targets/qemu.ts';
import { RINGHOST } from './targets/ringhost.ts';
import { SPDK } from './targets/spdk.ts';
import type { Target, TargetKind } from './targets/target.ts';

const KINDS: readonly TargetKind[] = [RINGHOST, SPDK, QEMU_STORAGE_DAEMON, LIMIT];

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    targets: { type: 'string', default: '' },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});

async function main(): Promise<void> {
  const rounds = Number(options.rounds ?? (options.quick ? 2 : 5));
  const effort: Effort = { durationMs: Number(options.seconds ?? (options.quick ? 0.3 : 0.5)) * 1000, warmUpMs: 100 };
  const [clientCore, targetCore] = allowedCores();
  if (clientCore === undefined || targetCore === undefined) throw new Error('two cores are needed: one a side');
  const only = new RegExp(options.only, 'i');
  const scenarios = SCENARIOS.filter(
    ({ group, name, isDetail }) => only.test(`${group}: ${name}`) && !(options.quick && isDetail === true),
  );
  const kinds = KINDS.filter((kind) => {
    if (!new RegExp(options.targets, 'i').test(kind.name)) return false;
    const reason = kind.unavailable();
    if (reason !== null) console.log(`${kind.name} is left out: ${reason}`);
    return reason === null;
  });
  const targets: Target[] = [];
  const outcomes = scenarios.map((scenario) => ({
    scenario,
    samples: new Map<string, Sample[]>(kinds.filter((kind) => scenario.runsOn(kind)).map(({ name }) => [name, []])),
  }));
  try {
    for (const kind of kinds) {
      const target = await kind.start(targetCore);
      target.suspend();
      targets.push(target);
    }
    pinToCore(clientCore);
    console.log(`${cpus()[0]?.model}; client on core ${clientCore}, targets on core ${targetCore}; ${rounds} rounds`);
    for (const target of targets) console.log(`  ${target.name}: ${target.description}`);
    for (let round = 0; round < rounds; round++) {
      for (const { scenario, samples } of outcomes) {
        for (const target of targets) {
          const list = samples.get(target.name);
          if (list === undefined) continue;
          target.resume();
          list.push(await scenario.measure(target, effort));
          target.suspend();
        }
      }
    }
  } finally {
    for (const target of targets) await target.stop();
  }
  console.log(`\n${report(outcomes, RINGHOST.name)}`);
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(plain(outcomes), null, 2)}\n`);
}

function plain(outcomes: readonly Outcome[]): unknown {
  return outcomes.map(({ scenario, samples }) => ({
    group: scenario.group,
    name: scenario.name,
    samples: Object.fromEntries(samples),
  }));
}

await main();
