/** The plots of the last five minutes. */

import { formatBytes, formatCount, formatSeconds, formatShare } from '../../observe/format.ts';
import type { Frame } from '../../observe/frame.ts';
import { resolveColor } from './colors.ts';

/** Made global by its own script. */
declare const uPlot: typeof import('uplot');
type Plot = InstanceType<typeof uPlot>;

const HEIGHT = 200;
const BINARY_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const LINE_COLORS = ['--read', '--write', '--good', '--bad', '--faint'] as const;

interface Line {
  readonly label: string;
  value(frame: Frame): number | null;
}

interface Chart {
  readonly element: HTMLElement;
  readonly format: (value: number) => string;
  /** What its axis reaches at least, so that marks differ and little does not look like much. */
  readonly top: number;
  /** From there to its top by powers of ten, so that a slow one does not hide the others. Else: even steps from 0. */
  readonly bottom?: number;
  /** Steps of its axis are powers of 2. */
  readonly isBinary: boolean;
  /** May change with what there is. */
  lines(frame: Frame): readonly Line[];
  plot: Plot | null;
  labels: string;
}

const both = (value: (frame: Frame, kind: 'read' | 'write') => number | null): readonly Line[] => [
  { label: 'read', value: (frame) => value(frame, 'read') },
  { label: 'write', value: (frame) => value(frame, 'write') },
];

/** None when no request ended. */
const percentile = (kind: 'read' | 'write', field: 'p50Seconds' | 'p99Seconds', label: string): Line => ({
  label: `${kind} ${label}`,
  value: ({ rates }) => rates.served[kind].latency[field] || null,
});
const LATENCY_LINES = [
  percentile('read', 'p50Seconds', 'median'),
  percentile('write', 'p50Seconds', 'median'),
  percentile('read', 'p99Seconds', 'p99'),
  percentile('write', 'p99Seconds', 'p99'),
];

export class Charts {
  readonly #charts: Chart[];

  constructor() {
    const chart = (id: string, format: Chart['format'], top: number, lines: Chart['lines']): Chart => {
      const element = document.getElementById(id) as HTMLElement;
      return { element, format, top, isBinary: format === formatBytes, lines, plot: null, labels: '' };
    };
    this.#charts = [
      chart('chart-iops', formatCount, 10, () => both((frame, kind) => frame.rates.served[kind].iops)),
      chart('chart-bytes', formatBytes, 2 ** 10, () => both((frame, kind) => frame.rates.served[kind].bytesPerSecond)),
      { ...chart('chart-latency', formatSeconds, 1e-3, () => LATENCY_LINES), bottom: 1e-6 },
      chart('chart-busy', formatShare, 1, (newest) => {
        return newest.rates.reactors.map(({ core }) => ({
          label: `core ${core}`,
          value: ({ rates }) => rates.reactors.find((reactor) => reactor.core === core)?.busy ?? null,
        }));
      }),
    ];
  }

  draw(frames: readonly Frame[]): void {
    const newest = frames.at(-1);
    if (newest === undefined) return;
    for (const chart of this.#charts) drawOne(chart, chart.lines(newest), frames);
  }
}

function drawOne(chart: Chart, lines: readonly Line[], frames: readonly Frame[]): void {
  const labels = lines.map(({ label }) => label).join(' ');
  if (chart.plot === null || chart.labels !== labels) {
    chart.plot?.destroy();
    chart.plot = makePlot(chart, lines);
    chart.labels = labels;
  }
  const times = frames.map(({ timeMs }) => timeMs / 1000);
  chart.plot.setSize({ width: chart.element.clientWidth, height: HEIGHT });
  chart.plot.setData([times, ...lines.map(({ value }) => frames.map(value))]);
}

function makePlot({ element, format, top, bottom, isBinary }: Chart, lines: readonly Line[]): Plot {
  // Colours are asked for each time: they follow the scheme.
  const color = (name: string): string => resolveColor(element, name);
  const axis = {
    stroke: () => color('--faint'),
    grid: { stroke: () => color('--line'), width: 1 },
    ticks: { show: false },
  };
  const marks = isBinary ? { incrs: BINARY_STEPS } : bottom === undefined ? {} : { splits: powersOfTen, filter: all };
  const values = { ...axis, ...marks, size: 70, values: (_: unknown, shown: number[]) => shown.map(format) };
  return new uPlot(
    {
      width: element.clientWidth,
      height: HEIGHT,
      cursor: { y: false },
      series: [
        {},
        ...lines.map(({ label }, index) => ({
          label,
          stroke: () => color(LINE_COLORS[index % LINE_COLORS.length] as string),
          width: 2,
          value: (_: unknown, value: number | null) => (value === null ? '–' : format(value)),
        })),
      ],
      axes: [{ ...axis, values: timesOfDay }, values],
      scales: { y: bottom === undefined ? linear(top) : logarithmic(bottom, top) },
    },
    [[], ...lines.map(() => [])],
    element,
  );
}

const linear = (top: number) => ({
  range: (_: unknown, _low: number, high: number): [number, number] => [0, Math.max(top, high * 1.1)],
});

/** Whole powers of ten. */
const logarithmic = (bottom: number, top: number) => ({
  distr: 3 as const,
  range: (_: unknown, low: number, high: number): [number, number] => [
    10 ** Math.floor(Math.log10(Math.min(bottom, low || bottom))),
    10 ** Math.ceil(Math.log10(Math.max(top, high))),
  ],
});

function powersOfTen(_: unknown, _axis: number, low: number, high: number): number[] {
  const [first, last] = [Math.round(Math.log10(low)), Math.round(Math.log10(high))];
  return Array.from({ length: last - first + 1 }, (_each, i) => 10 ** (first + i));
}

const all = (_: unknown, marks: number[]): number[] => marks;

function timesOfDay(_: unknown, seconds: readonly number[]): string[] {
  return seconds.map((at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour12: false }));
}
