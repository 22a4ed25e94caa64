/** Hosts, their disks, and what guests ask of them. */
import { LatencyHistogram } from '../../src/initiator/latency-histogram.ts';
import { type Cluster, Request, type Sender } from './cluster.ts';
import { Cores, Program } from './cores.ts';
import type { Actor } from './simulation.ts';

/** Buckets are of 0.1 us, up to 429 s. */
const PER_US = 10;

/** Latencies in microseconds. */
export class Latencies {
  readonly #histogram = new LatencyHistogram();

  record(us: number): void {
    this.#histogram.record(us * PER_US);
  }

  add(other: Latencies): void {
    this.#histogram.merge(other.#histogram);
  }

  get count(): number {
    return this.#histogram.count;
  }

  get meanUs(): number {
    return this.#histogram.meanNs / PER_US;
  }

  percentileUs(percent: number): number {
    return this.#histogram.percentile(percent) / PER_US;
  }
}

export interface HostOptions {
  /** What librbd's threads run on. */
  readonly libraryCores: number;
  /** False for a program that calls the library itself. */
  readonly hasReactor: boolean;
}

export class Host implements Sender {
  readonly library: Program;
  readonly reactor: Program | null;

  constructor({ simulation, costs }: Cluster, { libraryCores, hasReactor }: HostOptions, shared?: Cores) {
    const cores = shared ?? new Cores(simulation, libraryCores);
    this.library = new Program(cores, costs.libraryWakeUs, costs.librarySleepUs);
    this.reactor = hasReactor ? new Program(new Cores(simulation, 1)) : null;
  }
}

export interface DiskOptions {
  readonly image: number;
  readonly objects: number;
  readonly depth: number;
  readonly writePercent: number;
  /** As `bdev_set_qos_limit` sets it: requests a second, with a burst of 1/10 s. */
  readonly iopsMax?: number;
}

const BURST_S = 0.1;

/** A disk of a guest: so many requests at once, the rest waits in the guest. */
export class Disk implements Actor {
  readonly #cluster: Cluster;
  readonly #host: Host;
  readonly #options: DiskOptions;
  readonly #latencies: { record(us: number): void };
  readonly #idle: Request[] = [];
  /** What its guest wants besides. */
  #backlog = 0;
  inFlight = 0;
  completed = 0;
  #allowedUs = 0;
  #isWaiting = false;

  constructor(cluster: Cluster, host: Host, latencies: { record(us: number): void }, options: DiskOptions) {
    this.#cluster = cluster;
    this.#host = host;
    this.#latencies = latencies;
    this.#options = options;
  }

  /** The guest wants so many requests more. */
  ask(count: number): void {
    this.#backlog += count;
    this.#issue();
  }

  get backlog(): number {
    return this.#backlog;
  }

  /** A limit lets the next one through. */
  wake(): void {
    this.#isWaiting = false;
    this.#issue();
  }

  #issue(): void {
    const { depth, writePercent, objects, image } = this.#options;
    const { random, placement } = this.#cluster;
    while (this.#backlog > 0 && this.inFlight < depth && this.#isAllowed()) {
      this.#backlog--;
      this.inFlight++;
      const request = this.#idle.pop() ?? new Request(this.#cluster, this.#host, this.#onDone);
      request.submit(random.uniform() * 100 < writePercent, placement.groupOf(image, random.below(objects)));
    }
  }

  #isAllowed(): boolean {
    const { iopsMax } = this.#options;
    if (iopsMax === undefined) return true;
    if (this.#isWaiting) return false;
    const { simulation } = this.#cluster;
    const intervalUs = 1e6 / iopsMax;
    const earliestUs = simulation.nowUs - BURST_S * 1e6;
    this.#allowedUs = Math.max(this.#allowedUs, earliestUs);
    if (this.#allowedUs <= simulation.nowUs) {
      this.#allowedUs += intervalUs;
      return true;
    }
    this.#isWaiting = true;
    simulation.at(this.#allowedUs - simulation.nowUs, this, 0);
    return false;
  }

  readonly #onDone = (request: Request): void => {
    this.inFlight--;
    this.completed++;
    this.#latencies.record(this.#cluster.simulation.nowUs - request.sinceUs);
    this.#idle.push(request);
    this.#issue();
  };
}
