/**
 * How far long work is: one line that is drawn again and again on a terminal, a line every tenth of the way otherwise.
 * Where the terminal cannot (TERM=dumb) or colours are not wanted (NO_COLOR) there are lines as well, or no colours.
 */
import { styleText } from 'node:util';
import { formatBytes } from '../observe/format.ts';

/** A stream such as standard error. */
export interface ProgressOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

type Environment = Readonly<Record<string, string | undefined>>;

const BAR_CELLS_MAX = 40;
const BAR_CELLS_MIN = 10;
const CLEAR_TO_END = '\u001b[K';
const STEPS = 10;
const DEFAULT_COLUMNS = 80;

export interface ProgressState {
  readonly done: number;
  readonly total: number;
  readonly elapsedMs: number;
}

export interface ProgressOptions {
  /** What is counted, such as `measurements`. Default: bytes. */
  readonly unit?: string;
  readonly output?: ProgressOutput;
  readonly env?: Environment;
}

export class Progress {
  readonly #title: string;
  readonly #unit: string | undefined;
  readonly #output: ProgressOutput;
  readonly #isDrawn: boolean;
  readonly #hasColours: boolean;
  /** Of lines: the last one was about this many tenths. */
  #step = -1;
  #isShown = false;

  constructor(title: string, { unit, output = process.stderr, env = process.env }: ProgressOptions = {}) {
    this.#title = title;
    this.#unit = unit;
    this.#output = output;
    this.#isDrawn = output.isTTY === true && env['TERM'] !== 'dumb';
    this.#hasColours = this.#isDrawn && (env['NO_COLOR'] ?? '') === '';
  }

  show(state: ProgressState): void {
    if (this.#isDrawn) {
      this.#output.write(`\r${this.#draw(state)}${CLEAR_TO_END}`);
      this.#isShown = true;
      return;
    }
    const step = Math.floor(shareOf(state) * STEPS);
    if (step === this.#step) return;
    this.#step = step;
    this.#output.write(`${this.#title}: ${this.#textOf(state)}\n`);
  }

  /** Takes the bar away: what is printed next is in its place. */
  end(): void {
    if (this.#isShown) this.#output.write(`\r${CLEAR_TO_END}`);
    this.#isShown = false;
  }

  #draw(state: ProgressState): string {
    const text = this.#textOf(state);
    const { columns = DEFAULT_COLUMNS } = this.#output;
    const room = columns - this.#title.length - text.length - 5;
    if (room < BAR_CELLS_MIN) return `${this.#title} ${text}`.slice(0, columns - 1);
    const cells = Math.min(BAR_CELLS_MAX, room);
    const full = Math.floor(shareOf(state) * cells);
    const done = '█'.repeat(full);
    const bar = this.#hasColours ? styleText('green', done, { validateStream: false }) : done;
    return `${this.#title} ▕${bar}${' '.repeat(cells - full)}▏ ${text}`;
  }

  /** `41 % of 64.0 GiB, 1.2 GiB/s, 0:31 left`. */
  #textOf(state: ProgressState): string {
    const { done, total, elapsedMs } = state;
    const unit = this.#unit;
    const all = unit === undefined ? formatBytes(total) : `${total} ${unit}`;
    const percent = `${Math.floor(shareOf(state) * 100)} % of ${all}`;
    const perSec = elapsedMs === 0 ? 0 : (done / elapsedMs) * 1000;
    if (perSec === 0 || done >= total) return percent;
    const rate = unit === undefined ? `, ${formatBytes(perSec)}/s` : '';
    return `${percent}${rate}, ${timeText(Math.ceil((total - done) / perSec))} left`;
  }
}

const shareOf = ({ done, total }: ProgressState): number => (total === 0 ? 1 : Math.min(1, done / total));

export function timeText(seconds: number): string {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const two = (value: number): string => String(value).padStart(2, '0');
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}
