/**
 * `--confine`: the daemon starts again in a process that reaches only the files it needs (Landlock), so that a fault in
 * the data path opens nothing else. A new process, because a thread that runs already cannot be confined; Node has
 * some.
 */
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { assert } from '../base/assert.ts';
import { confineFiles } from '../sys/confine.ts';
import type { RawOptions } from './options.ts';
import { findAccount } from './privileges.ts';
import { makeStateDirectory } from './state-directory.ts';

/** Set in the process that is confined. */
const MARK = 'RINGHOST_CONFINED';
/** The system's libraries and what Node and this program read of the system's state. */
const SYSTEM = ['/usr', '/lib', '/lib64', '/bin', '/etc', '/proc', '/sys', '/dev'];
const DEVICES = ['/dev/null', '/dev/hugepages', '/dev/shm'];

/**
 * Returns in the confined process only; the one that called is replaced. `allowed`: files and directories that may be
 * read and written beside those that the options name.
 *
 * Ends the process with a message when it cannot be confined, such as on a kernel without Landlock.
 */
export function confineProcess(options: RawOptions, allowed: readonly string[]): void {
  const { socketDirectory, rpcSocket, stateDirectory, user } = options;
  const { execPath, execArgv, argv, env } = process;
  if (env[MARK] === '1') return;
  const program = fileURLToPath(new URL('../..', import.meta.url));
  const { configFile, httpTokenFile, rpcCert, rpcKey, rpcTokenFile } = options;
  const secrets = [httpTokenFile, rpcCert, rpcKey, rpcTokenFile].filter((path) => path !== undefined);
  // Their directories: a file that is put in place of one is another file.
  const given = [...(configFile === undefined ? [] : [configFile]), ...secrets.map((path) => dirname(path))];
  const readable = [...SYSTEM, dirname(execPath), program, ...given];
  try {
    // What is not there cannot be named.
    if (stateDirectory !== undefined) makeStateDirectory(stateDirectory, user === undefined ? null : findAccount(user));
    const own = [socketDirectory, dirname(rpcSocket), ...(stateDirectory === undefined ? [] : [stateDirectory])];
    confineFiles(readable, [...own, ...DEVICES, ...allowed]);
  } catch (error) {
    process.stderr.write(`ringhost: --confine: ${(error as Error).message}\n`);
    process.exit(1);
  }
  assert(process.execve !== undefined, 'Node.js 22.18 and later can replace the process');
  process.execve(execPath, [execPath, ...execArgv, ...argv.slice(1)], { ...env, [MARK]: '1' });
}
