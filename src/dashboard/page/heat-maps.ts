/**
 * Two heat maps of one bdev over the last minutes: how long its requests took, and where on the disk they went. The
 * darker a cell, the more requests, on a logarithmic scale.
 */

import { formatBytes, formatCount, formatSeconds } from '../../observe/format.ts';
import type { Frame } from '../../observe/frame.ts';
import { HEAT_ROWS, heatRowSeconds } from '../../observe/heat.ts';
import type { Places } from '../../observe/sample.ts';
import { resolveColor } from './colors.ts';

type Bdev = Frame['rates']['bdevs'][number];

const FRAMES_MAX = 300;
/** Of the map of places: newest at the bottom. */
const PLACE_FRAMES_MAX = 60;
const LABELS_WIDTH = 70;
const LABEL_ROWS = 6;
const TEXT_HEIGHT = 12;
const ALPHA_MIN = 0.15;

export class HeatMaps {
  readonly #frames: Frame[] = [];
  readonly #choice = document.getElementById('heat-bdev') as HTMLSelectElement;
  readonly #latency = new Grid('heat-latency');
  readonly #places = new Grid('heat-places');
  readonly #hottest = document.getElementById('hottest') as HTMLElement;
  #isChosen = false;

  constructor() {
    this.#choice.addEventListener('change', () => {
      this.#isChosen = true;
      this.draw();
    });
    addEventListener('resize', () => this.draw());
  }

  add(frame: Frame): void {
    this.#frames.push(frame);
    if (this.#frames.length > FRAMES_MAX) this.#frames.shift();
  }

  draw(): void {
    const newest = this.#frames.at(-1);
    if (newest === undefined) return;
    this.#offer(newest.rates.bdevs);
    const name = this.#choice.value;
    const bdevs = this.#frames.map(({ rates }) => rates.bdevs.find((bdev) => bdev.name === name));
    this.#drawLatency(bdevs);
    this.#drawPlaces(bdevs.slice(-PLACE_FRAMES_MAX));
  }

  /** Until somebody chooses, the busiest bdev is shown. */
  #offer(bdevs: readonly Bdev[]): void {
    const names = bdevs.map(({ name }) => name);
    if ([...this.#choice.options].map(({ value }) => value).join('\n') !== names.join('\n')) {
      const before = this.#choice.value;
      this.#choice.replaceChildren(...names.map((name) => new Option(name, name)));
      if (names.includes(before)) this.#choice.value = before;
    }
    if (this.#isChosen) return;
    const load = (bdev: Bdev): number => bdev.heat.reduce((sum, [, count]) => sum + count, 0);
    const busiest = bdevs.reduce<Bdev | null>(
      (most, bdev) => (load(bdev) > (most ? load(most) : 0) ? bdev : most),
      null,
    );
    if (busiest !== null) this.#choice.value = busiest.name;
  }

  /** Time to the right, latency upwards. */
  #drawLatency(bdevs: readonly (Bdev | undefined)[]): void {
    const grid = this.#latency;
    grid.begin(FRAMES_MAX, HEAT_ROWS);
    const color = grid.color('--read');
    const most = Math.max(1, ...bdevs.flatMap((bdev) => bdev?.heat.map(([, count]) => count) ?? []));
    bdevs.forEach((bdev, index) => {
      const column = FRAMES_MAX - bdevs.length + index;
      for (const [row, count] of bdev?.heat ?? []) grid.cell(column, HEAT_ROWS - 1 - row, color, count / most);
    });
    for (let row = 0; row < HEAT_ROWS; row += LABEL_ROWS)
      grid.label(HEAT_ROWS - row, formatSeconds(heatRowSeconds(row)));
  }

  /** The disk from left to right, time downwards. Writes lie over reads. */
  #drawPlaces(bdevs: readonly (Bdev | undefined)[]): void {
    const grid = this.#places;
    const regions = bdevs.at(-1)?.places.regions ?? 1;
    grid.begin(regions, PLACE_FRAMES_MAX);
    const [read, write] = [grid.color('--read'), grid.color('--write')];
    const counts = bdevs.flatMap((bdev) => [...(bdev?.places.reads ?? []), ...(bdev?.places.writes ?? [])]);
    const most = Math.max(1, ...counts.map(([, count]) => count));
    bdevs.forEach((bdev, index) => {
      const row = PLACE_FRAMES_MAX - bdevs.length + index;
      for (const [region, count] of bdev?.places.reads ?? []) grid.cell(region, row, read, count / most);
      for (const [region, count] of bdev?.places.writes ?? []) grid.cell(region, row, write, count / most);
    });
    grid.label(1, '1 min ago');
    grid.label(PLACE_FRAMES_MAX, 'now');
    this.#hottest.textContent = hottest(bdevs, regions);
  }
}

/** In words: where most of the last minute's requests went. */
function hottest(bdevs: readonly (Bdev | undefined)[], regions: number): string {
  const sums = new Map<number, number>();
  const add = (places: Places): void => {
    for (const [region, count] of places) sums.set(region, (sums.get(region) ?? 0) + count);
  };
  for (const bdev of bdevs) {
    add(bdev?.places.reads ?? []);
    add(bdev?.places.writes ?? []);
  }
  const total = [...sums.values()].reduce((sum, count) => sum + count, 0);
  const [top] = [...sums].sort(([, a], [, b]) => b - a);
  const size = bdevs.at(-1)?.sizeBytes ?? 0;
  if (top === undefined) return 'no requests in the last minute';
  const [region, count] = top;
  const at = (index: number): string => formatBytes((size / regions) * index);
  const share = `${formatCount(count)} of ${formatCount(total)} requests of the last minute`;
  return `hottest: ${at(region)} to ${at(region + 1)}, ${share}`;
}

/** Cells on a canvas, labelled on the left. */
class Grid {
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  #columns = 1;
  #rows = 1;

  constructor(id: string) {
    this.#canvas = document.getElementById(id) as HTMLCanvasElement;
    this.#context = this.#canvas.getContext('2d') as CanvasRenderingContext2D;
  }

  begin(columns: number, rows: number): void {
    this.#columns = columns;
    this.#rows = rows;
    const { clientWidth, clientHeight } = this.#canvas;
    // Also clears it.
    this.#canvas.width = clientWidth * devicePixelRatio;
    this.#canvas.height = clientHeight * devicePixelRatio;
    this.#context.scale(devicePixelRatio, devicePixelRatio);
    this.#canvas.dataset.left = String(LABELS_WIDTH);
  }

  /** What the canvas understands of a colour of the style sheet: it follows the scheme. */
  color(name: string): string {
    return resolveColor(this.#canvas, name);
  }

  /** `share`: of the fullest cell. */
  cell(column: number, row: number, color: string, share: number): void {
    const width = (this.#canvas.clientWidth - LABELS_WIDTH) / this.#columns;
    const height = this.#canvas.clientHeight / this.#rows;
    this.#context.fillStyle = color;
    // A thousandth of the most is still seen.
    this.#context.globalAlpha = Math.max(ALPHA_MIN, 1 + Math.log10(share) / 3);
    this.#context.fillRect(LABELS_WIDTH + column * width, row * height, Math.max(1, width), Math.max(1, height));
  }

  /** Beside the lower edge of a row. */
  label(rowsAbove: number, text: string): void {
    this.#context.globalAlpha = 1;
    this.#context.fillStyle = this.color('--faint');
    this.#context.font = '12px system-ui, sans-serif';
    this.#context.textAlign = 'right';
    const y = (rowsAbove * this.#canvas.clientHeight) / this.#rows - 2;
    this.#context.fillText(text, LABELS_WIDTH - 6, Math.max(y, TEXT_HEIGHT));
  }
}
