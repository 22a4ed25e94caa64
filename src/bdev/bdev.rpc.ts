/** The RPC methods that every kind of bdev has. */
import { TargetError } from '../base/errors.ts';
import { IO_TYPE_NAMES } from '../rpc/methods/bdev.ts';
import type { Handlers, Params, Result, RpcContext } from '../rpc/methods.ts';
import { clockNs } from '../sys/thread.ts';
import type { BdevConfig } from './bdev.ts';
import { IoType } from './bdev-io.ts';
import { type IoCounts, readStats, statsRows } from './bdev-stats.ts';
import type { RateLimits } from './rate-limits.ts';
import type { BdevEntry, BdevRegistry } from './registry.ts';

/** The clock of `ticks`: nanoseconds. */
export const TICK_RATE = 1_000_000_000;

type BdevHandlers = Pick<
  Handlers,
  'bdev_get_bdevs' | 'bdev_get_iostat' | 'bdev_reset_iostat' | 'bdev_set_qos_limit' | 'delete_bdev'
>;

/** What a client sees of an I/O type's name. */
const IO_TYPE_BY_NAME: Readonly<Partial<Record<(typeof IO_TYPE_NAMES)[number], IoType>>> = {
  read: IoType.read,
  write: IoType.write,
  unmap: IoType.unmap,
  flush: IoType.flush,
  write_zeroes: IoType.writeZeroes,
};

export function bdevRpc(registry: BdevRegistry): BdevHandlers {
  /** Counts at the last reset, by bdev id. */
  const baselines = new Map<number, Snapshot>();
  registry.on('deleted', (entry) => baselines.delete(entry.id));
  return {
    async bdev_get_bdevs({ name, timeout }, context) {
      if (name === undefined) return registry.list().map(describe);
      if (registry.find(name) === undefined && timeout > 0) await appeared(registry, name, timeout, context);
      return [describe(registry.get(name))];
    },

    bdev_get_iostat(params) {
      return iostat(registry, baselines, params);
    },

    bdev_reset_iostat({ name, mode }) {
      const entries = name === undefined ? registry.list() : [registry.get(name)];
      if (mode === 'all') for (const entry of entries) baselines.set(entry.id, snapshot(entry));
      return true;
    },

    async bdev_set_qos_limit(params) {
      const entry = registry.get(params.name);
      const before = entry.limits;
      entry.setLimits({
        rwIos: params.rw_ios_per_sec ?? before.rwIos,
        rwMebibytes: params.rw_mbytes_per_sec ?? before.rwMebibytes,
        readMebibytes: params.r_mbytes_per_sec ?? before.readMebibytes,
        writeMebibytes: params.w_mbytes_per_sec ?? before.writeMebibytes,
        burstMs: params.burst_ms ?? before.burstMs,
      });
      await registry.changed(entry);
      return true;
    },

    async delete_bdev({ name }) {
      await registry.deleteForGood(registry.get(name));
      return true;
    },
  };
}

/** The call that would set a bdev's limits again; none when it has none. */
export function limitConfig(entry: BdevEntry): BdevConfig[] {
  const limits = limitParams(entry.limits);
  if (Object.values(limits).every((limit) => limit === 0)) return [];
  return [{ method: 'bdev_set_qos_limit', params: { name: entry.name, ...limits, burst_ms: entry.limits.burstMs } }];
}

function limitParams(limits: RateLimits): Result<'bdev_get_bdevs'>[number]['assigned_rate_limits'] {
  return {
    rw_ios_per_sec: limits.rwIos,
    rw_mbytes_per_sec: limits.rwMebibytes,
    r_mbytes_per_sec: limits.readMebibytes,
    w_mbytes_per_sec: limits.writeMebibytes,
  };
}

/** Resolves when the bdev exists, the time is over or the client is gone. */
function appeared(registry: BdevRegistry, name: string, timeoutMs: number, context: RpcContext): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      registry.off('created', onCreated);
      context.signal.removeEventListener('abort', finish);
      resolve();
    };
    const onCreated = (): void => {
      if (registry.find(name) !== undefined) finish();
    };
    const timer = setTimeout(finish, Math.min(timeoutMs, 2 ** 31 - 1));
    registry.on('created', onCreated);
    context.signal.addEventListener('abort', finish);
    if (context.signal.aborted) finish();
  });
}

function describe(entry: BdevEntry): Result<'bdev_get_bdevs'>[number] {
  const { bdev } = entry;
  const supports = (name: (typeof IO_TYPE_NAMES)[number]): boolean => {
    const type = IO_TYPE_BY_NAME[name];
    return type !== undefined && bdev.ioTypes.includes(type);
  };
  return {
    name: bdev.name,
    aliases: [bdev.alias ?? bdev.uuid],
    product_name: bdev.productName,
    block_size: bdev.blockSizeBytes,
    num_blocks: bdev.blockCount,
    preferred_write_alignment: 0,
    preferred_write_granularity: 0,
    optimal_write_size: 0,
    preferred_unmap_alignment: 0,
    preferred_unmap_granularity: 0,
    uuid: bdev.uuid,
    assigned_rate_limits: limitParams(entry.limits),
    claimed: entry.holder !== null,
    ...(entry.holder === null ? {} : { claim_type: 'exclusive_write' }),
    zoned: false,
    supported_io_types: Object.fromEntries(IO_TYPE_NAMES.map((name) => [name, supports(name)])) as Record<
      (typeof IO_TYPE_NAMES)[number],
      boolean
    >,
    driver_specific: bdev.driverSpecific(),
  };
}

const STAT_TYPES = [IoType.read, IoType.write, IoType.unmap, IoType.writeZeroes, IoType.flush] as const;

/** Counts of one bdev by reactor and I/O type. */
type Snapshot = readonly ReadonlyMap<IoType, IoCounts>[];

function snapshot(entry: BdevEntry): Snapshot {
  return Array.from({ length: statsRows(entry.stats) }, (_, row) => {
    return new Map<IoType, IoCounts>(STAT_TYPES.map((type) => [type, readStats(entry.stats, row, type)]));
  });
}

function iostat(
  registry: BdevRegistry,
  baselines: Map<number, Snapshot>,
  params: Params<'bdev_get_iostat'>,
): Result<'bdev_get_iostat'> {
  const names = params.names ?? (params.name === undefined ? undefined : [params.name]);
  const entries = names === undefined ? registry.list() : names.map((name) => registry.get(name));
  const ticks = { tick_rate: TICK_RATE, ticks: clockNs() };
  const only = entries[0];
  if (params.per_channel && (only === undefined || entries.length !== 1)) {
    throw new TargetError('EINVAL', 'per_channel needs exactly one bdev: give its name');
  }
  const since = new Map(entries.map((entry) => [entry.id, sinceBaseline(entry, baselines)]));
  if (params.reset_mode === 'all') for (const entry of entries) baselines.set(entry.id, snapshot(entry));
  if (params.per_channel && only !== undefined) {
    const rows = since.get(only.id) as Snapshot;
    const channels = rows.map((row, index) => ({ thread_id: index + 1, ...counters([row]) }));
    return { ...ticks, name: only.name, channels };
  }
  return {
    ...ticks,
    bdevs: entries.map((entry) => ({ name: entry.name, ...counters(since.get(entry.id) as Snapshot) })),
  };
}

function sinceBaseline(entry: BdevEntry, baselines: ReadonlyMap<number, Snapshot>): Snapshot {
  const base = baselines.get(entry.id);
  return snapshot(entry).map((row, index) => {
    const before = base?.[index];
    if (before === undefined) return row;
    return new Map(STAT_TYPES.map((type) => [type, minus(row.get(type) as IoCounts, before.get(type) as IoCounts)]));
  });
}

function minus(now: IoCounts, before: IoCounts): IoCounts {
  return {
    operations: now.operations - before.operations,
    bytes: now.bytes - before.bytes,
    failures: now.failures - before.failures,
    latencyNs: now.latencyNs - before.latencyNs,
  };
}

/** The wire's counters over some reactors. The longest and the shortest latency are not known, and read 0. */
function counters(rows: Snapshot) {
  const sum = (type: IoType, field: keyof IoCounts): number =>
    rows.reduce((total, row) => total + (row.get(type)?.[field] ?? 0), 0);
  const failures = STAT_TYPES.reduce<number>((total, type) => total + sum(type, 'failures'), 0);
  return {
    bytes_read: sum(IoType.read, 'bytes'),
    num_read_ops: sum(IoType.read, 'operations'),
    bytes_written: sum(IoType.write, 'bytes'),
    num_write_ops: sum(IoType.write, 'operations'),
    bytes_unmapped: sum(IoType.unmap, 'bytes'),
    num_unmap_ops: sum(IoType.unmap, 'operations'),
    bytes_copied: 0,
    num_copy_ops: 0,
    read_latency_ticks: Math.round(sum(IoType.read, 'latencyNs')),
    max_read_latency_ticks: 0,
    min_read_latency_ticks: 0,
    write_latency_ticks: Math.round(sum(IoType.write, 'latencyNs')),
    max_write_latency_ticks: 0,
    min_write_latency_ticks: 0,
    unmap_latency_ticks: Math.round(sum(IoType.unmap, 'latencyNs')),
    max_unmap_latency_ticks: 0,
    min_unmap_latency_ticks: 0,
    copy_latency_ticks: 0,
    max_copy_latency_ticks: 0,
    min_copy_latency_ticks: 0,
    io_error: failures === 0 ? {} : { failed: failures },
  };
}
