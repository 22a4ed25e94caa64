/**
 * Core masks as operators write them: a hex mask of any length (`0x3`, `F`), or a list (`0-3,8`, `[0,1]`), as SPDK's
 * `-m` and `--cpumask` take them.
 */
import { TargetError } from './errors.ts';

/** Highest core number accepted (CPU_SETSIZE of glibc). */
const CORE_MAX = 1023;

/** Cores of a mask or list, ascending. Throws `EINVAL` with what is wrong. */
export function parseCpuset(text: string): number[] {
  const trimmed = text.trim();
  const cores = trimmed.startsWith('[') || /[,-]/.test(trimmed) ? parseList(trimmed) : parseMask(trimmed);
  if (cores.length === 0) throw invalid(text, 'it names no core');
  return cores;
}

/** The hex mask of cores, in SPDK's form: `0x3`. */
export function formatCpumask(cores: readonly number[]): string {
  const mask = cores.reduce((bits, core) => bits | (1n << BigInt(core)), 0n);
  return `0x${mask.toString(16)}`;
}

function parseMask(text: string): number[] {
  const digits = text.replace(/^0x/i, '');
  if (!/^[0-9a-f]+$/i.test(digits)) throw invalid(text, 'a mask is hexadecimal');
  const mask = BigInt(`0x${digits}`);
  if (mask >> BigInt(CORE_MAX + 1) !== 0n) throw invalid(text, `cores go up to ${CORE_MAX}`);
  const cores: number[] = [];
  for (let core = 0; core <= CORE_MAX; core++) if (((mask >> BigInt(core)) & 1n) === 1n) cores.push(core);
  return cores;
}

function parseList(text: string): number[] {
  const inner = text.startsWith('[') ? text.slice(1, -1) : text;
  if (text.startsWith('[') && !text.endsWith(']')) throw invalid(text, 'the bracket is not closed');
  const cores = new Set<number>();
  for (const part of inner.split(',')) {
    const match = /^\s*(\d+)(?:\s*-\s*(\d+))?\s*$/.exec(part);
    if (match === null) throw invalid(text, `"${part}" is neither a core nor a range`);
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first || last > CORE_MAX) throw invalid(text, `the range "${part}" is not valid`);
    for (let core = first; core <= last; core++) cores.add(core);
  }
  return [...cores].sort((a, b) => a - b);
}

function invalid(text: string, reason: string): TargetError {
  return new TargetError('EINVAL', `"${text}" is not a core mask: ${reason} (give 0x3, 0-3,8 or [0,1])`);
}
