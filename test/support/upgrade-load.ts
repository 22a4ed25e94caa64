/**
 * A daemon that is replaced again and again while its disks are under verified load. RINGHOST_UPGRADES is how often;
 * docs/reliability.md has the figures of long runs.
 */
import { join } from 'node:path';
import { expect } from 'vitest';
import { waitUntil } from '../e2e/wait.ts';
import type { RinghostDaemon } from '../integration/fixtures/targets.ts';
import { type StampedDisk, StampedLoad } from './stamped-load.ts';

/** Nothing is to fail because a machine is slow. */
export const PATIENT = { max_pause_ms: 60_000 };
const LONG_MS = 120_000;
const MORTAL_VERSION = join(import.meta.dirname, '..', 'integration', 'fixtures', 'mortal-version.ts');
const UPGRADES = Number(process.env['RINGHOST_UPGRADES'] ?? 2);
/** Steps of fixtures/mortal-version.ts: the first upgrades come after one that fails there, when guests wait. */
const FAILURES = ['ready>', 'ready>>'];

/** The median and the longest of them, in milliseconds. */
export function spreadOf(ms: readonly number[]): string {
  const sorted = ms.toSorted((a, b) => a - b);
  const [median, worst] = [sorted[Math.floor(sorted.length / 2)], sorted.at(-1)];
  return `median ${median?.toFixed(1)} ms, longest ${worst?.toFixed(1)} ms`;
}

/** `args`: options of the daemon other than those that every one has. */
async function failingUpgrade(daemon: RinghostDaemon, step: string, args: readonly string[]): Promise<void> {
  const same = ['-S', daemon.directory, '-r', join(daemon.directory, 'rpc.sock'), '-s', '1024', ...args];
  const params = { exec: process.execPath, args: [MORTAL_VERSION, step, 'exits', 'serve', ...same], ...PATIENT };
  await expect(daemon.rpc.call('framework_upgrade', params)).rejects.toThrow('serves on');
}

/**
 * Loads the disks and hands them over, again and again. Throws when something is lost or mixed up; resolves with how
 * many requests were answered that nobody made. Closes the disks.
 */
export async function strayAnswers(
  daemon: RinghostDaemon,
  disks: readonly StampedDisk[],
  args: readonly string[] = ['-m', '0x1'],
): Promise<number> {
  const loads = disks.map((disk) => new StampedLoad(disk));
  const goOn = async (what: string): Promise<void> => {
    for (const load of loads) {
      const before = load.writes;
      await waitUntil(() => load.writes > before + 10, LONG_MS, `writes ${what}`);
    }
  };
  const pauses: number[] = [];
  const waits: number[] = [];
  for (let i = 0; i < UPGRADES; i++) {
    await goOn('before an upgrade');
    const failure = FAILURES[i];
    if (failure !== undefined) {
      await failingUpgrade(daemon, failure, args);
      await goOn('after an upgrade that failed');
    }
    for (const load of loads) load.longestMs = 0;
    pauses.push((await daemon.upgrade(PATIENT)).pause_ms);
    await goOn('by the new daemon');
    waits.push(Math.max(...loads.map(({ longestMs }) => longestMs)));
  }
  await Promise.all(loads.map((load) => load.stop()));
  await Promise.all(loads.map((load) => load.verify()));
  console.log(`${UPGRADES} upgrades, pauses: ${spreadOf(pauses)}; the longest request of each: ${spreadOf(waits)}`);
  const stray = disks.reduce((sum, disk) => sum + disk.unknownIds(), 0);
  for (const disk of disks) disk.close();
  return stray;
}
