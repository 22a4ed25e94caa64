/** The commands of a document: who types each block, and what is printed. */

/** A shell on the host, a terminal of its own there, the guest's shell, QEMU's monitor; or a file to be written. */
type Place = 'host' | 'host terminal' | 'guest' | 'monitor' | 'file';

export interface Step {
  readonly place: Place;
  /** Of a file: its name. */
  readonly file: string | null;
  /** Or what is in the file. */
  readonly commands: string;
  /** Typed again until it succeeds and prints what it should: something else has to happen first. */
  readonly isRepeated: boolean;
  /** Null when the page does not say what is printed. */
  readonly expected: string | null;
  /** Line of the page, 1-based. */
  readonly line: number;
}

const FENCE = /^```(.*)\n([\s\S]*?)^```$/gm;
const PLACES: Readonly<Record<string, Place>> = {
  'sh host': 'host',
  'sh host terminal': 'host terminal',
  'sh guest': 'guest',
  hmp: 'monitor',
};

/** What needs more than this machine: other hosts, drives, directories of the system. */
const ELSEWHERE = / elsewhere$/;
/** A file: its language and its name, which has a dot. */
const FILE = /^[a-z]+ (\S+\.\S+)$/;

/**
 * @throws Error when a block is of no known kind, so that none is left out. A block without a label is a picture, one
 *   whose label ends with `elsewhere` is typed by nobody here.
 */
export function stepsOf(page: string): readonly Step[] {
  const steps: Step[] = [];
  for (const { 0: all, 1: label = '', 2: content = '', index } of page.matchAll(FENCE)) {
    if (label === '' || ELSEWHERE.test(label)) continue;
    const line = page.slice(0, index).split('\n').length;
    const last = steps.at(-1);
    if (label === 'text' && last?.expected === null) {
      steps[steps.length - 1] = { ...last, expected: content };
      continue;
    }
    const isRepeated = label.endsWith(' soon');
    const file = FILE.exec(label)?.[1] ?? null;
    const place = file === null ? PLACES[isRepeated ? label.slice(0, -' soon'.length) : label] : 'file';
    if (place === undefined) throw new Error(`line ${line}: nobody types a block like this one:\n${all}`);
    steps.push({ place, file, commands: content, isRepeated, expected: null, line });
  }
  return steps;
}

/** Whether an output is what the page shows: `…` is anything, a line of it any lines; the width of gaps is free. */
export function isPrinted(output: string, expected: string): boolean {
  const pattern = neat(expected)
    .map((line) => (line === '…' ? '(?:.*\n)*' : `${line.split('…').map(literally).join('.*')}\n`))
    .join('');
  return new RegExp(`^${pattern}$`).test(
    neat(output)
      .map((line) => `${line}\n`)
      .join(''),
  );
}

function literally(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function neat(text: string): readonly string[] {
  const lines = text.split('\n').map((line) => line.trim().replaceAll(/\s+/g, ' '));
  return lines.filter((line) => line !== '');
}
