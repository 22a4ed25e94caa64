/** What the daemon is started with, checked. */
import { readFileSync, statSync } from 'node:fs';
import { parseCpuset } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import { type NetworkAddress, parseNetworkAddress } from '../base/network-address.ts';
import type { SocketAccess } from '../base/socket-access.ts';
import { checkToken } from '../base/token.ts';
import { requireToken } from '../dashboard/access.ts';
import type { ReactorMode } from '../reactor/reactor.ts';
import type { HttpsOptions } from '../rpc/https-listener.ts';
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
  /** `all`, or names of controllers, separated by commas. Default: none. */
  readonly traceProtocol?: string | undefined;
  /** `ADDRESS:PORT` for RPC over TCP. Default: none. */
  readonly rpcHttps?: string | undefined;
  readonly rpcCert?: string | undefined;
  readonly rpcKey?: string | undefined;
  readonly rpcTokenFile?: string | undefined;
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
  /** Controllers whose messages go to the log; `all` for all. Default: none. */
  readonly tracedProtocols?: readonly string[];
  /** The dashboard; null: none. */
  readonly http: HttpOptions | null;
  /** RPC over TCP; null: none. */
  readonly rpcHttps: HttpsOptions | null;
}

interface HttpOptions {
  readonly address: NetworkAddress;
  /** Null: none is needed. */
  readonly token: string | null;
}

const MODES: readonly ReactorMode[] = ['poll', 'adaptive', 'interrupt'];
const MIB = 2 ** 20;
const READABLE_BY_ALL = 0o004;

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
    rpcSocket: checkRpcSocket(raw.rpcSocket),
    configFile: raw.configFile,
    ignoreConfigErrors: raw.ignoreConfigErrors ?? false,
    stateDirectory: raw.stateDirectory,
    useDefaultConfig: raw.defaultConfig === true && raw.configFile === undefined,
    mode,
    tracedProtocols: raw.traceProtocol === undefined ? [] : parseTraced(raw.traceProtocol),
    ...checkAccess(raw),
    http: checkHttp(raw),
    rpcHttps: checkRpcHttps(raw),
  };
}

function parseTraced(text: string): string[] {
  const names = text.split(',');
  if (names.every((name) => name !== '')) return names;
  throw new TargetError('EINVAL', `--trace-protocol "${text}": name controllers, such as vhost.0,vhost.1, or all`);
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
  const address = parseNetworkAddress(http, '--http');
  const token = httpTokenFile === undefined ? null : readToken(httpTokenFile);
  requireToken(address, token);
  return { address, token };
}

/** SPDK listens on TCP, in plain text and for everybody, when it is given an address here. */
function checkRpcSocket(path: string): string {
  if (!/^(\[[\da-f:]+\]|[^/:]+):\d+$/i.test(path)) return path;
  const options = '--rpc-cert FILE --rpc-key FILE --rpc-token-file FILE';
  const instead = `give --rpc-https ${path} ${options} beside the path of a socket`;
  throw new TargetError('EINVAL', `-r ${path}: RPC goes over TCP with TLS and a token only: ${instead}`);
}

function checkRpcHttps({ rpcHttps, rpcCert, rpcKey, rpcTokenFile }: RawOptions): HttpsOptions | null {
  if (rpcHttps === undefined) {
    if ((rpcCert ?? rpcKey ?? rpcTokenFile) === undefined) return null;
    throw new TargetError('EINVAL', '--rpc-cert, --rpc-key and --rpc-token-file need --rpc-https ADDRESS:PORT');
  }
  const address = parseNetworkAddress(rpcHttps, '--rpc-https');
  if (rpcCert === undefined || rpcKey === undefined || rpcTokenFile === undefined) {
    const detail = 'it needs --rpc-cert FILE, --rpc-key FILE and --rpc-token-file FILE (docs/remote-rpc.md makes them)';
    throw new TargetError('EINVAL', `--rpc-https ${rpcHttps}: ${detail}`);
  }
  return {
    address,
    certificate: readOptionFile(rpcCert, '--rpc-cert'),
    key: readSecret(rpcKey, '--rpc-key'),
    token: checkToken(readSecret(rpcTokenFile, '--rpc-token-file').trim(), `--rpc-token-file ${rpcTokenFile}`),
  };
}

function readToken(path: string): string {
  const option = '--http-token-file';
  return checkToken(readOptionFile(path, option).trim(), `${option} ${path}`);
}

/** A file that gives full power over the daemon: not for everybody to read. */
function readSecret(path: string, option: string): string {
  const text = readOptionFile(path, option);
  if ((statSync(path).mode & READABLE_BY_ALL) === 0) return text;
  throw new TargetError('EACCES', `${option} ${path}: every user of this machine can read it: chmod 600 ${path}`);
}

function readOptionFile(path: string, option: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const { code = 'EIO' } = error as NodeJS.ErrnoException;
    const remedy = option.endsWith('-token-file') ? `: openssl rand -hex 32 > ${path} makes one` : '';
    throw new TargetError(code, `${option}: ${fileProblem(path, error)}${code === 'ENOENT' ? remedy : ''}`);
  }
}

function parseMib(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value > 0 && Number.isSafeInteger(value * MIB)) return value;
  throw new TargetError('EINVAL', `-s ${text}: give a whole number of MiB, such as 1024`);
}
