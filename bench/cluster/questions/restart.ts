/** Daemons start again: all at once after a power cut, when locks of their predecessors are in the way, or in turn. */
import { Cores, Program } from '../cores.ts';
import { Random } from '../random.ts';
import { HOSTS, SHAPE } from '../room.ts';
import { type Actor, Simulation } from '../simulation.ts';
import { type Answer, count, time } from './answer.ts';

const SECOND = 1e6;
/** `paxos_propose_interval` and `paxos_min_wait`: a map at most so often, and not before that. */
const PROPOSE_US = 1 * SECOND;
const MIN_WAIT_US = 50_000;
/** Assumed: the monitors agree, and write it down. */
const COMMIT_US = 10_000;
const ROUND_TRIP_US = 200;
/** Assumed: a monitor sends the change to everybody who is connected to it. */
const CHANGE_US = 20;
/** A monitor that ends is missed after its lease, then the others vote. Assumed. */
const ELECTION_US = 10 * SECOND;
const BREAK_REQUESTS = 3;
const OSDS = SHAPE.nodes * SHAPE.osdsPerNode;

/** Measured: see calibration.ts and docs/scaling.md. */
export interface OpenCosts {
  /** From the start of the program until it connects. */
  readonly startUs: number;
  /** Of a monitor's core, for a client that connects. */
  readonly connectUs: number;
  /** Requests to OSDs to open an image, one after the other. */
  readonly openRequests: number;
  /** Of an OSD's core, for each. */
  readonly requestUs: number;
  /** Of the host, for each image. */
  readonly openUs: number;
}

type Fencing = 'client' | 'image' | 'none';

export interface RestartOptions {
  readonly hosts: number;
  readonly images: number;
  readonly fencing: Fencing;
  readonly monitors: number;
  /** Hosts come up at random within so long. */
  readonly spreadUs: number;
  /** The leader is not there for a while. */
  readonly isLeaderGone: boolean;
  /** So many at a time; all by default. */
  readonly atOnce: number;
}

/** Makes maps: all that is asked for until then goes into the next one. */
class Leader implements Actor {
  epochs = 0;
  readonly #world: World;
  #lastUs = Number.NEGATIVE_INFINITY;
  #waiting: Actor[] = [];
  #isBusy = false;

  constructor(world: World) {
    this.#world = world;
  }

  propose(actor: Actor): void {
    this.#waiting.push(actor);
    if (!this.#isBusy) this.#begin();
  }

  #begin(): void {
    this.#isBusy = true;
    const { simulation, options } = this.#world;
    const delayUs = Math.max(MIN_WAIT_US, this.#lastUs + PROPOSE_US - simulation.nowUs);
    const electionUs = options.isLeaderGone ? Math.max(0, ELECTION_US - simulation.nowUs - delayUs) : 0;
    simulation.at(delayUs + electionUs + COMMIT_US, this, 0);
  }

  wake(): void {
    const { simulation, monitors, connected } = this.#world;
    this.epochs++;
    this.#lastUs = simulation.nowUs;
    for (const monitor of monitors) {
      monitor.enter(NOBODY, 0, ((connected + OSDS) / monitors.length) * CHANGE_US, false);
    }
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#isBusy = false;
    // They learn it with the map, which is behind those of others.
    for (const actor of waiting) {
      monitors[this.#world.random.below(monitors.length)]?.enter(actor, Step.fenced, CHANGE_US, false);
    }
  }
}

const NOBODY: Actor = { wake() {} };

const Step = { started: 0, connected: 1, request: 2, opened: 3, fenced: 4, broken: 5, next: 6 } as const;

class Daemon implements Actor {
  readyUs = 0;
  startedUs = 0;
  readonly #world: World;
  #image = 0;
  #requests = 0;
  #isFenced = false;
  #isBreaking = false;

  constructor(world: World) {
    this.#world = world;
  }

  wake(what: number): void {
    const { simulation, costs, options, leader } = this.#world;
    if (what === Step.started) this.#world.monitor().enter(this, Step.connected, costs.connectUs);
    else if (what === Step.connected) {
      this.#world.connected++;
      simulation.at(3 * ROUND_TRIP_US, this, Step.next);
    } else if (what === Step.next) this.#ask(costs.openRequests, false);
    else if (what === Step.request) this.#answered();
    else if (what === Step.opened) {
      if (options.fencing === 'none' || (this.#isFenced && options.fencing === 'client')) this.wake(Step.fenced);
      else leader.propose(this);
    } else if (what === Step.fenced) {
      this.#isFenced = true;
      if (options.fencing === 'none') this.wake(Step.broken);
      else this.#ask(BREAK_REQUESTS, true);
    } else if (++this.#image < options.images) this.wake(Step.next);
    else this.#ready();
  }

  #ask(requests: number, isBreaking: boolean): void {
    this.#requests = requests;
    this.#isBreaking = isBreaking;
    this.#request();
  }

  #request(): void {
    this.#world.osd().enter(this, Step.request, this.#world.random.lognormal(this.#world.costs.requestUs, 0.5));
  }

  #answered(): void {
    const { simulation, costs } = this.#world;
    if (--this.#requests > 0) this.#request();
    else if (this.#isBreaking) simulation.at(ROUND_TRIP_US * BREAK_REQUESTS, this, Step.broken);
    else simulation.at(costs.openUs + ROUND_TRIP_US * costs.openRequests, this, Step.opened);
  }

  #ready(): void {
    this.readyUs = this.#world.simulation.nowUs;
    this.#world.oneReady();
  }
}

class World {
  readonly simulation = new Simulation();
  readonly random: Random;
  readonly options: RestartOptions;
  readonly costs: OpenCosts;
  readonly monitors: readonly Program[];
  readonly daemons: readonly Daemon[];
  readonly leader = new Leader(this);
  connected = 0;
  readonly #osds: readonly Program[];
  #started = 0;

  constructor(options: RestartOptions, costs: OpenCosts, seed: number) {
    this.options = options;
    this.costs = costs;
    this.random = new Random(seed);
    this.monitors = Array.from({ length: options.monitors }, () => new Program(new Cores(this.simulation, 1)));
    this.#osds = Array.from({ length: OSDS }, () => new Program(new Cores(this.simulation, 1)));
    this.daemons = Array.from({ length: options.hosts }, () => new Daemon(this));
    for (let i = 0; i < Math.min(options.atOnce, options.hosts); i++) this.#start();
  }

  monitor(): Program {
    return this.monitors[this.random.below(this.monitors.length)] as Program;
  }

  osd(): Program {
    return this.#osds[this.random.below(OSDS)] as Program;
  }

  oneReady(): void {
    if (this.#started < this.options.hosts) this.#start();
  }

  #start(): void {
    const daemon = this.daemons[this.#started++] as Daemon;
    const spreadUs = this.options.spreadUs * this.random.uniform();
    daemon.startedUs = this.simulation.nowUs + spreadUs;
    this.simulation.at(spreadUs + this.random.lognormal(this.costs.startUs, 0.2), daemon, Step.started);
  }
}

export interface Restart {
  readonly medianUs: number;
  readonly lastUs: number;
  /** The one that took longest from its own start. */
  readonly longestUs: number;
  readonly epochs: number;
  /** The busiest monitor's core, in microseconds of work. */
  readonly monitorUs: number;
}

export function restart(options: RestartOptions, costs: OpenCosts, seed: number): Restart {
  const world = new World(options, costs, seed);
  world.simulation.run();
  const ready = world.daemons.map(({ readyUs }) => readyUs).sort((a, b) => a - b);
  return {
    medianUs: ready[Math.floor(ready.length / 2)] ?? 0,
    lastUs: ready.at(-1) ?? 0,
    longestUs: Math.max(...world.daemons.map(({ readyUs, startedUs }) => readyUs - startedUs)),
    epochs: world.leader.epochs,
    monitorUs: Math.max(...world.monitors.map(({ cores }) => cores.busyUs)),
  };
}

export function askRestart(costs: OpenCosts, seed: number): Answer {
  const usual = { hosts: HOSTS, images: 50, monitors: 5, spreadUs: 0, isLeaderGone: false, atOnce: HOSTS } as const;
  const cases: readonly (readonly [string, RestartOptions])[] = [
    ['all at once, nobody had locks', { ...usual, fencing: 'none' }],
    ['all at once, every image locked by who died', { ...usual, fencing: 'client' }],
    ['the same within a minute', { ...usual, fencing: 'client', spreadUs: 60 * SECOND }],
    ['the same, one monitor', { ...usual, fencing: 'client', monitors: 1 }],
    ['the same, the leading monitor away, too', { ...usual, fencing: 'client', monitors: 4, isLeaderGone: true }],
    ['shut out once for each image (librbd alone)', { ...usual, fencing: 'image' }],
    ['upgrades, one host at a time', { ...usual, fencing: 'none', atOnce: 1 }],
    ['upgrades, 50 hosts at a time', { ...usual, fencing: 'none', atOnce: 50 }],
  ];
  const rows = cases.map(([name, options]) => {
    const { medianUs, lastUs, longestUs, epochs, monitorUs } = restart(options, costs, seed);
    return [name, time(medianUs), time(lastUs), time(longestUs), count(epochs), time(monitorUs)];
  });
  return {
    title: '1,000 daemons with 50 images each start again',
    head: [
      'how',
      'half are ready after',
      'all after',
      'longest from its own start',
      'maps',
      'work of the busiest monitor',
    ],
    rows,
  };
}
