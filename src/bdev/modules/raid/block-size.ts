/** Of the bases of a RAID disk. */
import { TargetError } from '../../../base/errors.ts';
import type { BdevEntry } from '../../registry.ts';

/** Throws `EINVAL` when they have several. */
export function commonBlockSize(bases: readonly BdevEntry[]): number {
  const [first, ...others] = bases.map(({ bdev }) => bdev.blockSizeBytes);
  const odd = others.findIndex((size) => size !== first);
  if (odd < 0) return first as number;
  const names = `"${bases[0]?.name}" has blocks of ${first} bytes, "${bases[odd + 1]?.name}" of ${others[odd]}`;
  throw new TargetError('EINVAL', `the bases of a RAID disk have blocks of one size: ${names}`);
}
