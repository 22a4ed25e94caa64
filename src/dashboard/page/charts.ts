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
  /** Steps of its axis are powers of 2. */
  readonly isBinary: boolean;
  /** May change with what there is. */
  lines(frame: Frame): readonly Line[];
  plot: Plot | null;
  labels: string;
}

function sum(frame: Frame, kind: 'read' | 'write', field: 'iops' | 'bytesPerSecond'): number {
  return frame.rates.bdevs.reduce((total, bdev) => total + bdev.io[kind][field], 0);
}

const both = (value: (frame: Frame, kind: 'read' | 'write') => number | null): readonly Line[] => [
  { label: 'read', value: (frame) => value(frame, 'read') },
  { label: 'write', value: (frame) => value(frame, 'write') },
];

/** None when no request ended. */
const percentile = (kind: 'read' | 'write', field: 'p50Seconds' | 'p99Seconds', label: string): Line => ({
  label: `${kind} ${label}`,
  value: ({ rates }) => rates.latency[kind][field] || null,
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
    const chart = (id: string, format: Chart['format'], lines: Chart['lines']): Chart => {
      const isBinary = format === formatBytes;
      return { element: document.getElementById(id) as HTMLElement, format, isBinary, lines, plot: null, labels: '' };
    };
    this.#charts = [
      chart('chart-iops', formatCount, () => both((frame, kind) => sum(frame, kind, 'iops'))),
      chart('chart-bytes', formatBytes, () => both((frame, kind) => sum(frame, kind, 'bytesPerSecond'))),
      chart('chart-latency', formatSeconds, () => LATENCY_LINES),
      chart('chart-busy', formatShare, (newest) => {
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

function makePlot({ element, format, isBinary }: Chart, lines: readonly Line[]): Plot {
  // Colours are asked for each time: they follow the scheme.
  const color = (name: string): string => resolveColor(element, name);
  const axis = {
    stroke: () => color('--faint'),
    grid: { stroke: () => color('--line'), width: 1 },
    ticks: { show: false },
  };
  const values = { ...axis, size: 70, values: (_: unknown, marks: number[]) => marks.map(format) };
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
      axes: [{ ...axis, values: timesOfDay }, isBinary ? { ...values, incrs: BINARY_STEPS } : values],
      scales: { y: { range: (_: unknown, _low: number, high: number) => [0, high > 0 ? high * 1.1 : 1] } },
    },
    [[], ...lines.map(() => [])],
    element,
  );
}

function timesOfDay(_: unknown, seconds: readonly number[]): string[] {
  return seconds.map((at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour12: false }));
}
