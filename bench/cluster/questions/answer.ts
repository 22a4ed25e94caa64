/** What the simulation says to a question: a table. */
import type { CurvePoint } from '../curve.ts';

export interface Answer {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What can be drawn of it. */
  readonly curve?: readonly CurvePoint[];
}

export function time(us: number): string {
  if (us < 1000) return `${us.toFixed(0)} us`;
  return us < 1e6 ? `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

export const share = (part: number): string => `${(100 * part).toFixed(0)} %`;

export const count = (value: number): string => Math.round(value).toLocaleString('en-US');
