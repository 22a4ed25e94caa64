/**
 * Two heat maps over the last minutes: how long the requests of a bdev, controller or queue took, and where on the disk
 * they went. The darker a cell, the more requests, on a logarithmic scale.
 */
import type { Bucket } from '../../base/percentile.ts';

import { formatBytes, formatCount, formatSeconds } from '../../observe/format.ts';
import type { Frame } from '../../observe/frame.ts';
import { HEAT_ROWS, heatRowSeconds } from '../../observe/heat.ts';
import { mergeBuckets } from '../../observe/latency.ts';
import type { Rates } from '../../observe/rates.ts';
import type { Places, RegionCount } from '../../observe/sample.ts';
import { resolveColor } from './colors.ts';
import { parseSubject } from './subject.ts';

const FRAMES_MAX = 300;
/** Of the map of places: newest at the bottom. */
const PLACE_FRAMES_MAX = 60;
const LABELS_WIDTH = 70;
const LABEL_ROWS = 6;
const TEXT_HEIGHT = 12;
const ALPHA_MIN = 0.15;

/** What is drawn of a frame. */
interface Heat {
  readonly heat: readonly Bucket[];
  readonly places: RegionCount | null;
  readonly sizeBytes: number;
}

export class HeatMaps {
  readonly #latency = new Grid('heat-latency');
  readonly #places = new Grid('heat-places');
  readonly #hottest = document.getElementById('hottest') as HTMLElement;

  draw(subject: string, frames: readonly Frame[]): void {
    const heats = frames.map(({ rates }) => heatOf(subject, rates));
    this.#drawLatency(heats);
    this.#drawPlaces(heats.slice(-PLACE_FRAMES_MAX));
  }

  /** Time to the right, latency upwards. */
  #drawLatency(heats: readonly (Heat | null)[]): void {
    const grid = this.#latency;
    grid.begin(FRAMES_MAX, HEAT_ROWS);
    const color = grid.color('--read');
    const most = Math.max(1, ...heats.flatMap((one) => one?.heat.map(([, count]) => count) ?? []));
    heats.forEach((one, index) => {
      const column = FRAMES_MAX - heats.length + index;
      for (const [row, count] of one?.heat ?? []) grid.cell(column, HEAT_ROWS - 1 - row, color, count / most);
    });
    for (let row = 0; row < HEAT_ROWS; row += LABEL_ROWS)
      grid.label(HEAT_ROWS - row, formatSeconds(heatRowSeconds(row)));
  }

  /** The disk from left to right, time downwards. Writes lie over reads. */
  #drawPlaces(heats: readonly (Heat | null)[]): void {
    const grid = this.#places;
    const regions = heats.at(-1)?.places?.regions ?? 1;
    grid.begin(regions, PLACE_FRAMES_MAX);
    const [read, write] = [grid.color('--read'), grid.color('--write')];
    const counts = heats.flatMap((one) => [...(one?.places?.reads ?? []), ...(one?.places?.writes ?? [])]);
    const most = Math.max(1, ...counts.map(([, count]) => count));
    heats.forEach((one, index) => {
      const row = PLACE_FRAMES_MAX - heats.length + index;
      for (const [region, count] of one?.places?.reads ?? []) grid.cell(region, row, read, count / most);
      for (const [region, count] of one?.places?.writes ?? []) grid.cell(region, row, write, count / most);
    });
    grid.label(1, '1 min ago');
    grid.label(PLACE_FRAMES_MAX, 'now');
    this.#hottest.textContent = hottest(heats, regions);
  }
}

/** Of a controller or queue: its requests, and the places of its first bdev, which may have others' requests, too. */
function heatOf(id: string, rates: Rates): Heat | null {
  const { kind, name, index } = parseSubject(id);
  const controller = kind === 'bdev' ? null : rates.controllers.find((one) => one.name === name);
  const bdevName = kind === 'bdev' ? name : controller?.bdevs[0];
  const bdev = rates.bdevs.find((one) => one.name === bdevName);
  const { places = null, sizeBytes = 0 } = bdev ?? {};
  if (kind === 'bdev') return bdev ?? null;
  const queues = (controller?.queues ?? []).filter((queue) => kind === 'controller' || queue.index === index);
  const heat = mergeBuckets(queues.map((queue) => queue.heat));
  return { heat, places, sizeBytes };
}

/** In words: where most of the last minute's requests went. */
function hottest(heats: readonly (Heat | null)[], regions: number): string {
  const sums = new Map<number, number>();
  const add = (places: Places): void => {
    for (const [region, count] of places) sums.set(region, (sums.get(region) ?? 0) + count);
  };
  for (const one of heats) {
    add(one?.places?.reads ?? []);
    add(one?.places?.writes ?? []);
  }
  const total = [...sums.values()].reduce((sum, count) => sum + count, 0);
  const [top] = [...sums].sort(([, a], [, b]) => b - a);
  const size = heats.at(-1)?.sizeBytes ?? 0;
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
