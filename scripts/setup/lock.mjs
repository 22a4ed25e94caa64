/**
 * A lock between processes: flock(1) holds it for as long as we live, so a killed holder leaves nothing behind.
 * Plain JavaScript for any Node >= 20: the set-up uses it before anything is installed.
 */
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

const QUIET_WAIT_MS = 1_000;

/**
 * Runs `work` while no other process holds the lock on `file`.
 * @template T
 * @param {string} file made when missing, never removed
 * @param {() => void} onWait called once when another process holds the lock
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withFileLock(file, onWait, work) {
  mkdirSync(dirname(file), { recursive: true });
  // The shell says when the lock is held, and holds it until its input ends: with us, at the latest.
  const holder = spawn('flock', ['--exclusive', file, 'sh', '-c', 'echo held; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true, // a Ctrl-C on the terminal is ours to handle, and must not free the lock under us
  });
  const waiting = setTimeout(onWait, QUIET_WAIT_MS);
  try {
    await new Promise((resolve, reject) => {
      holder.stdout.once('data', resolve);
      holder.once('error', reject);
      holder.once('exit', (code) => reject(new Error(`flock ${file} ended with ${code}`)));
    });
    clearTimeout(waiting);
    return await work();
  } finally {
    clearTimeout(waiting);
    holder.removeAllListeners('exit');
    holder.stdin?.end();
    holder.unref();
  }
}
