/** The commands of `ringhost`, for docs/cli.md and the man pages, out of the command line itself. */
import type { Command } from 'commander';
import { createProgram } from '../src/cli/program.ts';
import { RPC_OPTIONS } from '../src/cli/rpc-command.ts';
import { flagText } from '../src/rpc/arguments.ts';
import { findMethod, methodNames } from '../src/rpc/lookup.ts';

export interface Term {
  readonly term: string;
  readonly about: string;
}

export interface CommandReference {
  /** `ringhost serve`. */
  readonly name: string;
  readonly about: string;
  readonly usage: string;
  readonly argumentTerms: readonly Term[];
  readonly options: readonly Term[];
  /** Of `ringhost rpc` alone. */
  readonly methods: readonly Term[];
}

const RPC_USAGE = 'ringhost rpc [-s SOCKET] [-t SECONDS] [-r RETRIES] [-v] [--dry-run] METHOD ...';

/** Every command that help shows, nested ones behind theirs. */
export function commandReferences(): readonly CommandReference[] {
  // The default of -s is not this machine's.
  delete process.env['RINGHOST_RPC_SOCKET'];
  const program = createProgram();
  return leavesOf(program).map((command) => (command.name() === 'rpc' ? rpcReference(command) : reference(command)));
}

function leavesOf(command: Command): readonly Command[] {
  const shown = command.createHelp().visibleCommands(command);
  const inner = shown.filter((each) => command.commands.includes(each));
  return inner.flatMap((each) => (each.commands.length > 0 ? leavesOf(each) : [each]));
}

function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
}

function reference(command: Command): CommandReference {
  const help = command.createHelp();
  return {
    name: pathOf(command),
    about: command.description(),
    usage: help.commandUsage(command).replace(/\|\S+/, ''),
    argumentTerms: command.registeredArguments.map((argument) => ({
      term: help.argumentTerm(argument),
      about: help.argumentDescription(argument),
    })),
    options: help
      .visibleOptions(command)
      .map((option) => ({ term: help.optionTerm(option), about: help.optionDescription(option) })),
    methods: [],
  };
}

function rpcReference(command: Command): CommandReference {
  return {
    ...reference(command),
    about: "call an RPC method, with the arguments of SPDK's rpc.py",
    usage: RPC_USAGE,
    options: (RPC_OPTIONS.flags ?? []).map((flag) => ({ term: flagText(flag, flag.names), about: flag.help })),
    methods: methodNames(false).map((term) => ({ term, about: findMethod(term)?.spec.summary ?? '' })),
  };
}

const INTRODUCTION = `# Command reference

<!-- Made by scripts/generate-docs.ts from src/cli/program.ts. Do not edit. -->

\`ringhost COMMAND --help\` prints the same; so do the man pages in an installed package (\`man ringhost-serve\`).
Without a command, \`ringhost\` is \`ringhost serve\`. The environment variable \`RINGHOST_RPC_SOCKET\` names another
default for the RPC socket of the commands that ask a running daemon.

Shells complete commands, options, methods and the names of bdevs and controllers:

\`\`\`sh
source <(ringhost completion bash)        # in ~/.bashrc
source <(ringhost completion zsh)         # in ~/.zshrc, after compinit
ringhost completion fish | source         # in ~/.config/fish/config.fish
\`\`\`
`;

const METHODS = '\nThe methods are in the [RPC reference](rpc.md).\n';

const cell = (text: string): string => text.replaceAll('|', '\\|');

function termTable(title: string, terms: readonly Term[]): string {
  if (terms.length === 0) return '';
  const rows = terms.map(({ term, about }) => `| \`${cell(term)}\` | ${cell(about)} |`);
  return `\n| ${title} | |\n|---|---|\n${rows.join('\n')}\n`;
}

/** The text of docs/cli.md. */
export function cliReference(): string {
  const sections = commandReferences().map(
    ({ name, about, usage, argumentTerms, options, methods }) => `
## ${name}

${about.charAt(0).toUpperCase()}${about.slice(1)}.

\`\`\`
${usage}
\`\`\`
${termTable('Argument', argumentTerms)}${termTable('Option', options)}${methods.length === 0 ? '' : METHODS}`,
  );
  return `${INTRODUCTION}${sections.join('')}`;
}
