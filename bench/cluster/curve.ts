/** Latency over throughput, as a picture: plain SVG, no library. */
import { time } from './questions/answer.ts';

export interface CurvePoint {
  readonly iops: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

const WIDTH = 720;
const HEIGHT = 360;
const LEFT = 70;
const BOTTOM = 40;
const TOP = 40;
const RIGHT = 20;
const LINES = [
  { key: 'p50Us', name: 'p50', colour: '#0072b2' },
  { key: 'p99Us', name: 'p99', colour: '#d55e00' },
] as const;
const GRID_US = [100, 300, 1000, 3000, 10_000, 30_000, 100_000];

export function drawCurve(points: readonly CurvePoint[], title: string): string {
  const most = Math.max(...points.map(({ iops }) => iops));
  const [low, high] = [
    Math.min(...points.map(({ p50Us }) => p50Us)) / 1.5,
    Math.max(...points.map((p) => p.p99Us)) * 1.5,
  ];
  const x = (iops: number): number => LEFT + (iops / most) * (WIDTH - LEFT - RIGHT);
  const y = (us: number): number =>
    HEIGHT - BOTTOM - (Math.log(us / low) / Math.log(high / low)) * (HEIGHT - BOTTOM - TOP);
  const text = (left: number, top: number, content: string, more = ''): string =>
    `<text x="${left.toFixed(0)}" y="${top.toFixed(0)}" ${more}>${content}</text>`;
  const grid = GRID_US.filter((us) => us > low && us < high).map(
    (us) =>
      `<path d="M${LEFT} ${y(us).toFixed(1)}H${WIDTH - RIGHT}" stroke="#ddd"/>` +
      text(LEFT - 6, y(us) + 4, time(us), 'text-anchor="end"'),
  );
  const marks = Array.from({ length: Math.floor(most / 1e6) }, (_, i) =>
    text(x((i + 1) * 1e6), HEIGHT - BOTTOM + 18, `${i + 1} M IOPS`, 'text-anchor="middle"'),
  );
  const lines = LINES.map(({ key, name, colour }, i) => {
    const path = points.map((point) => `${x(point.iops).toFixed(1)} ${y(point[key]).toFixed(1)}`).join('L');
    return (
      `<path d="M${path}" fill="none" stroke="${colour}" stroke-width="2"/>` +
      text(LEFT + 10 + 50 * i, TOP - 4, name, `style="fill:${colour}"`)
    );
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}">` +
    `<style>text{font:11px sans-serif;fill:#222}</style><rect width="100%" height="100%" fill="#fff"/>\n` +
    `${[text(10, 18, title), ...grid, ...marks, ...lines].join('\n')}\n</svg>\n`
  );
}
