/** The man pages of the package, in the macros of man(7): one of `ringhost`, and one of each command. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { VERSION } from '../src/app/version.ts';
import { type CommandReference, commandReferences, type Term } from './cli-reference.ts';

const ENVIRONMENT: readonly Term[] = [
  {
    term: 'RINGHOST_RPC_SOCKET',
    about: 'RPC socket of the daemon to ask, where -s does not name it (default /var/tmp/ringhost.sock)',
  },
];

/** Text as roff takes it: nothing in it is a request or an escape. */
export function escapeRoff(text: string): string {
  const escaped = text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replaceAll("'", '\\(aq');
  return escaped.replaceAll('…', '...').replaceAll('’', '\\(cq').replace(/^\./gm, '\\&.');
}

const fileName = (name: string): string => `${name.replaceAll(' ', '-')}.1`;

function section(title: string, terms: readonly Term[]): string {
  if (terms.length === 0) return '';
  const items = terms.map(({ term, about }) => `.TP\n.B ${escapeRoff(term)}\n${escapeRoff(about)}`);
  return `.SH ${title}\n${items.join('\n')}\n`;
}

function head(name: string, about: string, usage: string): string {
  const title = fileName(name).slice(0, -2);
  return [
    `.TH ${escapeRoff(title.toUpperCase())} 1 "" "Ringhost ${VERSION}" "Ringhost"`,
    '.SH NAME',
    `${escapeRoff(title)} \\- ${escapeRoff(about)}`,
    '.SH SYNOPSIS',
    `.B ${escapeRoff(usage)}\n`,
  ].join('\n');
}

function commandPage(command: CommandReference): string {
  return [
    head(command.name, command.about, command.usage),
    section('ARGUMENTS', command.argumentTerms),
    section('OPTIONS', command.options),
    section('METHODS', command.methods),
    section('ENVIRONMENT', ENVIRONMENT),
    '.SH SEE ALSO\n.BR ringhost (1)\n',
  ].join('');
}

function mainPage(commands: readonly CommandReference[]): string {
  const about = 'user-space vhost-user storage target: block devices for virtual machines';
  const others = commands.map(({ name }) => `.BR ${escapeRoff(fileName(name).slice(0, -2))} (1)`);
  return [
    head('ringhost', about, 'ringhost [COMMAND] [OPTIONS]'),
    '.SH DESCRIPTION\nA daemon owns block devices and gives them to virtual machines as vhost\\-user\\-blk and\n',
    'vhost\\-user\\-scsi. Without a command, it is\n.BR "ringhost serve" .\n',
    section(
      'COMMANDS',
      commands.map(({ name, about: what }) => ({ term: name, about: what })),
    ),
    section('ENVIRONMENT', ENVIRONMENT),
    `.SH SEE ALSO\n${others.join(',\n')}\n`,
  ].join('');
}

/** Text of each page, by the name of its file. */
export function manPages(): Readonly<Record<string, string>> {
  const commands = commandReferences();
  const pages = commands.map((command) => [fileName(command.name), commandPage(command)]);
  return Object.fromEntries([[fileName('ringhost'), mainPage(commands)], ...pages]);
}

/** Writes the pages into a directory of their own. */
export function writeManPages(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries(manPages())) writeFileSync(join(directory, name), text);
}
