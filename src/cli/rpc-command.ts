/**
 * `ringhost rpc`: calls a method of a running daemon. It takes what SPDK's rpc.py takes (global options, methods of
 * both generations, their arguments) and prints what it prints. Methods can also be read from standard input, one a
 * line.
 *
 * Unlike rpc.py it writes errors to standard error, so that standard output holds results and nothing else.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import { argumentHelp, parseArguments, toParams, UsageError, usageLine } from '../rpc/arguments.ts';
import { clientSocketPath, DEFAULT_SOCKET_PATH, RpcCallError, type RpcClient } from '../rpc/client.ts';
import type { CliSpec, CliValues } from '../rpc/define.ts';
import { encodeJson } from '../rpc/framing.ts';
import { cliOf, findMethod, methodNames, nearest } from '../rpc/lookup.ts';
import { CA_HELP, connectTo, type DaemonAccess, TOKEN_HELP, WHERE_HELP } from './daemon-access.ts';

/** Where the command reads and writes. */
export interface RpcCommandIo {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Calls to make when no method is named, one a line. Absent or a terminal: help is shown instead. */
  readonly stdin?: AsyncIterable<string | Uint8Array> & { readonly isTTY?: boolean };
}

/** Exit codes of rpc.py. */
const Exit = { ok: 0, failed: 1, usage: 2 } as const;

const RETRY_MS = 200;

export const RPC_OPTIONS: CliSpec = {
  flags: [
    {
      names: ['-s'],
      dest: 'socket',
      kind: 'string',
      help: `${WHERE_HELP} (default ${DEFAULT_SOCKET_PATH})`,
    },
    {
      names: ['-p'],
      dest: 'port',
      kind: 'int',
      help: "rpc.py's plain TCP, which ringhost does not have: -s https://…",
    },
    { names: ['--ca-file'], dest: 'caFile', kind: 'string', help: CA_HELP },
    { names: ['--token-file'], dest: 'tokenFile', kind: 'string', help: TOKEN_HELP },
    { names: ['-t'], dest: 'timeout', kind: 'float', help: 'seconds to wait for an answer (default 60)' },
    { names: ['-r'], dest: 'retries', kind: 'int', help: 'try so often to connect, every 0.2 s (default 0)' },
    { names: ['-v'], dest: 'verbose', kind: 'switch', help: 'show requests and answers' },
    { names: ['--dry-run'], dest: 'dryRun', kind: 'switch', help: 'show the request and do not send it' },
  ],
  print: 'nothing',
};

interface Settings {
  readonly daemon: DaemonAccess;
  readonly timeoutMs: number;
  readonly retries: number;
  readonly verbose: boolean;
  readonly dryRun: boolean;
}

/** A call as it will be sent, and how its result is printed. */
interface Call {
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly print: CliSpec['print'];
  /** Of what is printed. */
  readonly indent: number;
}

/** rpc.py's. Less than 0: all in one line. */
const INDENT = 2;

/**
 * Runs `ringhost rpc` with the arguments behind `rpc`.
 *
 * @returns the exit code: 0 done, 1 the call failed or no daemon answers, 2 the command line is wrong.
 */
export async function runRpcCommand(argv: readonly string[], io: RpcCommandIo): Promise<number> {
  try {
    return await new RpcCommand(io).run(argv);
  } catch (error) {
    if (error instanceof UsageError) {
      io.stderr.write(`ringhost rpc: ${error.message}\n`);
      return Exit.usage;
    }
    if (error instanceof TargetError) {
      io.stderr.write(`ringhost rpc: ${error.message}\n`);
      return Exit.failed;
    }
    throw error;
  }
}

class RpcCommand {
  readonly #io: RpcCommandIo;

  constructor(io: RpcCommandIo) {
    this.#io = io;
  }

  async run(argv: readonly string[]): Promise<number> {
    const methodIndex = findMethodIndex(argv);
    const globals = parseArguments(RPC_OPTIONS, argv.slice(0, methodIndex));
    if (globals.wantsHelp) {
      this.#io.stdout.write(generalHelp());
      return Exit.ok;
    }
    const settings = this.#settings(globals.values);
    const [method, ...rest] = argv.slice(methodIndex);
    if (method !== undefined) return await this.#runOne(method, rest, settings);
    const { stdin } = this.#io;
    if (stdin === undefined || stdin.isTTY === true) {
      this.#io.stdout.write(generalHelp());
      return Exit.failed;
    }
    return await this.#runScript(stdin, settings);
  }

  #settings(values: Readonly<Record<string, unknown>>): Settings {
    const seconds = (values.timeout as number | undefined) ?? 60;
    if (seconds <= 0) throw new UsageError('-t must be greater than 0');
    const socket = (values.socket as string | undefined) ?? clientSocketPath(this.#io.env);
    const [caFile, tokenFile] = [values.caFile as string | undefined, values.tokenFile as string | undefined];
    if (values.port !== undefined) {
      throw new UsageError(`-p: RPC goes over TCP with TLS and a token only: -s https://HOST:${values.port}`);
    }
    return {
      daemon: { socket, caFile, tokenFile },
      timeoutMs: Math.min(seconds * 1000, 2 ** 31 - 1),
      retries: (values.retries as number | undefined) ?? 0,
      verbose: values.verbose === true,
      dryRun: values.dryRun === true,
    };
  }

  async #runOne(method: string, words: readonly string[], settings: Settings): Promise<number> {
    const call = await this.#readCall(method, words);
    if (call === null) return Exit.ok;
    if (settings.dryRun) {
      this.#printRequest(call);
      return Exit.ok;
    }
    return await this.#sendAll([call], settings);
  }

  /** One connection for all lines; the first failure ends it. */
  async #runScript(stdin: AsyncIterable<string | Uint8Array>, settings: Settings): Promise<number> {
    const calls: Call[] = [];
    for (const line of (await readAll(stdin)).split('\n')) {
      const [method, ...words] = splitWords(line);
      const call = method === undefined || method.startsWith('#') ? null : await this.#readCall(method, words);
      if (call !== null) calls.push(call);
    }
    if (settings.dryRun) {
      for (const call of calls) this.#printRequest(call);
      return Exit.ok;
    }
    return await this.#sendAll(calls, settings);
  }

  async #sendAll(calls: readonly Call[], settings: Settings): Promise<number> {
    const client = await connectWithRetries(settings, this.#io.env);
    try {
      for (const call of calls) {
        const code = await this.#send(client, call, settings);
        if (code !== Exit.ok) return code;
      }
      return Exit.ok;
    } finally {
      client.close();
    }
  }

  /** Null when help was asked for and has been printed. */
  async #readCall(method: string, words: readonly string[]): Promise<Call | null> {
    const found = findMethod(method);
    if (found === undefined) {
      const like = nearest(method, methodNames(true));
      const hint = like === null ? 'ringhost rpc --help lists the methods' : `did you mean ${like}?`;
      throw new UsageError(`unknown method ${method}: ${hint}`);
    }
    const cli = cliOf(found);
    try {
      const parsed = parseArguments(cli, words);
      if (!parsed.wantsHelp) {
        const { values } = parsed;
        const params = { ...toParams(cli, values), ...(await this.#readInput(cli, values)) };
        return { method, params, print: cli.print, indent: (values['indent'] as number | undefined) ?? INDENT };
      }
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      const usage = `usage: ringhost rpc ${usageLine(method, cli)}`;
      throw new UsageError(`${method}: ${error.message}${globalHint(error.message)}\n${usage}`);
    }
    const details = found.spec.details === undefined ? '' : `${found.spec.details}\n\n`;
    const head = `usage: ringhost rpc ${usageLine(method, cli)}\n\n${found.spec.summary}.\n${details}`;
    this.#io.stdout.write(`${head}\n${argumentHelp(cli)}\n`);
    return null;
  }

  /** The parameters that come from a file or standard input. */
  async #readInput({ input }: CliSpec, values: CliValues): Promise<Readonly<Record<string, unknown>>> {
    if (input === undefined) return {};
    const path = values[input.flag] as string | undefined;
    const origin = path ?? 'standard input';
    let value: unknown;
    try {
      value = JSON.parse(path === undefined ? await readAll(this.#io.stdin ?? []) : readFileSync(path, 'utf8'));
    } catch (error) {
      const isOfFile = path !== undefined && !(error instanceof SyntaxError);
      const problem = isOfFile ? fileProblem(path, error) : (error as Error).message;
      throw new TargetError('EINVAL', `cannot read JSON from ${origin}: ${problem}`);
    }
    const object = (typeof value === 'object' ? value : null) ?? {};
    return Object.fromEntries(Object.entries(object).filter(([name]) => input.members.includes(name)));
  }

  async #send(client: RpcClient, call: Call, settings: Settings): Promise<number> {
    if (settings.verbose)
      this.#io.stderr.write(`INFO: request:\n${encodeJson({ method: call.method, params: shownParams(call) }, 2)}\n`);
    try {
      const result = await client.request(call.method, call.params);
      if (settings.verbose) this.#io.stderr.write(`INFO: response:\n${encodeJson(result, 2)}\n`);
      this.#printResult(result, call);
      return Exit.ok;
    } catch (error) {
      // The daemon may be gone before it could answer: that is what was asked for.
      const isKill = call.method === 'spdk_kill_instance' || call.method === 'kill_instance';
      if (isKill && error instanceof TargetError && error.code === 'EPIPE') return Exit.ok;
      if (!(error instanceof RpcCallError)) throw error;
      const request = encodeJson({ ...shownParams(call), method: call.method }, 2);
      const response = encodeJson(error.response, 2);
      this.#io.stderr.write(`request:\n${request}\nGot JSON-RPC error response\nresponse:\n${response}\n`);
      return Exit.failed;
    }
  }

  #printResult(result: unknown, { print, indent }: Call): void {
    if (print === 'nothing') return;
    if (print === 'words' && Array.isArray(result)) {
      this.#io.stdout.write(`${result.join(' ')}\n`);
      return;
    }
    const text = encodeJson(result, Math.max(indent, 0));
    this.#io.stdout.write(`${print === 'text' ? text.replace(/^"+|"+$/g, '') : text}\n`);
  }

  #printRequest(call: Call): void {
    this.#io.stdout.write(`Request:\n${encodeJson({ method: call.method, params: call.params }, 2)}\n`);
  }
}

/** The method is the first word that is neither a global option nor the value of one. */
function findMethodIndex(argv: readonly string[]): number {
  const takesValue = new Set(['-s', '-p', '-t', '-r', '--ca-file', '--token-file']);
  let index = 0;
  while (index < argv.length && (argv[index] as string).startsWith('-'))
    index += takesValue.has(argv[index] as string) ? 2 : 1;
  return Math.min(index, argv.length);
}

/** An option of all calls that stands behind the method is none. */
function globalHint(message: string): string {
  const [, flag] = /^unknown flag: (\S+)$/.exec(message) ?? [];
  const isGlobal = RPC_OPTIONS.flags?.some(({ names }) => names.some((name) => name === flag)) === true;
  return isGlobal ? `: it stands before the method: ringhost rpc ${flag} … METHOD` : '';
}

async function connectWithRetries(settings: Settings, env: RpcCommandIo['env']): Promise<RpcClient> {
  const { daemon, timeoutMs } = settings;
  for (let attempt = 0; attempt < settings.retries; attempt++) {
    try {
      return await connectTo(daemon, { timeoutMs }, env);
    } catch {
      await sleep(RETRY_MS);
    }
  }
  return await connectTo(daemon, { timeoutMs }, env);
}

async function readAll(stream: AsyncIterable<string | Uint8Array> | Iterable<never>): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const piece of stream) pieces.push(typeof piece === 'string' ? Buffer.from(piece) : piece);
  return Buffer.concat(pieces).toString();
}

/** Splits a line as a POSIX shell does, with quotes and backslashes but without expansions. */
export function splitWords(line: string): readonly string[] {
  const words: string[] = [];
  const token = /'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\]+)|(\s+)/gsy;
  let word: string | null = null;
  while (token.lastIndex < line.length) {
    const match = token.exec(line);
    if (match === null) throw new UsageError(`a quote is not closed: ${line}`);
    const [, single, double, escaped, plain, space] = match;
    if (space !== undefined) {
      if (word !== null) words.push(word);
      word = null;
    } else word = (word ?? '') + (single ?? double?.replace(/\\(["\\])/g, '$1') ?? escaped ?? plain ?? '');
  }
  if (word !== null) words.push(word);
  return words;
}

function generalHelp(): string {
  const methods = methodNames(false).map((name) => {
    const found = findMethod(name);
    return `  ${name.padEnd(32)}${found?.spec.summary ?? ''}`;
  });
  const older = methodNames(true).filter((name) => findMethod(name)?.alias !== null);
  return `usage: ringhost rpc [-s WHERE] [-t SECONDS] [-r RETRIES] [-v] [--dry-run] METHOD ...

Call a method of a running daemon. \`ringhost rpc METHOD --help\` shows what a method takes.
Without METHOD, calls are read from standard input, one a line.

options:
${argumentHelp(RPC_OPTIONS)}

The environment variables RINGHOST_RPC_SOCKET, RINGHOST_CA_FILE and RINGHOST_TOKEN_FILE name other defaults for -s,
--ca-file and --token-file.

methods:
${methods.join('\n')}

older names of the same methods:
  ${older.join('\n  ')}
`;
}

/** What is printed is kept in terminals and logs. */
function shownParams({ method, params }: Pick<Call, 'method' | 'params'>): Readonly<Record<string, unknown>> {
  const secrets = findMethod(method)?.spec.secrets ?? [];
  return Object.fromEntries(
    Object.entries(params).map(([name, value]) => [name, secrets.includes(name) ? '(not shown)' : value]),
  );
}
