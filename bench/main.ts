/**
 * `npm run bench`: Ringhost against its peers, in the same run on the same core.
 *
 * One polling client (this process, on the first core) drives one target after the other (each on the second core) in
 * interleaved rounds, so that a noisy minute hits all of them; the table shows medians with their range, and ratios
 * taken pair by pair.
 *
 *   npm run bench -- [--rounds N] [--seconds S] [--json FILE]
 */
import { writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { BlkInitiator } from '../src/initiator/blk-initiator.ts';
import { BlkLoadGenerator } from '../src/initiator/load-generator.ts';
import { allowedCores, pinToCore } from '../src/sys/thread.ts';
import { SCENARIOS, type Scenario } from './scenarios.ts';
import { pairedRatios, summarize } from './statistics.ts';
import { QEMU_STORAGE_DAEMON, RINGHOST, type Target } from './targets.ts';

interface Sample {
  readonly iops: number;
  /** Nanoseconds. */
  readonly p50: number;
  readonly p99: number;
}

/** Samples by scenario, then target, in the order of the rounds. */
type Samples = Map<string, Map<string, Sample[]>>;

const WARM_UP_MS = 300;
const QUEUE_SIZE = 256;
/** A load of others above this makes figures doubtful. */
const NOISY_LOAD = 0.5;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});

async function measure(target: Target, scenario: Scenario, milliseconds: number): Promise<Sample> {
  const initiator = await BlkInitiator.connect(target.path, { queues: 1, queueSize: QUEUE_SIZE });
  const { blockBytes, depth, pattern, writePercent } = scenario;
  const load = new BlkLoadGenerator(initiator, { blockBytes, depth, pattern, writePercent });
  load.run({ durationMs: WARM_UP_MS });
  const result = load.run({ durationMs: milliseconds });
  load.close();
  await initiator.stop();
  initiator.close();
  if (result.errors > 0) throw new Error(`${target.name}: ${result.errors} requests failed`);
  return { iops: result.iops, p50: result.latency.percentile(50), p99: result.latency.percentile(99) };
}

function formatIops(iops: number): string {
  return iops >= 1e6 ? `${(iops / 1e6).toFixed(2)} M` : `${(iops / 1e3).toFixed(0)} k`;
}

function formatMicroseconds(ns: number): string {
  return `${(ns / 1000).toFixed(1)} µs`;
}

function row(scenario: Scenario, name: string, samples: Map<string, Sample[]>): string[] {
  const own = samples.get(name) ?? [];
  const iops = summarize(own.map((sample) => sample.iops));
  const base = (samples.get(RINGHOST.name) ?? []).map((sample) => sample.iops);
  const ratio = summarize(
    pairedRatios(
      base,
      own.map((sample) => sample.iops),
    ),
  );
  return [
    scenario.name,
    name,
    `${formatIops(iops.median)} (${formatIops(iops.min)}–${formatIops(iops.max)})`,
    formatMicroseconds(summarize(own.map((sample) => sample.p50)).median),
    formatMicroseconds(summarize(own.map((sample) => sample.p99)).median),
    name === RINGHOST.name ? '' : `${ratio.median.toFixed(1)}× (${ratio.min.toFixed(1)}–${ratio.max.toFixed(1)})`,
  ];
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((cells) => (cells[column] ?? '').length)));
  const lines = rows.map((cells) => `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`);
  lines.splice(1, 0, `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`);
  return lines.join('\n');
}

async function main(): Promise<void> {
  const rounds = Number(options.rounds);
  const milliseconds = Number(options.seconds) * 1000;
  const [clientCore, targetCore] = allowedCores();
  if (clientCore === undefined || targetCore === undefined) throw new Error('two cores are needed: one a side');
  const kinds = [RINGHOST, QEMU_STORAGE_DAEMON].filter((kind) => {
    const reason = kind.unavailable();
    if (reason !== null) console.log(`${kind.name} is left out: ${reason}`);
    return reason === null;
  });
  const load = loadavg()[0] ?? 0;
  if (load > NOISY_LOAD)
    console.log(`The machine is noisy (load ${load.toFixed(2)}): trust the ratios, not the figures.`);
  const targets: Target[] = [];
  const samples: Samples = new Map(SCENARIOS.map(({ name }) => [name, new Map(kinds.map((kind) => [kind.name, []]))]));
  try {
    for (const kind of kinds) targets.push(await kind.start(targetCore));
    pinToCore(clientCore);
    console.log(`${cpus()[0]?.model}; client on core ${clientCore}, targets on core ${targetCore}; ${rounds} rounds`);
    for (const target of targets) console.log(`  ${target.name}: ${target.description}`);
    for (let round = 0; round < rounds; round++) {
      for (const scenario of SCENARIOS) {
        for (const target of targets) {
          samples
            .get(scenario.name)
            ?.get(target.name)
            ?.push(await measure(target, scenario, milliseconds));
        }
      }
    }
  } finally {
    for (const target of targets) await target.stop();
  }
  const head = ['workload', 'target', 'IOPS (min–max)', 'p50', 'p99', 'ringhost is'];
  const rows = SCENARIOS.flatMap((scenario) =>
    kinds.map((kind) => row(scenario, kind.name, samples.get(scenario.name) ?? new Map())),
  );
  console.log(`\n${table([head, ...rows])}`);
  if (options.json !== undefined) {
    const plain = Object.fromEntries([...samples].map(([name, byTarget]) => [name, Object.fromEntries(byTarget)]));
    writeFileSync(options.json, `${JSON.stringify(plain, null, 2)}\n`);
  }
}

await main();
