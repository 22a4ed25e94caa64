/** Times and sizes as they are typed. */
import { TargetError } from '../base/errors.ts';

const US_BY_UNIT: Readonly<Record<string, number>> = { us: 1, µs: 1, ms: 1000, s: 1_000_000 };
const BYTES_BY_UNIT: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** `500us`, `2ms`, `1.5s`: microseconds. @throws TargetError `EINVAL` */
export function parseTime(option: string, text: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)(us|µs|ms|s)$/.exec(text) ?? [];
  if (digits === undefined) throw new TargetError('EINVAL', `${option} ${text}: give a time, such as 500us, 2ms or 1s`);
  return Math.round(Number(digits) * (US_BY_UNIT[unit] ?? 1));
}

/** `4096`, `64K`, `10G`: bytes. @throws TargetError `EINVAL` */
export function parseSize(option: string, text: string): number {
  const [, digits, unit = ''] = /^(\d+)([KMGT]?)(?:iB)?$/.exec(text) ?? [];
  const bytes = Number(digits) * (BYTES_BY_UNIT[unit] ?? 1);
  if (digits !== undefined && Number.isSafeInteger(bytes)) return bytes;
  throw new TargetError('EINVAL', `${option} ${text}: give bytes, such as 4096, 64K or 10G`);
}

/** Seconds. @throws TargetError `EINVAL` */
export function parseSeconds(option: string, text: string): number {
  const seconds = Number(text);
  if (/^\d+(\.\d+)?$/.test(text) && seconds > 0) return seconds;
  throw new TargetError('EINVAL', `${option} ${text}: give seconds, such as 5`);
}

/** A whole number from 0 on. @throws TargetError `EINVAL` */
export function parseCount(option: string, text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new TargetError('EINVAL', `${option} ${text}: give a number`);
}
