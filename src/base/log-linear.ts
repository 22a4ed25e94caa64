/**
 * Log-linear buckets: values up to 2^32 - 1 in buckets whose width grows with the value, `2^bits` of them to each power
 * of two, so that a bucket's bounds differ by at most 1/2^bits.
 *
 *   value < 2^bits                      bucket = value
 *   2^e <= value < 2^(e+1), e >= bits   bucket = 2^bits (e - bits) + (value >> (e - bits))
 */
const VALUE_BITS = 32;

/** How many buckets there are. */
export function bucketCount(bits: number): number {
  return (VALUE_BITS - bits + 1) << bits;
}

export function bucketOf(value: number, bits: number): number {
  if (value < 1 << bits) return value;
  const shift = 31 - Math.clz32(value) - bits;
  return (shift << bits) + (value >>> shift);
}

/** Largest value that falls into the bucket. */
export function upperBound(bucket: number, bits: number): number {
  const size = 1 << bits;
  if (bucket < size) return bucket;
  const shift = (bucket >>> bits) - 1;
  return (size + (bucket & (size - 1)) + 1) * 2 ** shift - 1;
}
