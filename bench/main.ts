/**
 * `npm run bench`: Ringhost, its peers and its limits, in the same run on the same core.
 *
 * One polling client (this process, on the first core) drives one target after the other (each on the second core, all
 * others stopped) in interleaved rounds; the tables show medians with their range, and ratios taken pair by pair.
 */
import { writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { Progress } from '../src/cli/progress.ts';
import { allowedCores, pinToCore } from '../src/sys/thread.ts';
import { makeFile, removeFile } from './file.ts';
import { describeMachine } from './machine.ts';
import { claimPriority, describeNoise } from './noise.ts';
import { type BenchOptions, HELP, parseOptions } from './options.ts';
import { plot } from './plot.ts';
import { report } from './report.ts';
import { type Onlooker, runRounds } from './run.ts';
import { SCENARIOS } from './scenarios/all.ts';
import type { Scenario } from './scenarios/scenario.ts';
import { startServers } from './servers.ts';
import { BARE_URINGS } from './targets/bare-uring.ts';
import { COPY } from './targets/copy.ts';
import { FIO, FIO_NBD, FIO_RBD } from './targets/fio.ts';
import { LIMIT, LIMIT_VARIANTS } from './targets/limit.ts';
import { QEMU_STORAGE_DAEMON } from './targets/qemu.ts';
import { RINGHOST, RINGHOST_TWICE } from './targets/ringhost.ts';
import { SLEEPER, SLEEPER_VARIANTS } from './targets/sleeper.ts';
import { SPDK } from './targets/spdk.ts';
import { FILE_BYTES, type Place, type TargetKind } from './targets/target.ts';

/** Every target has a file disk, also when none is measured. */
const FILE_BYTES_MIN = 1 << 20;

const KINDS: readonly TargetKind[] = [
  RINGHOST,
  RINGHOST_TWICE,
  SPDK,
  QEMU_STORAGE_DAEMON,
  LIMIT,
  COPY,
  FIO,
  FIO_RBD,
  FIO_NBD,
  SLEEPER,
  ...LIMIT_VARIANTS,
  ...SLEEPER_VARIANTS,
  ...BARE_URINGS,
];

function chooseCores(): Omit<Place, 'file'> {
  const [client, target] = allowedCores();
  if (client === undefined || target === undefined) throw new Error('two cores are needed: one a side');
  return { client, target };
}

function availableKinds(options: BenchOptions, scenarios: readonly Scenario[]): readonly TargetKind[] {
  return KINDS.filter((kind) => {
    if (!options.wantsTarget(kind) || !scenarios.some((scenario) => scenario.runsOn(kind))) return false;
    const reason = kind.unavailable();
    if (reason !== null) console.log(`${kind.name} is left out: ${reason}`);
    return reason === null;
  });
}

/** A bar on a terminal, which is drawn between measurements; the rounds alone elsewhere. */
function showProgress(): Onlooker & { end(): void } {
  const progress = process.stderr.isTTY ? new Progress('bench', { unit: 'measurements' }) : null;
  const sinceMs = performance.now();
  return {
    say(line) {
      progress?.end();
      console.log(line);
    },
    measured: (done, total) => progress?.show({ done, total, elapsedMs: performance.now() - sinceMs }),
    end: () => progress?.end(),
  };
}

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2));
  if (options.isHelp) {
    console.log(HELP);
    return;
  }
  const scenarios = SCENARIOS.filter((scenario) => options.wants(scenario));
  const kinds = availableKinds(options, scenarios);
  if (options.isList) {
    for (const { group, name } of scenarios) console.log(`${group}: ${name}`);
    console.log(`targets: ${kinds.map(({ name }) => name).join(', ')}`);
    return;
  }
  if (scenarios.length === 0 || kinds.length === 0) throw new Error('nothing is left to measure: see --list');
  const cores = chooseCores();
  pinToCore(cores.client);
  const hasPriority = claimPriority();
  const machine = describeMachine();
  console.log(
    `${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}, Node.js ${machine.node}, ${machine.commit}\n` +
      `client on core ${cores.client}, targets on core ${cores.target}; ` +
      `${scenarios.length} scenarios, ${options.rounds} rounds of ${options.effort.durationMs / 1000} s` +
      (hasPriority ? ', before all other programs' : ''),
  );
  const needs = new Set(scenarios.flatMap((one) => (one.needs === undefined ? [] : [one.needs])));
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort(name));
  const file = makeFile(needs.has('file') ? FILE_BYTES : FILE_BYTES_MIN);
  const servers = await startServers(needs, { ...cores, file });
  const place = { ...cores, file, ...servers.place };
  const onlooker = showProgress();
  const measured = await runRounds(scenarios, kinds, place, options, onlooker, stop.signal).finally(async () => {
    onlooker.end();
    removeFile(file);
    await servers.close();
  });
  const noise = describeNoise(measured.noise, measured.stealTicks, measured.elapsedMs);
  const { stoppedBy } = measured;
  const cut = stoppedBy === undefined ? '' : `\n\nStopped by ${stoppedBy}: these are the rounds until then.`;
  console.log(`\n${report(measured.outcomes, RINGHOST.name)}\n\n${noise}${cut}`);
  if (options.plot !== undefined) writeFileSync(options.plot, plot(measured.outcomes, machine.cpu));
  if (options.json !== undefined) {
    const { outcomes, ...rest } = measured;
    const results = outcomes.map(({ scenario, samples }) => ({
      group: scenario.group,
      name: scenario.name,
      samples: Object.fromEntries(samples),
    }));
    writeFileSync(options.json, `${JSON.stringify({ machine, options, ...rest, results }, null, 2)}\n`);
  }
  if (stoppedBy !== undefined) process.exitCode = 128 + (constants.signals[stoppedBy as NodeJS.Signals] ?? 0);
}

try {
  await main();
} catch (error) {
  const isMisuse = error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS');
  console.error(isMisuse ? `${error.message}\n\n${HELP}` : `bench: ${(error as Error).message}`);
  process.exitCode = 1;
}
