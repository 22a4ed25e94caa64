/**
 * How quiet the machine is: before every round each core is watched for a moment by a thread that does nothing but look
 * at the clock. What it misses went to the hypervisor, to interrupts or to other programs.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { pinToCore } from '../src/sys/thread.ts';
import { benchNative } from './native.ts';

const WATCH_NS = 20e6;
/** An idle virtual machine loses less than this to its own timer ticks. */
const NOISY_SHARE = 0.02;

const PRIORITY = -20;

/**
 * Has this process and what it starts go before other programs, as far as the system allows it (root): among all, and
 * where the kernel groups processes by session, for the session that `npm run bench` makes for itself.
 */
export function claimPriority(): boolean {
  try {
    setPriority(PRIORITY);
    const afterName = readFileSync('/proc/self/stat', 'utf8').split(') ').at(-1) ?? '';
    const [, , , session] = afterName.split(' ');
    if (Number(session) === process.pid) writeFileSync('/proc/self/autogroup', String(PRIORITY));
    return true;
  } catch {
    return false;
  }
}

/** Share of a core that others took, by core. */
export type Noise = Readonly<Record<number, number>>;

/** Leaves the calling thread on the last of the cores. Nothing of ours may run on them. */
export function measureNoise(cores: readonly number[]): Noise {
  return Object.fromEntries(
    cores.map((core) => {
      pinToCore(core);
      return [core, benchNative.stolenShare(WATCH_NS)];
    }),
  );
}

/** Time that the hypervisor gave to other machines while ours had work, in ticks of all cores since boot. */
export function stealTicks(stat = readFileSync('/proc/stat', 'utf8')): number {
  // cpu  user nice system idle iowait irq softirq steal …
  const fields = (/^cpu +(.*)$/m.exec(stat)?.[1] ?? '').split(' ');
  return Number(fields[7] ?? 0);
}

/** One line for the report: how much was lost, and whether figures can be trusted. */
export function describeNoise(rounds: readonly Noise[], steal: number, elapsedMs: number): string {
  const shares = rounds.flatMap((noise) => Object.values(noise));
  const worst = Math.max(0, ...shares);
  const mean = shares.reduce((sum, share) => sum + share, 0) / Math.max(1, shares.length);
  const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;
  // A tick is 10 ms (USER_HZ) on every Linux.
  const stolen = (steal * 10) / elapsedMs;
  const before = `others took ${percent(mean)} of the cores before the rounds (${percent(worst)} at worst)`;
  const facts = `${before}, the host ${percent(stolen)} of one core`;
  const isNoisy = mean > NOISY_SHARE || stolen > NOISY_SHARE;
  return isNoisy ? `THE MACHINE WAS NOISY: ${facts}. Trust the ratios, not the figures.` : `Quiet machine: ${facts}.`;
}
