/**
 * Child processes of the set-up and of the commands it runs. Plain JavaScript for any Node >= 20: it runs before
 * anything is installed.
 */
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { constants as osConstants } from 'node:os';
import { delimiter, join } from 'node:path';

const FORWARDED_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'];
/** A terminal's Ctrl-C reaches us directly and a second time through npm, which forwards what it got: one is meant. */
const SAME_SIGNAL_MS = 300;

/**
 * Runs a command with our stdio until it ends: the last thing that a process of ours does. The command gets a process
 * group of its own, so that a signal reaches it exactly once: from here, and not from the terminal or npm as well. Our
 * handlers stay for good, since npm may pass on a Ctrl-C when the command has ended already.
 * @returns {Promise<number>} its exit code, or 128 + signal number as shells report it
 */
export function runForeground(command, args, { env = process.env, cwd = process.cwd() } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'inherit', env, cwd, detached: true });
    const lastSeenMs = new Map();
    for (const signal of FORWARDED_SIGNALS) {
      process.on(signal, () => {
        const nowMs = Date.now();
        const sinceMs = nowMs - (lastSeenMs.get(signal) ?? 0);
        lastSeenMs.set(signal, nowMs);
        if (sinceMs >= SAME_SIGNAL_MS) signalGroup(child.pid, signal);
      });
    }
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(signal === null ? (code ?? 1) : 128 + osConstants.signals[signal]));
  });
}

/** As a terminal does: the command and what it started. */
function signalGroup(pid, signal) {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if (error.code !== 'ESRCH') throw error; // it has just ended
  }
}

/**
 * Runs a set-up step quietly.
 * @returns {{ ok: boolean, output: string }} what it printed, for the message when it failed
 */
export function runQuietly(command, args, { env = process.env, cwd = process.cwd() } = {}) {
  const result = spawnSync(command, args, {
    env,
    cwd,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}${result.error ? `${result.error.message}\n` : ''}`;
  return { ok: result.status === 0, output };
}

const EXCERPT_LINES = 20;

/** The beginning of a failed step's output: npm and the compiler say what is wrong first, and a page of help later. */
export function excerpt(output) {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const rest = lines.length - EXCERPT_LINES;
  return [...lines.slice(0, EXCERPT_LINES), ...(rest > 0 ? [`… and ${rest} more lines`] : [])].join('\n');
}

/** @returns {string | null} the full path of `command` on PATH */
export function findOnPath(command) {
  for (const directory of (process.env.PATH ?? '').split(delimiter)) {
    const candidate = join(directory, command);
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // not there: try the next directory
    }
  }
  return null;
}
