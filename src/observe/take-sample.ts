/**
 * What a daemon has done so far and does now: the counts and levels of its reactors, controllers, queues and bdevs at
 * one moment, read by the RPC methods that everybody may call. So `ringhost top` sees a daemon from outside as
 * `/metrics` does from inside.
 */
import type { Call, Result } from '../rpc/methods.ts';
import type {
  BdevSample,
  ControllerSample,
  IoCount,
  LatencyCount,
  LatencyCounts,
  ReactorSample,
  RegionCount,
  Sample,
} from './sample.ts';

const NANO = 1e9;
const NO_PLACES: RegionCount = { regions: 1, reads: [], writes: [] };

/** Everything in eight calls. Counts of one bdev, queue or reactor are of one moment; those of two may not be. */
export async function takeSample(call: Call): Promise<Sample> {
  const [iostat, bdevs, latency, regions, controllers, queueLatency, reactors, version] = await Promise.all([
    call('bdev_get_iostat', {}),
    call('bdev_get_bdevs', {}),
    call('bdev_get_latency', {}),
    call('bdev_get_regions', {}),
    call('vhost_get_controllers', {}),
    call('vhost_get_latency', {}),
    call('framework_get_reactors', {}),
    call('spdk_get_version', {}),
  ]);
  const described = new Map(bdevs.map((bdev) => [bdev.name, bdev]));
  const latencies = new Map(latency.bdevs.map((bdev) => [bdev.name, toLatencies(bdev.latencies)]));
  const byController = new Map(queueLatency.controllers.map(({ ctrlr, queues }) => [ctrlr, queues]));
  const places = new Map(regions.bdevs.map(({ name, ...counts }) => [name, counts]));
  return {
    atSeconds: iostat.ticks / iostat.tick_rate,
    pid: reactors.pid ?? 0,
    version: version.version,
    reactors: reactors.reactors.map((reactor) => toReactor(reactor, reactors.tick_rate)),
    controllers: controllers.map((controller) => toController(controller, byController.get(controller.ctrlr) ?? [])),
    bdevs: ('bdevs' in iostat ? iostat.bdevs : []).map((counts) => {
      const bdev = described.get(counts.name);
      const alias = bdev === undefined ? undefined : aliasOf(bdev);
      return {
        name: counts.name,
        ...(alias === undefined ? {} : { alias }),
        product: bdev?.product_name ?? '',
        ...conditionOf(bdev?.driver_specific ?? {}),
        sizeBytes: bdev === undefined ? 0 : bdev.num_blocks * bdev.block_size,
        ...toIo(counts),
        latencies: latencies.get(counts.name) ?? {},
        places: places.get(counts.name) ?? NO_PLACES,
      };
    }),
  };
}

/** What people call a bdev whose name is a UUID; undefined: its name. */
export function aliasOf({ uuid, aliases }: Result<'bdev_get_bdevs'>[number]): string | undefined {
  return aliases.find((each) => each !== uuid);
}

/** Of a mirror that lacks a leg. */
function conditionOf({ raid }: Readonly<Record<string, unknown>>): Pick<BdevSample, 'condition'> {
  if (typeof raid !== 'object' || raid === null) return {};
  const info = raid as Partial<Result<'bdev_raid_get_bdevs'>[number]>;
  const { num_base_bdevs: all = 0, num_base_bdevs_operational: operational = 0, process } = info;
  if (operational === all) return {};
  const legs = `${operational} of ${all} legs`;
  return { condition: process === undefined ? legs : `${legs}, ${process.type} ${process.progress.percent} %` };
}

function toReactor(
  { lcore, busy, idle, in_interrupt: isSleeping }: Result<'framework_get_reactors'>['reactors'][number],
  tickRate: number,
): ReactorSample {
  return { core: lcore, busySeconds: busy / tickRate, idleSeconds: idle / tickRate, isSleeping: isSleeping === true };
}

function toController(
  controller: Result<'vhost_get_controllers'>[number],
  latencies: Result<'vhost_get_latency'>['controllers'][number]['queues'],
): ControllerSample {
  const { backend_specific: backend } = controller;
  const isBlk = 'block' in backend;
  const names = isBlk
    ? [backend.block.bdev]
    : backend.scsi.flatMap(({ luns }) => luns.map(({ bdev_name: name }) => name));
  const session = controller.sessions[0];
  return {
    name: controller.ctrlr,
    kind: isBlk ? 'blk' : 'scsi',
    socket: controller.socket,
    mode: controller.mode,
    weight: controller.qos_weight,
    bdevs: names.filter((name) => name !== null),
    isConnected: session !== undefined,
    queues: (session?.queues ?? []).map((queue) => ({
      index: queue.index,
      core: queue.lcore,
      requests: queue.requests,
      inFlight: queue.in_flight,
      kicks: queue.kicks,
      calls: queue.calls,
      callsSaved: queue.calls_saved,
      faults: queue.faults,
      latencies: toLatencies(latencies.find(({ index }) => index === queue.index)?.latencies ?? []),
    })),
  };
}

type WireCounts = Extract<Result<'bdev_get_iostat'>, { bdevs: unknown }>['bdevs'][number];

function toLatencies(latencies: Result<'bdev_get_latency'>['bdevs'][number]['latencies']): LatencyCounts {
  return Object.fromEntries(
    latencies.map(({ type, sum_ns: sumNs, buckets }): [string, LatencyCount] => {
      return [type, { sumSeconds: sumNs / NANO, buckets }];
    }),
  );
}

function toIo(counts: WireCounts): Pick<BdevSample, 'io' | 'errors'> {
  const count = (operations: number, bytes: number): IoCount => ({ operations, bytes });
  return {
    io: {
      read: count(counts.num_read_ops, counts.bytes_read),
      write: count(counts.num_write_ops, counts.bytes_written),
      unmap: count(counts.num_unmap_ops, counts.bytes_unmapped),
    },
    errors: Object.values(counts.io_error ?? {}).reduce<number>((sum, value) => sum + Number(value), 0),
  };
}
