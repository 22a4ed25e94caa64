/** What a command is told of the daemon that it calls: where it is and, over TCP, how it is known and what lets in. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import { clientSocketPath, RpcClient, type RpcClientOptions } from '../rpc/client.ts';
import type { Call } from '../rpc/methods.ts';

export const WHERE_HELP = 'RPC socket of the daemon, or https://HOST:PORT';
export const CA_HELP = "for https: certificates (PEM) of who signed the daemon's; default: those that Node.js trusts";
export const TOKEN_HELP = 'for https: the token of its --rpc-token-file';

type Environment = Readonly<Record<string, string | undefined>>;

export interface DaemonAccess {
  /** Path, or `https://HOST:PORT`. */
  readonly socket: string;
  readonly caFile?: string | undefined;
  readonly tokenFile?: string | undefined;
}

/** Adds the options to a command whose action is given a DaemonAccess. */
export function withDaemonAccess(command: Command): Command {
  return command
    .option('-s, --socket <where>', WHERE_HELP, clientSocketPath())
    .option('--ca-file <file>', CA_HELP)
    .option('--token-file <file>', TOKEN_HELP);
}

/** @throws TargetError when a file cannot be read, or the daemon not be reached */
export function connectTo(
  { socket, caFile, tokenFile }: DaemonAccess,
  options: RpcClientOptions = {},
  env: Environment = process.env,
): Promise<RpcClient> {
  if (!socket.startsWith('https:')) return RpcClient.connect(socket, options);
  const ca = readOption('--ca-file', caFile ?? env['RINGHOST_CA_FILE']);
  const token = readOption('--token-file', tokenFile ?? env['RINGHOST_TOKEN_FILE'])?.trim();
  return RpcClient.connect(socket, { ...options, ca, token });
}

/** Its calls, for what takes those of a daemon as well. */
export function callOf(client: RpcClient): Call {
  return (method, ...params) => client.call(method, ...params);
}

function readOption(option: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const { code = 'EIO' } = error as NodeJS.ErrnoException;
    throw new TargetError(code, `${option}: ${fileProblem(path, error)}`);
  }
}
