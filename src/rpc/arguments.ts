/**
 * Reads the command line of a method as rpc.py does (Python's argparse): flags anywhere among the positional arguments,
 * `--name VALUE`, `--name=VALUE`, unambiguous beginnings of long flags, `-bVALUE`, several switches behind one dash,
 * negative numbers as values, `--` before positional arguments that begin with a dash.
 */
import type { CliFlag, CliPositional, CliSpec, CliValue, CliValues } from './define.ts';

/** What was typed cannot be understood; the message is for the terminal. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

export interface ParsedArguments {
  /** `-h` or `--help` was given: nothing else was looked at. */
  readonly wantsHelp: boolean;
  readonly values: CliValues;
}

const HELP: CliFlag = { names: ['-h', '--help'], dest: 'help', kind: 'switch', help: 'show this help' };
const NEGATIVE_NUMBER = /^-(\d+|\d*\.\d+)$/;

export function parseArguments(cli: CliSpec, argv: readonly string[]): ParsedArguments {
  if (cli.takesAnything === true && !HELP.names.some((name) => argv.includes(name)))
    return { values: {}, wantsHelp: false };
  return new ArgumentReader(cli, argv).read();
}

/** Parameters of the request. Values that were not given are left out. */
export function toParams(cli: CliSpec, values: CliValues): Readonly<Record<string, unknown>> {
  const params = cli.toParams?.(values) ?? values;
  const local = new Set((cli.flags ?? []).filter(({ isLocal }) => isLocal === true).map(({ dest }) => dest));
  return Object.fromEntries(Object.entries(params).filter(([name, value]) => value !== undefined && !local.has(name)));
}

class ArgumentReader {
  readonly #positionals: readonly CliPositional[];
  readonly #flags: readonly CliFlag[];
  readonly #argv: readonly string[];
  readonly #values: Record<string, CliValue | undefined> = {};
  #index = 0;
  #positionalsRead = 0;
  #wantsHelp = false;

  constructor(cli: CliSpec, argv: readonly string[]) {
    this.#positionals = cli.positionals ?? [];
    this.#flags = [HELP, ...(cli.flags ?? [])];
    this.#argv = argv;
    // In the order in which rpc.py sends them: what is repeated in an error then reads the same.
    for (const positional of this.#positionals) this.#values[positional.name] = undefined;
    for (const flag of cli.flags ?? []) this.#values[flag.dest] = flag.fallback ?? absentValue(flag);
  }

  read(): ParsedArguments {
    let flagsEnded = false;
    while (this.#index < this.#argv.length && !this.#wantsHelp) {
      const word = this.#argv[this.#index++] as string;
      if (flagsEnded || !this.#looksLikeFlag(word)) this.#readPositional(word);
      else if (word === '--') flagsEnded = true;
      else if (word.startsWith('--')) this.#readLongFlag(word);
      else this.#readShortFlags(word);
    }
    const unread = this.#positionals.slice(this.#positionalsRead);
    const missing = unread.filter(({ isOptional }) => isOptional !== true).map(({ name }) => name);
    if (missing.length > 0 && !this.#wantsHelp) throw new UsageError(`missing: ${missing.join(', ')}`);
    return { wantsHelp: this.#wantsHelp, values: this.#values };
  }

  /** As in argparse: a dash alone, a negative number, and a sentence that begins with no known flag are values. */
  #looksLikeFlag(word: string): boolean {
    if (word.length < 2 || !word.startsWith('-') || NEGATIVE_NUMBER.test(word)) return false;
    const [beforeValue = word] = word.split('=');
    if (!word.includes(' ') || (word.startsWith('--') && !beforeValue.includes(' '))) return true;
    return this.#flags.some((flag) => flag.names.includes(word.slice(0, 2)));
  }

  #readPositional(word: string): void {
    const last = this.#positionals.at(-1);
    const positional = this.#positionals[this.#positionalsRead] ?? (last?.kind === 'pairs' ? last : undefined);
    if (positional === undefined) throw new UsageError(`unexpected argument: ${word}`);
    this.#positionalsRead++;
    this.#setMore(positional, positional.name, convert(word, positional, positional.name));
  }

  #readLongFlag(word: string): void {
    const [name, ...rest] = word.split('=') as [string, ...string[]];
    const attached = rest.length === 0 ? null : rest.join('=');
    const { flag, isNegated } = this.#findLongFlag(name);
    if (flag.kind === 'switch' || flag.kind === 'yesno') {
      if (attached !== null) throw new UsageError(`${name} takes no value`);
      this.#setSwitch(flag, !isNegated);
    } else this.#setValue(flag, attached ?? this.#takeValue(name), name);
  }

  #findLongFlag(name: string): { flag: CliFlag; isNegated: boolean } {
    const known = this.#flags.flatMap((flag) =>
      flag.names
        .filter((spelling) => spelling.startsWith('--'))
        .flatMap((spelling) => {
          const plain = { spelling, flag, isNegated: false };
          const negated = { spelling: spelling.replace(/^--/, '--no-'), flag, isNegated: true };
          return flag.kind === 'yesno' ? [plain, negated] : [plain];
        }),
    );
    const exact = known.find((each) => each.spelling === name);
    if (exact !== undefined) return exact;
    const likely = known.filter((each) => each.spelling.startsWith(name));
    const [first] = likely;
    if (first === undefined) throw new UsageError(`unknown flag: ${name}`);
    if (likely.some((each) => each.flag !== first.flag || each.isNegated !== first.isNegated)) {
      throw new UsageError(`${name} may mean ${likely.map((each) => each.spelling).join(' or ')}`);
    }
    return first;
  }

  #readShortFlags(word: string): void {
    for (let position = 1; position < word.length; position++) {
      const name = `-${word[position]}`;
      const flag = this.#flags.find((each) => each.names.includes(name));
      if (flag === undefined) throw new UsageError(`unknown flag: ${name}`);
      if (flag.kind === 'switch' || flag.kind === 'yesno') this.#setSwitch(flag, true);
      else {
        const attached = word.slice(position + 1).replace(/^=/, '');
        this.#setValue(flag, attached === '' ? this.#takeValue(name) : attached, name);
        return;
      }
    }
  }

  #setSwitch(flag: CliFlag, value: boolean): void {
    if (flag === HELP) this.#wantsHelp = true;
    else this.#values[flag.dest] = value;
  }

  #setValue(flag: CliFlag, word: string, name: string): void {
    this.#setMore(flag, flag.dest, convert(word, flag, name));
  }

  /** Pairs come one by one. */
  #setMore({ kind }: CliPositional | CliFlag, dest: string, value: CliValue): void {
    const before = this.#values[dest];
    this.#values[dest] = kind === 'pairs' && before !== undefined ? Object.assign({}, before, value) : value;
  }

  #takeValue(name: string): string {
    const value = this.#argv[this.#index];
    if (value === undefined || this.#looksLikeFlag(value)) throw new UsageError(`${name} needs a value`);
    this.#index++;
    return value;
  }
}

function absentValue(flag: CliFlag): CliValue | undefined {
  const isBoolean = flag.kind === 'switch' || flag.kind === 'yesno';
  return isBoolean && flag.isAddition !== true ? false : undefined;
}

function convert(word: string, spec: CliPositional | CliFlag, name: string): CliValue {
  const value = convertKind(word, spec.kind, name);
  if (spec.choices !== undefined && !(spec.choices as readonly CliValue[]).includes(value)) {
    throw new UsageError(`${name} must be one of ${spec.choices.join(', ')}, not ${word}`);
  }
  return value;
}

function convertKind(word: string, kind: CliFlag['kind'], name: string): CliValue {
  switch (kind) {
    case 'int': {
      const value = Number(word);
      if (!/^[+-]?\d+$/.test(word)) throw new UsageError(`${name} must be a whole number, not ${word}`);
      if (!Number.isSafeInteger(value)) throw new UsageError(`${name} is too large: ${word}`);
      return value;
    }
    case 'float': {
      const value = Number(word);
      if (word.trim() === '' || !Number.isFinite(value)) throw new UsageError(`${name} must be a number, not ${word}`);
      return value;
    }
    case 'list':
      return word.split(',');
    case 'pairs': {
      const [key, ...rest] = word.split('=');
      if (key === undefined || key === '' || rest.length === 0)
        throw new UsageError(`${name} wants KEY=VALUE, not ${word}`);
      return { [key]: rest.join('=') };
    }
    default:
      return word;
  }
}

function valueName(spec: CliPositional | CliFlag): string {
  if (spec.choices !== undefined) return `{${spec.choices.join(',')}}`;
  if (spec.kind === 'pairs') return 'KEY=VALUE';
  return 'dest' in spec ? spec.dest.toUpperCase() : spec.name;
}

export function flagText(flag: CliFlag, names: readonly string[]): string {
  if (flag.kind === 'yesno') return names.map((name) => name.replace(/^--/, '--[no-]')).join(', ');
  return flag.kind === 'switch' ? names.join(', ') : `${names.join(', ')} ${valueName(flag)}`;
}

/** One line: the method with all it takes. */
export function usageLine(method: string, cli: CliSpec): string {
  const flags = (cli.flags ?? []).map((flag) => `[${flagText(flag, flag.names.slice(0, 1))}]`);
  const positionals = (cli.positionals ?? []).map((positional) => {
    const name = positional.kind === 'pairs' ? `${valueName(positional)} ...` : valueName(positional);
    return positional.isOptional === true ? `[${name}]` : name;
  });
  return [method, ...flags, ...positionals].join(' ');
}

const HELP_COLUMN = 34;

function helpLine(term: string, help: string): string {
  const left = `  ${term}`;
  return left.length < HELP_COLUMN
    ? `${left.padEnd(HELP_COLUMN)}${help}`
    : `${left}\n${' '.repeat(HELP_COLUMN)}${help}`;
}

/** The arguments of a method, one a line. */
export function argumentHelp(cli: CliSpec): string {
  const positionals = (cli.positionals ?? []).map((each) => helpLine(valueName(each), each.help));
  const flags = [...(cli.flags ?? []), HELP].map((flag) => helpLine(flagText(flag, flag.names), flag.help));
  return [...positionals, ...flags].join('\n');
}
