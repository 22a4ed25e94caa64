/** The cluster that was measured, simulated: OSDs that share one core, clients that share another one. */
import { Cluster, type Costs } from './cluster.ts';
import { Cores } from './cores.ts';
import { Disk, Host, Latencies } from './disks.ts';
import type { LoadPoint } from './measured.ts';
import { Random } from './random.ts';
import { Simulation } from './simulation.ts';

const GROUPS = 8;
const OBJECTS = 16;
const WARM_UP_US = 100_000;
const ENDLESS = Number.MAX_SAFE_INTEGER;

export interface Predicted {
  readonly iops: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** Requests of each OSD, as they came to their primary. */
  readonly requests: readonly number[];
}

/** What the model says of a point: `seconds` after a warm-up. */
export function predict(point: LoadPoint, costs: Costs, seed: number, seconds = 1): Predicted {
  const { osds, clients, depth, writePercent } = point;
  const simulation = new Simulation();
  const random = new Random(seed);
  const shape = { nodes: 1, osdsPerNode: osds, copies: osds, groups: GROUPS, coresPerOsd: null };
  const cluster = new Cluster({ simulation, random, costs, ...shape });
  const core = new Cores(simulation, 1);
  let latencies = new Latencies();
  const sink = { record: (us: number) => latencies.record(us) };
  for (let image = 0; image < clients; image++) {
    const host = new Host(cluster, { libraryCores: 1, hasReactor: false }, core);
    new Disk(cluster, host, sink, { image, objects: OBJECTS, depth, writePercent }).ask(ENDLESS);
  }
  simulation.run(WARM_UP_US);
  latencies = new Latencies();
  simulation.run(WARM_UP_US + seconds * 1e6);
  return {
    iops: latencies.count / seconds,
    meanUs: latencies.meanUs,
    p50Us: latencies.percentileUs(50),
    p99Us: latencies.percentileUs(99),
    requests: cluster.osds.map((osd) => osd.requests),
  };
}
