/**
 * Which reactors queues run on.
 *
 * `pinned`: all queues of a controller on one reactor, the least loaded of its cpumask. `spread`: the queues of a
 * controller evenly over the reactors of its cpumask; between reactors that have as many of them, the least loaded.
 * The map depends only on what runs at the time, so it can be foretold. Load is counted in queues, and not in requests:
 * those change from one moment to the next, and a map that follows them would never rest.
 *
 * Reactors on the NUMA node of the guest's memory come first: others are taken only when the mask has none of those.
 */
import { formatCpumask } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';

export type QueuePlacement = 'spread' | 'pinned';

/** A NUMA node that is not known. */
export const NO_NODE = -1;

/** What placement needs to know of a reactor. */
export interface PlacementCandidate {
  readonly core: number;
  /** NUMA node of the core, or `NO_NODE`. */
  readonly node: number;
  /** Queues that run there, and controllers that would. */
  load: number;
}

/** The reactors of a cpumask, in its order. Throws `EINVAL` when the mask names a core that no reactor runs on. */
export function reactorsOf<R extends PlacementCandidate>(reactors: readonly R[], cores: readonly number[]): R[] {
  const missing = cores.filter((core) => !reactors.some((reactor) => reactor.core === core));
  if (missing.length > 0) {
    const own = formatCpumask(reactors.map((reactor) => reactor.core));
    throw new TargetError(
      'EINVAL',
      `cpumask ${formatCpumask(cores)} names core ${missing.join(', ')}, but the daemon runs on ${own} (see -m)`,
    );
  }
  if (cores.length === 0) throw new TargetError('EINVAL', 'the cpumask names no core');
  return reactors.filter((reactor) => cores.includes(reactor.core));
}

/** Where the queues of one controller are. Counts them in the loads of the reactors. */
export class QueuePlaces<R extends PlacementCandidate> {
  #reactors: readonly R[];
  #policy: QueuePlacement;
  #home: R;
  /** Where each queue runs. */
  readonly #running = new Map<number, R>();
  /** Where each queue is to run: where it ran before, so that one that is started again stays. */
  readonly #planned = new Map<number, R>();

  /** `reactors`: at least one. */
  constructor(reactors: readonly R[], policy: QueuePlacement) {
    this.#reactors = reactors;
    this.#policy = policy;
    this.#home = this.#leastLoaded(reactors);
    this.#home.load++;
  }

  get policy(): QueuePlacement {
    return this.#policy;
  }

  get reactors(): readonly R[] {
    return this.#reactors;
  }

  /** Where the controller is while no queue runs, and where all its queues are when it is pinned. */
  get home(): R {
    return this.#home;
  }

  /** Running queues in ascending order, and their reactors. */
  running(): (readonly [number, R])[] {
    return [...this.#running].sort(([a], [b]) => a - b);
  }

  /** Queues that run on a reactor, in ascending order. */
  queuesOf(reactor: R): number[] {
    return this.running().flatMap(([queue, other]) => (other === reactor ? [queue] : []));
  }

  reactorOf(queue: number): R | undefined {
    return this.#running.get(queue);
  }

  /** A queue starts: returns its reactor. `node`: where the guest's memory is. */
  start(queue: number, node: number): R {
    if (this.#policy === 'pinned' && this.#running.size === 0) this.#moveHome(this.#near(node));
    const reactor = this.#planned.get(queue) ?? this.#choose(node);
    this.#planned.set(queue, reactor);
    this.#running.set(queue, reactor);
    reactor.load++;
    return reactor;
  }

  /** A queue runs no more. */
  stop(queue: number): void {
    const reactor = this.#running.get(queue);
    if (reactor === undefined) return;
    this.#running.delete(queue);
    reactor.load--;
  }

  /** The session is over: the queues of the next one are placed anew. */
  forget(): void {
    this.#planned.clear();
  }

  /** Changes reactors and policy. Returns the running queues that have to be started again to be in their new place. */
  change(reactors: readonly R[], policy: QueuePlacement, node: number): number[] {
    this.#reactors = reactors;
    this.#policy = policy;
    this.#planned.clear();
    this.#moveHome(this.#near(node));
    const running = this.running();
    for (const [queue] of running) this.#planned.set(queue, this.#choose(node));
    return running.filter(([queue, reactor]) => this.#planned.get(queue) !== reactor).map(([queue]) => queue);
  }

  /** The controller is gone. */
  close(): void {
    this.#home.load--;
  }

  #choose(node: number): R {
    return this.#policy === 'pinned' ? this.#home : this.#leastLoaded(this.#near(node));
  }

  #near(node: number): readonly R[] {
    const near = this.#reactors.filter((reactor) => node !== NO_NODE && reactor.node === node);
    return near.length === 0 ? this.#reactors : near;
  }

  #moveHome(reactors: readonly R[]): void {
    if (reactors.includes(this.#home)) return;
    this.#planned.clear();
    this.#home.load--;
    this.#home = this.#leastLoaded(reactors);
    this.#home.load++;
  }

  /** Of those that have the fewest queues of this controller the one with the least load of others, or the first. */
  #leastLoaded(reactors: readonly R[]): R {
    const best = reactors.toSorted((a, b) => this.#own(a) - this.#own(b) || this.#others(a) - this.#others(b))[0];
    if (best === undefined) throw new TargetError('EINVAL', 'the cpumask names no core');
    return best;
  }

  #own(reactor: R): number {
    return count(this.#planned, reactor);
  }

  #others(reactor: R): number {
    return reactor.load - count(this.#running, reactor) - (reactor === this.#home ? 1 : 0);
  }
}

function count<R>(places: ReadonlyMap<number, R>, reactor: R): number {
  return [...places.values()].filter((other) => other === reactor).length;
}
