/**
 * `node bench/simulate.ts [--seed N] [--json FILE] [--plot FILE]`: a thousand hosts on one Ceph cluster, simulated. The
 * model (bench/cluster) is calibrated with bench/cluster/measured.jsonl and checked against it; docs/scaling.md has
 * the results, and what they do not say.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { calibrate } from './cluster/calibration.ts';
import type { Costs } from './cluster/cluster.ts';
import { drawCurve } from './cluster/curve.ts';
import { readMeasured } from './cluster/measured.ts';
import type { Answer } from './cluster/questions/answer.ts';
import { askConnections, askGroups } from './cluster/questions/connections.ts';
import { askFailure, askRecovery } from './cluster/questions/failure.ts';
import { askLoad, askNoise } from './cluster/questions/load.ts';
import { askRestart } from './cluster/questions/restart.ts';
import { roomCosts } from './cluster/room.ts';
import { validate } from './cluster/validation.ts';
import { table } from './report.ts';

/**
 * Requests and the monitor's time: measured by bench/scaling-ceph.ts. A host's own time: from its logs, on a machine
 * that was busy.
 */
const OPEN = { startUs: 1_000_000, connectUs: 1250, openRequests: 17, openUs: 8000 } as const;
/** Assumed of a core that moves 1 GiB/s on the way out and half of it on the way in. */
const OBJECT = { readUs: 4000, writeUs: 8000 } as const;

function costsTable(costs: Costs): Answer {
  const entries = Object.entries(costs).filter(([, value]) => value > 0);
  return {
    title: 'Calibrated costs (variation: standard deviation / mean)',
    head: ['cost', ''],
    rows: entries.map(([name, value]) => [name, name.endsWith('Us') ? `${value.toFixed(1)} us` : value.toFixed(1)]),
  };
}

function* ask(seed: number): Generator<Answer> {
  const samples = readMeasured();
  const measured = calibrate(samples);
  yield costsTable(measured);
  yield validate(samples, measured, seed);
  const costs = roomCosts(measured);
  yield askConnections();
  yield askGroups();
  yield askLoad(costs, seed);
  yield askNoise(costs, seed);
  yield askFailure(costs, seed);
  yield askRecovery(costs, seed, OBJECT);
  yield askRestart({ ...OPEN, requestUs: measured.readUs + measured.osdWakeUs }, seed);
}

const { values } = parseArgs({
  options: { seed: { type: 'string', default: '1' }, json: { type: 'string' }, plot: { type: 'string' } },
});
const answers: Answer[] = [];
for (const answer of ask(Number(values.seed))) {
  answers.push(answer);
  if (answer.curve !== undefined && values.plot !== undefined) {
    writeFileSync(values.plot, drawCurve(answer.curve, 'Latency of 1,000 hosts on 300 OSDs, simulated'));
  }
  console.log(`### ${answer.title}\n\n${table([answer.head, ...answer.rows])}\n`);
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(answers, null, 2)}\n`);
