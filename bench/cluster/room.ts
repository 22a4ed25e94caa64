/** A thousand hosts and their cluster. What was measured is in calibration.ts; what was assumed is here. */
import { Cluster, type Costs } from './cluster.ts';
import { Disk, Host, Latencies } from './disks.ts';
import { Random } from './random.ts';
import { type Actor, Simulation } from './simulation.ts';

/** 300 OSDs on 30 nodes, with 8,192 placement groups: some 80 copies of groups an OSD. */
export const SHAPE = { nodes: 30, osdsPerNode: 10, copies: 3, groups: 8192 } as const;
export const HOSTS = 1000;
export const DISKS_PER_HOST = 50;
/** Of 4 MiB: disks of 20 GiB. */
export const OBJECTS = 5120;
const WRITE_PERCENT = 30;
/** Of a guest's queue that is in flight at once. */
const DEPTH = 32;
/** Requests of a burst, on average: guests are silent, then want much at once. */
const BURST = 32;
const CORES_PER_OSD = 2;
const LIBRARY_CORES = 4;

/** Assumed, not measured: an NVMe disk with power-loss protection, a network of 25 Gbit/s, Ringhost as docs/rbd.md. */
const ASSUMED = { deviceWriteUs: 20, deviceReadUs: 80, networkUs: 30, reactorUs: 5.3, switchUs: 0 } as const;

export const roomCosts = (measured: Costs): Costs => ({ ...measured, ...ASSUMED });

export interface DiskKind {
  readonly depth?: number;
  readonly objects?: number;
  readonly writePercent?: number;
  readonly iopsMax?: number;
}

export class Room {
  readonly simulation = new Simulation();
  readonly random: Random;
  readonly cluster: Cluster;
  readonly hosts: readonly Host[];
  readonly guests: readonly Guests[];
  /** By host; guests whose disks are not in it count for themselves. */
  latencies = Array.from({ length: HOSTS }, () => new Latencies());

  constructor(costs: Costs, seed: number) {
    this.random = new Random(seed);
    const { simulation, random } = this;
    this.cluster = new Cluster({ simulation, random, costs, coresPerOsd: CORES_PER_OSD, ...SHAPE });
    const options = { libraryCores: LIBRARY_CORES, hasReactor: true };
    this.hosts = Array.from({ length: HOSTS }, () => new Host(this.cluster, options));
    this.guests = this.hosts.map((_, host) => new Guests(this, host));
  }

  /** From now on all guests together want so many requests a second. */
  load(iops: number): void {
    for (const guests of this.guests) guests.load(iops / HOSTS);
  }

  disk(host: number, number: number, sink: { record(us: number): void }, kind: DiskKind = {}): Disk {
    const { depth = DEPTH, objects = OBJECTS, writePercent = WRITE_PERCENT, ...rest } = kind;
    const image = host * DISKS_PER_HOST + number;
    const options = { image, objects, depth, writePercent, ...rest };
    return new Disk(this.cluster, this.hosts[host] as Host, sink, options);
  }

  /** Forgets what was measured until now, then goes on. */
  measure(warmUpMs: number, ms: number): void {
    this.simulation.run(this.simulation.nowUs + warmUpMs * 1000);
    this.latencies = this.latencies.map(() => new Latencies());
    this.simulation.run(this.simulation.nowUs + ms * 1000);
  }

  /** Of some hosts. */
  latenciesOf(isIncluded: (host: number) => boolean = () => true): Latencies {
    const all = new Latencies();
    this.latencies.forEach((latencies, host) => {
      if (isIncluded(host)) all.add(latencies);
    });
    return all;
  }
}

/** Those of one host: bursts at random, on one of its disks each. */
export class Guests implements Actor {
  readonly #room: Room;
  readonly #host: number;
  readonly disks = new Map<number, Disk>();
  #burstEveryUs = Number.POSITIVE_INFINITY;

  constructor(room: Room, host: number) {
    this.#room = room;
    this.#host = host;
  }

  load(iops: number): void {
    this.#burstEveryUs = (BURST / iops) * 1e6;
    this.#next();
  }

  wake(): void {
    const number = this.#room.random.below(DISKS_PER_HOST);
    let disk = this.disks.get(number);
    if (disk === undefined) {
      const sink = { record: (us: number) => this.#room.latencies[this.#host]?.record(us) };
      disk = this.#room.disk(this.#host, number, sink);
      this.disks.set(number, disk);
    }
    disk.ask(1 + Math.floor(this.#room.random.exponential(BURST - 0.5)));
    this.#next();
  }

  #next(): void {
    this.#room.simulation.at(this.#room.random.exponential(this.#burstEveryUs), this, 0);
  }
}
