/** What is measured: one row of the table each. */
export interface Scenario {
  readonly name: string;
  readonly blockBytes: number;
  readonly depth: number;
  readonly pattern: 'random' | 'sequential';
  readonly writePercent: number;
}

export const SCENARIOS: readonly Scenario[] = [1, 32, 128].map((depth) => ({
  name: `4 KiB random read, depth ${depth}`,
  blockBytes: 4096,
  depth,
  pattern: 'random' as const,
  writePercent: 0,
}));
