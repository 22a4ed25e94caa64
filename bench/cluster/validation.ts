/** The model against the points that were not used to calibrate it. */
import { summarize } from '../statistics.ts';
import { isForCalibration } from './calibration.ts';
import type { Costs } from './cluster.ts';
import { bestOf, type LoadSample } from './measured.ts';
import type { Answer } from './questions/answer.ts';
import { predict } from './small-cluster.ts';

const SECONDS = 0.5;
const NAMES: Readonly<Record<number, string>> = { 0: 'reads', 30: '70/30', 100: 'writes' };

const groupOf = ({ osds, clients, writePercent }: LoadSample): string =>
  `${NAMES[writePercent]}, ${osds} ${osds === 1 ? 'OSD' : 'OSDs'}, ${clients === 1 ? '1 client' : '2 to 8 clients'}`;

const percent = (ratio: number): string => `${ratio > 1 ? '+' : ''}${(100 * (ratio - 1)).toFixed(0)} %`;

function errors(ratios: readonly number[]): string {
  const { median, min, max } = summarize(ratios);
  return `${percent(median)} (${percent(min)} to ${percent(max)})`;
}

export function validate(samples: readonly LoadSample[], costs: Costs, seed: number): Answer {
  const checked = bestOf(samples)
    .filter((sample) => !isForCalibration(sample))
    .map((sample) => ({ sample, said: predict(sample, costs, seed, SECONDS) }));
  const row = (name: string, points: typeof checked): string[] => [
    ...[name, String(points.length), errors(points.map(({ sample, said }) => said.iops / sample.iops))],
    errors(points.map(({ sample, said }) => said.meanUs / sample.meanUs)),
    errors(points.map(({ sample, said }) => said.p99Us / sample.p99Us)),
  ];
  const groups = Map.groupBy(checked, ({ sample }) => groupOf(sample));
  return {
    title: 'What the model says of what was measured and not used to calibrate it: its error',
    head: ['load', 'points', 'IOPS', 'mean latency', 'p99'],
    rows: [...[...groups].map(([name, points]) => row(name, points)), row('all', checked)],
  };
}
