/**
 * How far long work is: one line that is drawn again and again on a terminal, a line every tenth of the way otherwise.
 * Where the terminal cannot (TERM=dumb) or colours are not wanted (NO_COLOR) there are lines as well, or no colours.
 */
import { styleText } from 'node:util';

/** A stream such as standard error. */
export interface ProgressOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

type Environment = Readonly<Record<string, string | undefined>>;

const BAR_CELLS_MAX = 40;
const BAR_CELLS_MIN = 10;
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
const CLEAR_TO_END = '\u001b[K';
const STEPS = 10;
const DEFAULT_COLUMNS = 80;

export interface ProgressState {
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly elapsedMs: number;
}

export class Progress {
  readonly #title: string;
  readonly #output: ProgressOutput;
  readonly #isDrawn: boolean;
  readonly #hasColours: boolean;
  /** Of lines: the last one was about this many tenths. */
  #step = -1;
  #isShown = false;

  constructor(title: string, output: ProgressOutput = process.stderr, env: Environment = process.env) {
    this.#title = title;
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
    this.#output.write(`${this.#title}: ${textOf(state)}\n`);
  }

  /** Takes the bar away: what is printed next is in its place. */
  end(): void {
    if (this.#isShown) this.#output.write(`\r${CLEAR_TO_END}`);
    this.#isShown = false;
  }

  #draw(state: ProgressState): string {
    const text = textOf(state);
    const { columns = DEFAULT_COLUMNS } = this.#output;
    const room = columns - this.#title.length - text.length - 5;
    if (room < BAR_CELLS_MIN) return `${this.#title} ${text}`.slice(0, columns - 1);
    const cells = Math.min(BAR_CELLS_MAX, room);
    const full = Math.floor(shareOf(state) * cells);
    const done = '█'.repeat(full);
    const bar = this.#hasColours ? styleText('green', done, { validateStream: false }) : done;
    return `${this.#title} ▕${bar}${' '.repeat(cells - full)}▏ ${text}`;
  }
}

/** `41 % of 64.0 GiB, 1.2 GiB/s, 0:31 left`. */
function textOf(state: ProgressState): string {
  const { doneBytes, totalBytes, elapsedMs } = state;
  const percent = `${Math.floor(shareOf(state) * 100)} % of ${sizeText(totalBytes)}`;
  const perSec = elapsedMs === 0 ? 0 : (doneBytes / elapsedMs) * 1000;
  if (perSec === 0 || doneBytes >= totalBytes) return percent;
  const left = Math.ceil((totalBytes - doneBytes) / perSec);
  return `${percent}, ${sizeText(perSec)}/s, ${timeText(left)} left`;
}

const shareOf = ({ doneBytes, totalBytes }: ProgressState): number =>
  totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);

export function sizeText(bytes: number): string {
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function timeText(seconds: number): string {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const two = (value: number): string => String(value).padStart(2, '0');
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}
