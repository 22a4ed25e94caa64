/** The tables: one a group of scenarios, a line for each target. */
import type { Metric, Sample, Scenario } from './scenarios/scenario.ts';
import { pairedRatios, summarize } from './statistics.ts';

/** What was measured of a scenario: samples by name of the target, in the order of the rounds. */
export interface Outcome {
  readonly scenario: Scenario;
  readonly samples: ReadonlyMap<string, readonly Sample[]>;
}

/** A markdown table whose columns stand in line. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((cells) => (cells[column] ?? '').length)));
  const lines = rows.map((cells) => `| ${cells.map((text, column) => text.padEnd(widths[column] ?? 0)).join(' | ')} |`);
  lines.splice(1, 0, `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`);
  return lines.join('\n');
}

export function valuesOf(samples: readonly Sample[], key: string): number[] {
  return samples.map((sample) => sample[key] ?? Number.NaN);
}

function cell(samples: readonly Sample[], { key, format, hasRange }: Metric): string {
  const values = valuesOf(samples, key).filter((value) => !Number.isNaN(value));
  if (values.length === 0) return '';
  const { median, min, max } = summarize(values);
  return hasRange === true ? `${format(median)} (${format(min)}–${format(max)})` : format(median);
}

/** How many times better `own` is than `other`, round by round. */
function ratioCell(own: readonly Sample[], other: readonly Sample[], { metrics, isLessBetter }: Scenario): string {
  const key = metrics[0]?.key ?? '';
  // A run that was stopped ends inside a round.
  const rounds = Math.min(own.length, other.length);
  const [a, b] = [valuesOf(own.slice(0, rounds), key), valuesOf(other.slice(0, rounds), key)];
  const { median, min, max } = summarize(isLessBetter === true ? pairedRatios(b, a) : pairedRatios(a, b));
  return `${median.toFixed(2)}× (${min.toFixed(2)}–${max.toFixed(2)})`;
}

function rowsOf({ scenario, samples }: Outcome, subject: string): string[][] {
  const own = samples.get(subject) ?? [];
  return [...samples]
    .filter(([, list]) => list.length > 0)
    .map(([name, list]) => [
      scenario.name,
      name,
      ...scenario.metrics.map((metric) => cell(list, metric)),
      name === subject || own.length === 0 ? '' : ratioCell(own, list, scenario),
    ]);
}

/** Tables of everything; `subject` is the target that the others are compared with. */
export function report(outcomes: readonly Outcome[], subject: string): string {
  const groups = Map.groupBy(outcomes, ({ scenario }) => scenario.group);
  return [...groups]
    .filter(([, members]) => members.some(({ samples }) => [...samples.values()].some(({ length }) => length > 0)))
    .map(([group, members]) => {
      const titles = members[0]?.scenario.metrics.map(({ title }) => title) ?? [];
      const head = ['workload', 'target', ...titles, `${subject} is`];
      return `### ${group}\n\n${table([head, ...members.flatMap((member) => rowsOf(member, subject))])}`;
    })
    .join('\n\n');
}
