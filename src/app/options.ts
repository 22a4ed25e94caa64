/** What the daemon is started with, checked. */
import { readFileSync } from 'node:fs';
import { parseCpuset } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import type { SocketAccess } from '../base/socket-access.ts';
import { checkToken, type HttpAddress, parseHttpAddress } from '../dashboard/access.ts';
import type { ReactorMode } from '../reactor/reactor.ts';
import { allowedCores } from '../sys/thread.ts';
import type { ConfigFile } from './config-file.ts';
import { type Account, findAccount, findGroup } from './privileges.ts';

/** As typed on the command line. */
export interface RawOptions {
  readonly socketDirectory: string;
  /** Hex mask or list. Default: the first core that the process may use. */
  readonly coreMask?: string | undefined;
  /** MiB. */
  readonly memoryMib?: string | undefined;
  readonly rpcSocket: string;
  readonly configFile?: string | undefined;
  readonly ignoreConfigErrors?: boolean | undefined;
  readonly stateDirectory?: string | undefined;
  readonly defaultConfig?: boolean | undefined;
  readonly mode: string;
  /** Octal. Default: 0600. */
  readonly socketMode?: string | undefined;
  readonly socketGroup?: string | undefined;
  readonly user?: string | undefined;
  /** `ADDRESS:PORT` of the dashboard. Default: none. */
  readonly http?: string | undefined;
  readonly httpTokenFile?: string | undefined;
}

export interface DaemonOptions {
  /** Where controllers' sockets are made. */
  readonly socketDirectory: string;
  /** One reactor each. */
  readonly cores: readonly number[];
  /** Most memory for RAM disks; Infinity for no limit. */
  readonly memoryBytes: number;
  readonly rpcSocket: string;
  readonly configFile: string | undefined;
  /** A call of it that fails does not keep the daemon from starting. */
  readonly ignoreConfigErrors: boolean;
  /** Where what RPC makes is kept. */
  readonly stateDirectory: string | undefined;
  /** Serve a RAM disk when no configuration was given. */
  readonly useDefaultConfig: boolean;
  /** Calls to make in place of a configuration file. */
  readonly ownConfig?: ConfigFile;
  readonly mode: ReactorMode;
  /** Who may connect to the RPC socket and to controllers. */
  readonly access: SocketAccess;
  /** Whom the daemon becomes when it has started; null: nobody else. */
  readonly account: Account | null;
  /** The dashboard; null: none. */
  readonly http: HttpOptions | null;
}

interface HttpOptions {
  readonly address: HttpAddress;
  /** Null: none is needed. */
  readonly token: string | null;
}

const MODES: readonly ReactorMode[] = ['poll', 'adaptive', 'interrupt'];
const MIB = 2 ** 20;

/** Throws a TargetError that says which option to change. */
export function checkOptions(raw: RawOptions): DaemonOptions {
  const allowed = allowedCores();
  const cores = raw.coreMask === undefined ? allowed.slice(0, 1) : parseCpuset(raw.coreMask);
  const missing = cores.filter((core) => !allowed.includes(core));
  if (missing.length > 0) {
    throw new TargetError(
      'EINVAL',
      `-m ${raw.coreMask}: this process may not use core ${missing.join(', ')} (it has ${allowed})`,
    );
  }
  const mode = MODES.find((candidate) => candidate === raw.mode);
  if (mode === undefined) throw new TargetError('EINVAL', `--mode ${raw.mode}: choose ${MODES.join(', ')}`);
  return {
    socketDirectory: raw.socketDirectory,
    cores,
    memoryBytes: raw.memoryMib === undefined ? Number.POSITIVE_INFINITY : parseMib(raw.memoryMib) * MIB,
    rpcSocket: raw.rpcSocket,
    configFile: raw.configFile,
    ignoreConfigErrors: raw.ignoreConfigErrors ?? false,
    stateDirectory: raw.stateDirectory,
    useDefaultConfig: raw.defaultConfig === true && raw.configFile === undefined,
    mode,
    ...checkAccess(raw),
    http: checkHttp(raw),
  };
}

function checkAccess({ socketMode, socketGroup, user }: RawOptions): Pick<DaemonOptions, 'access' | 'account'> {
  // Nobody else is let in without being named: a group gets what the owner has.
  const text = socketMode ?? (socketGroup === undefined ? '0600' : '0660');
  const mode = Number.parseInt(text, 8);
  if (!/^0?[0-7]{3}$/.test(text) || (mode & 0o600) !== 0o600) {
    throw new TargetError(
      'EINVAL',
      `--socket-mode ${text}: give an octal mode with which the owner can connect, such as 0660`,
    );
  }
  const account = user === undefined ? null : findAccount(user);
  const gid = socketGroup === undefined ? (account?.gid ?? -1) : findGroup(socketGroup);
  return { access: { mode, uid: account?.uid ?? -1, gid }, account };
}

function checkHttp({ http, httpTokenFile }: RawOptions): HttpOptions | null {
  if (http === undefined) {
    if (httpTokenFile === undefined) return null;
    throw new TargetError('EINVAL', '--http-token-file needs --http ADDRESS:PORT');
  }
  const address = parseHttpAddress(http);
  const token = httpTokenFile === undefined ? null : readToken(httpTokenFile);
  checkToken(address, token);
  return { address, token };
}

function readToken(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new TargetError('ENOENT', `--http-token-file: ${(error as Error).message}`);
  }
}

function parseMib(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value > 0 && Number.isSafeInteger(value * MIB)) return value;
  throw new TargetError('EINVAL', `-s ${text}: give a whole number of MiB, such as 1024`);
}
