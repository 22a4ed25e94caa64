/**
 * What a kind of scenario is. One file here makes the scenarios of one kind; scenarios/all.ts lists the kinds.
 *
 * A scenario measures one target at a time, a few times over: every round calls `measure` once for each target, one
 * after the other, so that a noisy minute hits all of them.
 */
import type { Target, TargetKind } from '../targets/target.ts';

/** What one measurement found, by metric. */
export type Sample = Readonly<Record<string, number>>;

export interface Metric {
  /** Key in a sample. */
  readonly key: string;
  /** Head of its column. */
  readonly title: string;
  readonly format: (value: number) => string;
  /** Show the lowest and the highest round as well as the median. */
  readonly hasRange?: boolean;
}

/** A file of this machine, an image of a Ceph cluster, an NBD server, an NVMe/TCP target. */
export type Backing = 'file' | 'image' | 'nbd' | 'nvme' | 'vhost-user';

export interface Effort {
  /** Length of one measurement in milliseconds. */
  readonly durationMs: number;
  readonly warmUpMs: number;
}

export interface Scenario {
  /** Scenarios of a group stand in one table; they have the same metrics. */
  readonly group: string;
  readonly name: string;
  /** The first one is what ratios and plots are of; more of it is better, unless `isLessBetter`. */
  readonly metrics: readonly Metric[];
  readonly isLessBetter?: boolean;
  /** Left out of `--quick`. */
  readonly isDetail?: boolean;
  /** Measured on a target that is started for it, and stopped afterwards. */
  readonly isFresh?: boolean;
  /** What its disk stands on. Servers are started only when `--only` asks for it. */
  readonly needs?: Backing;
  /** Where fewer rounds must do. */
  readonly roundsMax?: number;
  runsOn(kind: TargetKind): boolean;
  /** The target runs, and nothing else does. */
  measure(target: Target, effort: Effort): Promise<Sample>;
}

export function formatRate(perSecond: number): string {
  if (perSecond >= 1e6) return `${(perSecond / 1e6).toFixed(2)} M`;
  return perSecond >= 1e5 ? `${(perSecond / 1e3).toFixed(0)} k` : `${(perSecond / 1e3).toFixed(1)} k`;
}

export function formatNs(ns: number): string {
  if (ns >= 1e6) return `${(ns / 1e6).toFixed(2)} ms`;
  return ns >= 1e5 ? `${(ns / 1e3).toFixed(0)} µs` : `${(ns / 1e3).toFixed(2)} µs`;
}

export function formatMs(ms: number): string {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(0)} ms`;
}

export function formatMib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}

export function formatShare(share: number): string {
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}
