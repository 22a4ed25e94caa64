/** How much the room carries, and what guests that want too much do to the others. */
import type { Costs } from '../cluster.ts';
import type { CurvePoint } from '../curve.ts';
import { Latencies } from '../disks.ts';
import { DISKS_PER_HOST, type DiskKind, Room } from '../room.ts';
import { type Answer, count, share, time } from './answer.ts';

const WARM_UP_MS = 15;
const RUN_MS = 25;
const MILLION = 1e6;
const OFFERED = [0.25, 0.5, 1, 2, 3, 4, 5];
/** Of the others, while some want too much. */
const ORDINARY = 1 * MILLION;
const ENDLESS = Number.MAX_SAFE_INTEGER;
const NOISY_DEPTH = 128;
const LIMIT = 5000;
/** The first disk that no other guest uses. */
const OWN_DISK = DISKS_PER_HOST;

function busyShare(room: Room, sinceUs: readonly number[], ms: number): { mean: number; most: number } {
  const shares = room.cluster.osds.map(({ program: { cores } }, i) =>
    Math.min(1, (cores.busyUs - (sinceUs[i] ?? 0)) / (ms * 1000 * cores.count)),
  );
  return { mean: shares.reduce((sum, one) => sum + one, 0) / shares.length, most: Math.max(...shares) };
}

const busyOf = (room: Room): number[] => room.cluster.osds.map(({ program }) => program.cores.busyUs);

export function askLoad(costs: Costs, seed: number): Answer {
  const curve: CurvePoint[] = [];
  const rows = OFFERED.map((millions) => {
    const room = new Room(costs, seed);
    room.load(millions * MILLION);
    room.measure(WARM_UP_MS, 0);
    const since = busyOf(room);
    room.measure(0, RUN_MS);
    const all = room.latenciesOf();
    const { mean, most } = busyShare(room, since, RUN_MS);
    const done = (all.count / RUN_MS) * 1000;
    curve.push({ iops: done, p50Us: all.percentileUs(50), p99Us: all.percentileUs(99) });
    return [
      ...[`${millions.toFixed(2)} M`, `${(done / MILLION).toFixed(2)} M`, time(all.percentileUs(50))],
      ...[time(all.percentileUs(99)), share(mean), share(most)],
    ];
  });
  return {
    title: 'Throughput and latency',
    head: ['IOPS wanted', 'IOPS', 'p50', 'p99', 'cores of OSDs', 'of the busiest OSD'],
    rows,
    curve,
  };
}

interface Noise {
  readonly name: string;
  /** Hosts that have such a guest. */
  readonly hosts: number;
  readonly kind: DiskKind;
}

const NOISES: readonly Noise[] = [
  { name: 'none', hosts: 0, kind: {} },
  { name: 'a guest at depth 128', hosts: 1, kind: { depth: NOISY_DEPTH } },
  { name: '300 such guests, on as many hosts', hosts: 300, kind: { depth: NOISY_DEPTH } },
  { name: `the same, limited to ${LIMIT} IOPS each`, hosts: 300, kind: { depth: NOISY_DEPTH, iopsMax: LIMIT } },
  {
    name: '10 guests that write 4 MiB over and over',
    hosts: 10,
    kind: { depth: NOISY_DEPTH, objects: 1, writePercent: 100 },
  },
  {
    name: `the same, limited to ${LIMIT} IOPS each`,
    hosts: 10,
    kind: { depth: NOISY_DEPTH, objects: 1, writePercent: 100, iopsMax: LIMIT },
  },
];

export function askNoise(costs: Costs, seed: number): Answer {
  const rows = NOISES.map(({ name, hosts, kind }) => {
    const room = new Room(costs, seed);
    room.load(ORDINARY);
    let noisy = new Latencies();
    const sink = { record: (us: number) => noisy.record(us) };
    for (let host = 0; host < hosts; host++) room.disk(host, OWN_DISK, sink, kind).ask(ENDLESS);
    room.measure(WARM_UP_MS, 0);
    noisy = new Latencies();
    room.measure(0, RUN_MS);
    const each = hosts === 0 ? '' : count((noisy.count / RUN_MS) * (1000 / hosts));
    const [beside, elsewhere] = [room.latenciesOf((host) => host < hosts), room.latenciesOf((host) => host >= hosts)];
    return [
      ...[name, each, hosts === 0 ? '' : `${time(beside.percentileUs(50))}, ${time(beside.percentileUs(99))}`],
      `${time(elsewhere.percentileUs(50))}, ${time(elsewhere.percentileUs(99))}`,
    ];
  });
  return {
    title: `Guests that want too much, while the others want ${count(ORDINARY)} IOPS`,
    head: ['who', 'IOPS each', 'p50, p99 of others on their hosts', 'p50, p99 on other hosts'],
    rows,
  };
}
