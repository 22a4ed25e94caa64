/** How many values lie in a bucket: its upper bound, and the count. */
export type Bucket = readonly [upper: number, count: number];

/** Upper bound that `percent` of the values do not exceed (50 is the median); 0 without any. Buckets are ascending. */
export function percentileOf(buckets: readonly Bucket[], percent: number): number {
  const total = buckets.reduce((sum, [, count]) => sum + count, 0);
  const rank = (total * percent) / 100;
  let seen = 0;
  for (const [upper, count] of buckets) {
    seen += count;
    if (seen >= rank) return upper;
  }
  return 0;
}
