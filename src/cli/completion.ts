/**
 * What can stand where the cursor is on a command line of `ringhost`: commands, options and their values, methods of
 * `ringhost rpc` with their arguments, and names of bdevs and controllers. The scripts for bash, zsh and fish only ask
 * this.
 */
import type { Argument, Command, Option } from 'commander';
import type { CliFlag, CliPositional } from '../rpc/define.ts';
import { cliOf, findMethod, methodNames } from '../rpc/lookup.ts';
import { RPC_OPTIONS } from './rpc-command.ts';

interface Candidate {
  readonly word: string;
  readonly help: string;
}

/** Names that only a running daemon knows. */
export type NameKind = 'bdev' | 'controller';

/** `socket`: what `-s` names on the command line. */
export type FindNames = (kind: NameKind, socket: string | undefined) => Promise<readonly string[]>;

export interface Completion {
  readonly candidates: readonly Candidate[];
  /** A path can stand there as well. */
  readonly takesPath: boolean;
}

const NOTHING: Completion = { candidates: [], takesPath: false };
const PATH: Completion = { candidates: [], takesPath: true };
const SOCKET_FLAG = '-s';

const ofWords = (words: readonly (string | number)[]): Completion => ({
  candidates: words.map((word) => ({ word: String(word), help: '' })),
  takesPath: false,
});

/** `words`: those behind `ringhost`; the last one is being typed. */
export async function complete(program: Command, words: readonly string[], names: FindNames): Promise<Completion> {
  const typed = words.at(-1) ?? '';
  const all = await completeAny(program, words.slice(0, -1), typed, names);
  return { ...all, candidates: all.candidates.filter(({ word }) => word.startsWith(typed)) };
}

async function completeAny(
  program: Command,
  before: readonly string[],
  typed: string,
  names: FindNames,
): Promise<Completion> {
  const [first, ...rest] = before;
  if (first === 'rpc') return await completeRpc(rest, typed, names);
  const command = program.commands.find((each) => each.name() === first);
  if (command !== undefined) return await completeCommand(command, rest, typed, names);
  const serve = program.commands.find((each) => each.name() === 'serve');
  const serving = serve === undefined ? NOTHING : await completeCommand(serve, before, typed, names);
  if (first !== undefined) return serving;
  return typed.startsWith('-') ? serving : { candidates: commandsOf(program), takesPath: false };
}

function commandsOf(command: Command): readonly Candidate[] {
  return command
    .createHelp()
    .visibleCommands(command)
    .map((each) => ({ word: each.name(), help: each.description() }));
}

async function completeCommand(
  command: Command,
  before: readonly string[],
  typed: string,
  names: FindNames,
): Promise<Completion> {
  const [first, ...rest] = before;
  const inner = command.commands.find((each) => each.name() === first);
  if (inner !== undefined) return await completeCommand(inner, rest, typed, names);
  const options = command.createHelp().visibleOptions(command);
  const find = (word = '') => options.find(({ short, long }) => word !== '' && [short, long].includes(word));
  const last = find(before.at(-1));
  const socketIndex = before.findIndex((word) => word === '-s' || word === '--socket');
  const ask = (kind: NameKind) => names(kind, socketIndex < 0 ? undefined : before[socketIndex + 1]);
  if (last?.required === true) return await valuesOf(last, ask);
  if (typed.startsWith('-')) {
    const candidates = options.map(({ long, short, description }) => ({
      word: long ?? short ?? '',
      help: description,
    }));
    return { candidates, takesPath: false };
  }
  if (command.commands.length > 0) return { candidates: commandsOf(command), takesPath: false };
  const given = before.filter((word, index) => !word.startsWith('-') && find(before[index - 1])?.required !== true);
  const argument = command.registeredArguments[given.length];
  return argument === undefined ? NOTHING : await valuesOf(argument, ask);
}

/** By the name that the value has in the help. */
async function valuesOf(
  spec: Option | Argument,
  ask: (kind: NameKind) => Promise<readonly string[]>,
): Promise<Completion> {
  if (spec.argChoices !== undefined) return ofWords(spec.argChoices);
  const name = 'flags' in spec ? (/[<[]([\w:-]+)/.exec(spec.flags)?.[1] ?? '') : spec.name();
  if (/^(path|where|file|dir|disk)$/.test(name)) return PATH;
  const kind = /(?:^|-)(bdev|controller)$/.exec(name)?.[1] as NameKind | undefined;
  return kind === undefined ? NOTHING : ofWords(await ask(kind));
}

async function completeRpc(before: readonly string[], typed: string, names: FindNames): Promise<Completion> {
  const globals = RPC_OPTIONS.flags ?? [];
  const takesValue = (word = '') => globals.some(({ kind, names: own }) => kind !== 'switch' && own.includes(word));
  const at = before.findIndex((word, index) => !word.startsWith('-') && !takesValue(before[index - 1]));
  if (at < 0) {
    if (before.at(-1) === SOCKET_FLAG) return PATH;
    if (takesValue(before.at(-1))) return NOTHING;
    if (typed.startsWith('-')) return { candidates: globals.map(candidateOf), takesPath: false };
    const methods = methodNames(false).map((word) => ({ word, help: findMethod(word)?.spec.summary ?? '' }));
    // Older names only where nothing else fits.
    const fits = methods.some(({ word }) => word.startsWith(typed));
    return fits ? { candidates: methods, takesPath: false } : ofWords(methodNames(true));
  }
  const socketIndex = before.indexOf(SOCKET_FLAG);
  const socket = socketIndex < 0 || socketIndex > at ? undefined : before[socketIndex + 1];
  return await completeCall(before[at] as string, before.slice(at + 1), typed, (kind) => names(kind, socket));
}

async function completeCall(
  method: string,
  before: readonly string[],
  typed: string,
  ask: (kind: NameKind) => Promise<readonly string[]>,
): Promise<Completion> {
  const found = findMethod(method);
  if (found === undefined) return NOTHING;
  const { flags = [], positionals = [] } = cliOf(found);
  const find = (word = '') =>
    flags.find(({ kind, names }) => kind !== 'switch' && kind !== 'yesno' && names.includes(word));
  const flag = find(before.at(-1));
  if (flag === undefined && typed.startsWith('-')) return { candidates: flags.map(candidateOf), takesPath: false };
  const given = before.filter((word, index) => !word.startsWith('-') && find(before[index - 1]) === undefined);
  const spec = flag ?? positionals[given.length];
  if (spec === undefined) return NOTHING;
  if (spec.choices !== undefined) return ofWords(spec.choices);
  const param = 'dest' in spec ? spec.dest : spec.name;
  const kind = kindOf(found.name, param);
  if (kind !== null) return ofWords(await ask(kind));
  return /^(file|filename|path|.*_file|.*_path)$/.test(param) ? PATH : NOTHING;
}

function candidateOf(flag: CliFlag): Candidate {
  return { word: flag.names.at(-1) as string, help: flag.help };
}

/** What a parameter names that is there already; null: nothing, or what is to be made. */
function kindOf(method: string, param: CliPositional['name']): NameKind | null {
  if (/^(bdev_name|dev_name|base_bdev_name|base_bdev|base_name|raid_bdev)$/.test(param)) return 'bdev';
  if (/^bdev_lvol_(snapshot lvol_name|clone snapshot_name|rename old_name)$/.test(`${method} ${param}`)) return 'bdev';
  if (param === 'ctrlr') return method.startsWith('vhost_create_') ? null : 'controller';
  if (param !== 'name') return null;
  if (method === 'vhost_get_controllers') return 'controller';
  return /^bdev_(?!nvme_|virtio_|.*(_create|_cluster)$)/.test(method) ? 'bdev' : null;
}
