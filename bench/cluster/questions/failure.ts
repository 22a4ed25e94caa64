/** A node of the cluster loses power: who waits until the map says so, and what it costs to make the copies again. */
import type { Cluster, Costs, Osd } from '../cluster.ts';
import { Placement } from '../placement.ts';
import { DISKS_PER_HOST, Room, SHAPE } from '../room.ts';
import type { Actor } from '../simulation.ts';
import { type Answer, count, share, time } from './answer.ts';

/** Hosts whose guests are simulated: who waits for a dead OSD does not depend on what the others do. */
const HOSTS_AWAKE = 40;
const IOPS_OF_DISK = 20;
const NODE = 0;
const SECOND = 1e6;
const WARM_UP_S = 0.2;
/** When it is looked who waits, since the failure. */
const LOOKS_S = [0.5, 1, 2, 6, 20];
/** `osd_heartbeat_grace`: what others wait for an OSD that says nothing. Then the groups agree who serves them. */
const GRACE_S = 20;
const PEERING_S = 1;
const DEPTH = 32;

const isOfNode = (osd: number): boolean => Math.floor(osd / SHAPE.osdsPerNode) === NODE;
const osdsOfNode = Array.from({ length: SHAPE.osdsPerNode }, (_, i) => NODE * SHAPE.osdsPerNode + i);

export function askFailure(costs: Costs, seed: number): Answer {
  const room = new Room(costs, seed);
  const awake = room.guests.slice(0, HOSTS_AWAKE);
  for (const guests of awake) guests.load(IOPS_OF_DISK * DISKS_PER_HOST);
  room.measure(WARM_UP_S * 1000, 0);
  room.cluster.fail(osdsOfNode);
  const sinceUs = room.simulation.nowUs;
  const rows = LOOKS_S.map((seconds) => {
    room.simulation.run(sinceUs + seconds * SECOND);
    const disks = awake.flatMap(({ disks: used }) => [...used.values()]);
    const all = HOSTS_AWAKE * DISKS_PER_HOST;
    const waiting = disks.filter(({ inFlight }) => inFlight > 0).length;
    const stuck = disks.filter(({ inFlight }) => inFlight === DEPTH).length;
    return [`${seconds} s`, share(waiting / all), share(stuck / all)];
  });
  room.measure(0, 0);
  room.simulation.run(sinceUs + (GRACE_S + PEERING_S) * SECOND);
  room.cluster.markDown(osdsOfNode);
  const longest = room.latenciesOf();
  const beforeUs = room.simulation.nowUs;
  room.simulation.run(beforeUs + SECOND / 10);
  const after = awake.flatMap(({ disks }) => [...disks.values()]).filter(({ inFlight }) => inFlight === DEPTH).length;
  const all = room.latenciesOf();
  rows.push([
    `${GRACE_S + PEERING_S}.1 s`,
    `the longest request took ${time(all.percentileUs(100))}`,
    share(after / (HOSTS_AWAKE * DISKS_PER_HOST)),
  ]);
  if (longest.count > all.count) throw new Error('requests were lost');
  return {
    title: 'A node with 10 OSDs loses power',
    head: ['after', 'disks with requests that wait', `with all ${DEPTH} waiting`],
    rows,
  };
}

const OBJECT_BYTES = 4 * 2 ** 20;
/** A big piece of work lets others in between, as the kernel's scheduler does. */
const PIECES = 16;
const NETWORK_BYTES_PER_US = 3125 / 2;
const READ = 0;
const WRITTEN = 1;
const ARRIVED = 2;
const NEXT = 3;

/** Copies one object after the other from one OSD to another one. */
class Backfill implements Actor {
  objects = 0;
  readonly #cluster: Cluster;
  readonly #source: Osd;
  readonly #target: Osd;
  readonly #costs: ObjectCosts;
  #left = 0;

  constructor(cluster: Cluster, source: number, target: number, costs: ObjectCosts) {
    this.#cluster = cluster;
    this.#source = cluster.osd(source);
    this.#target = cluster.osd(target);
    this.#costs = costs;
    this.wake(NEXT);
  }

  wake(what: number): void {
    if (what === NEXT || what === ARRIVED) {
      this.#left = PIECES;
      this.#piece(what === NEXT ? READ : WRITTEN);
    } else if (--this.#left > 0) this.#piece(what);
    else if (what === READ) this.#cluster.simulation.at(OBJECT_BYTES / NETWORK_BYTES_PER_US, this, ARRIVED);
    else {
      this.objects++;
      this.#target.commits.add(this, NEXT);
    }
  }

  #piece(what: number): void {
    const [osd, us] = what === READ ? [this.#source, this.#costs.readUs] : [this.#target, this.#costs.writeUs];
    osd.program.enter(this, what, this.#cluster.vary(us / PIECES), false);
  }
}

/** Of a core, for 4 MiB. */
export interface ObjectCosts {
  readonly readUs: number;
  readonly writeUs: number;
}

/** So many at each OSD at once, as source or as target (`osd_max_backfills`). */
function startBackfills(cluster: Cluster, most: number, costs: ObjectCosts): { all: Backfill[]; objects: number } {
  const after = new Placement(SHAPE, isOfNode);
  const busy = new Map<number, number>();
  const all: Backfill[] = [];
  let moved = 0;
  after.osdsOf.forEach((osds, group) => {
    const before = cluster.acting[group] as readonly number[];
    for (const target of osds.filter((osd) => !before.includes(osd))) {
      moved++;
      const source = before[0] as number;
      const [a, b] = [busy.get(source) ?? 0, busy.get(target) ?? 0];
      if (a >= most || b >= most) continue;
      busy.set(source, a + 1);
      busy.set(target, b + 1);
      all.push(new Backfill(cluster, source, target, costs));
    }
  });
  return { all, objects: moved };
}

const LOADS = [1e6, 3e6];
const BACKFILLS = [0, 1, 4];
const RECOVERY_MS = 40;

export function askRecovery(costs: Costs, seed: number, ofObject: ObjectCosts): Answer {
  const rows = LOADS.flatMap((iops) =>
    BACKFILLS.map((most) => {
      const room = new Room(costs, seed);
      room.cluster.markDown(osdsOfNode);
      room.load(iops);
      const { all } = startBackfills(room.cluster, most, ofObject);
      room.measure(RECOVERY_MS / 2, RECOVERY_MS / 2);
      const latencies = room.latenciesOf();
      const objects = all.reduce((sum, backfill) => sum + backfill.objects, 0);
      const rate = (objects * OBJECT_BYTES * 1000) / RECOVERY_MS / 2 ** 30;
      return [
        ...[count(iops), most === 0 ? 'none' : String(most), time(latencies.percentileUs(50))],
        ...[time(latencies.percentileUs(99)), most === 0 ? '' : `${rate.toFixed(0)} GiB/s`],
        most === 0 || rate === 0 ? '' : `${((SHAPE.osdsPerNode * 1024) / rate / 60).toFixed(0)} min`,
      ];
    }),
  );
  return {
    title: 'The node stays away: its copies are made again on the others',
    head: [
      'IOPS wanted',
      'osd_max_backfills',
      'p50',
      'p99',
      'copied',
      'until done, with 1 TiB on each OSD of the node',
    ],
    rows,
  };
}
