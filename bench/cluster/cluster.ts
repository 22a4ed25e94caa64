/**
 * OSDs on nodes, and the path of a request through one of them and its copies. A request takes time of cores, of
 * devices and of the network; a write has completed when every copy is committed, in batches as BlueStore's are.
 */
import { Cores, Program } from './cores.ts';
import { Placement, type Shape } from './placement.ts';
import type { Random } from './random.ts';
import type { Actor, Simulation } from './simulation.ts';

/** Times in microseconds: of a core where nothing else is said. */
export interface Costs {
  /** Of the client's library: half of it before the request is sent, half after the answer. */
  readonly readLibraryUs: number;
  readonly writeLibraryUs: number;
  readonly libraryWakeUs: number;
  readonly librarySleepUs: number;
  /** Ringhost's own part, on its one core. 0: the library is called by who wants the data. */
  readonly reactorUs: number;
  readonly readUs: number;
  /** More of a read, while the OSD commits writes. */
  readonly mixedUs: number;
  /** At the primary, before it commits. */
  readonly writeUs: number;
  /** At each of the others. */
  readonly copyUs: number;
  /** At the primary, for the word of each of the others. */
  readonly ackUs: number;
  readonly osdWakeUs: number;
  readonly osdSleepUs: number;
  /** A commit of whatever waits for it; then the device's time, which takes no core. */
  readonly commitUs: number;
  readonly deviceWriteUs: number;
  readonly deviceReadUs: number;
  /** One way. */
  readonly networkUs: number;
  /** Of a core that several programs share: to turn from one to another. */
  readonly switchUs: number;
  /** Coefficient of variation of all of these. */
  readonly variation: number;
}

export interface ClusterOptions extends Shape {
  readonly simulation: Simulation;
  readonly random: Random;
  readonly costs: Costs;
  /** Null: all OSDs of a node share one core. */
  readonly coresPerOsd: number | null;
}

const CODE_BITS = 4;
const CODE_MASK = (1 << CODE_BITS) - 1;

export class Cluster {
  readonly simulation: Simulation;
  readonly random: Random;
  readonly costs: Costs;
  readonly placement: Placement;
  readonly osds: readonly Osd[];
  /** Of each placement group, the OSDs that serve it now. */
  acting: (readonly number[])[];

  constructor({ simulation, random, costs, coresPerOsd, ...shape }: ClusterOptions) {
    this.simulation = simulation;
    this.random = random;
    this.costs = costs;
    this.placement = new Placement(shape);
    this.acting = [...this.placement.osdsOf];
    const { nodes, osdsPerNode } = shape;
    this.osds = Array.from({ length: nodes }, () => new Cores(simulation, 1, costs.switchUs)).flatMap((shared) =>
      Array.from({ length: osdsPerNode }, () => {
        const cores = coresPerOsd === null ? shared : new Cores(simulation, coresPerOsd);
        return new Osd(this, new Program(cores, costs.osdWakeUs, costs.osdSleepUs));
      }),
    );
  }

  vary(meanUs: number): number {
    return this.random.lognormal(meanUs, this.costs.variation);
  }

  /** From now on they answer nothing, and nobody knows. */
  fail(osds: readonly number[]): void {
    for (const osd of osds) this.osd(osd).isUp = false;
  }

  /** The map says that they are down: the others serve their groups, and what waited for them goes on. */
  markDown(osds: readonly number[]): void {
    const down = new Set(osds);
    this.acting = this.acting.map((list) =>
      list.some((osd) => down.has(osd)) ? list.filter((o) => !down.has(o)) : list,
    );
    for (const osd of osds) for (const [actor, what] of this.osd(osd).held.splice(0)) actor.wake(what);
  }

  osd(number: number): Osd {
    return this.osds[number] as Osd;
  }
}

export class Osd {
  readonly program: Program;
  readonly commits: Commits;
  isUp = true;
  /** What waits for it to be said down: who, and what it is told then. */
  readonly held: [Actor, number][] = [];
  requests = 0;

  constructor(cluster: Cluster, program: Program) {
    this.program = program;
    this.commits = new Commits(cluster, program);
  }
}

const COMMIT_DONE = 0;
const COMMIT_DURABLE = 1;

/** One commit at a time, of all that waits when it begins. */
class Commits implements Actor {
  readonly #cluster: Cluster;
  readonly #program: Program;
  #actors: Actor[] = [];
  #whats: number[] = [];
  #nowActors: Actor[] = [];
  #nowWhats: number[] = [];
  isBusy = false;

  constructor(cluster: Cluster, program: Program) {
    this.#cluster = cluster;
    this.#program = program;
  }

  add(actor: Actor, what: number): void {
    this.#actors.push(actor);
    this.#whats.push(what);
    if (!this.isBusy) this.#begin();
  }

  #begin(): void {
    this.isBusy = true;
    [this.#actors, this.#nowActors] = [this.#nowActors, this.#actors];
    [this.#whats, this.#nowWhats] = [this.#nowWhats, this.#whats];
    this.#program.enter(this, COMMIT_DONE, this.#cluster.vary(this.#cluster.costs.commitUs));
  }

  wake(what: number): void {
    const { simulation, costs } = this.#cluster;
    if (what === COMMIT_DONE && costs.deviceWriteUs > 0) {
      simulation.at(this.#cluster.vary(costs.deviceWriteUs), this, COMMIT_DURABLE);
      return;
    }
    const [actors, whats] = [this.#nowActors, this.#nowWhats];
    for (let i = 0; i < actors.length; i++) (actors[i] as Actor).wake(whats[i] as number);
    actors.length = 0;
    whats.length = 0;
    this.isBusy = false;
    if (this.#actors.length > 0) this.#begin();
  }
}

/** What sends requests: its library, and Ringhost's reactor before that, where there is one. */
export interface Sender {
  readonly library: Program;
  readonly reactor: Program | null;
}

const Code = {
  toLibrary: 0,
  send: 1,
  arrived: 2,
  executed: 3,
  read: 4,
  copyArrived: 5,
  copyExecuted: 6,
  copyCommitted: 7,
  acknowledged: 8,
  committed: 9,
  replied: 10,
  toReactor: 11,
  done: 12,
  copyLost: 13,
} as const;

/** One request of 4 KiB. Pooled by who sends it; what happens to a copy has its number above the code. */
export class Request implements Actor {
  readonly #cluster: Cluster;
  readonly #sender: Sender;
  readonly #onDone: (request: Request) => void;
  isWrite = false;
  group = 0;
  sinceUs = 0;
  #uncommitted = 0;
  #acting: readonly number[] = [];

  constructor(cluster: Cluster, sender: Sender, onDone: (request: Request) => void) {
    this.#cluster = cluster;
    this.#sender = sender;
    this.#onDone = onDone;
  }

  submit(isWrite: boolean, group: number): void {
    this.isWrite = isWrite;
    this.group = group;
    this.sinceUs = this.#cluster.simulation.nowUs;
    this.#ours(Code.toLibrary);
  }

  /** Half of Ringhost's part. */
  #ours(next: number): void {
    const { reactor } = this.#sender;
    if (reactor === null) this.wake(next);
    else reactor.enter(this, next, this.#cluster.costs.reactorUs / 2);
  }

  /** Half of the library's part. */
  #library(next: number): void {
    const { readLibraryUs, writeLibraryUs } = this.#cluster.costs;
    this.#sender.library.enter(this, next, this.#cluster.vary((this.isWrite ? writeLibraryUs : readLibraryUs) / 2));
  }

  #travel(next: number): void {
    this.#cluster.simulation.at(this.#cluster.costs.networkUs, this, next);
  }

  wake(what: number): void {
    const copy = what >> CODE_BITS;
    switch (what & CODE_MASK) {
      case Code.toLibrary:
        this.#library(Code.send);
        break;
      case Code.send:
        this.#travel(Code.arrived);
        break;
      case Code.replied:
        this.#library(Code.toReactor);
        break;
      case Code.toReactor:
        this.#ours(Code.done);
        break;
      case Code.done:
        this.#onDone(this);
        break;
      default:
        this.#atOsd(what & CODE_MASK, copy);
    }
  }

  #atOsd(code: number, copy: number): void {
    const { costs, simulation } = this.#cluster;
    switch (code) {
      case Code.arrived: {
        this.#acting = this.#cluster.acting[this.group] as readonly number[];
        const osd = this.#cluster.osd(this.#acting[0] as number);
        osd.requests++;
        // Nobody answers: the client sends it again when it learns who serves the group now.
        if (osd.isUp) {
          const readUs = osd.commits.isBusy ? costs.readUs + costs.mixedUs : costs.readUs;
          osd.program.enter(this, Code.executed, this.#cluster.vary(this.isWrite ? costs.writeUs : readUs));
        } else osd.held.push([this, Code.arrived]);
        break;
      }
      case Code.executed:
        if (this.isWrite) this.#write();
        else if (costs.deviceReadUs > 0) simulation.at(this.#cluster.vary(costs.deviceReadUs), this, Code.read);
        else this.#travel(Code.replied);
        break;
      case Code.read:
        this.#travel(Code.replied);
        break;
      case Code.acknowledged:
        this.#primary.program.enter(this, Code.committed, this.#cluster.vary(costs.ackUs));
        break;
      case Code.committed:
      case Code.copyLost:
        if (--this.#uncommitted === 0) this.#travel(Code.replied);
        break;
      default:
        this.#atCopy(code, copy);
    }
  }

  #atCopy(code: number, copy: number): void {
    const osd = this.#cluster.osd(this.#acting[copy] as number);
    const same = copy << CODE_BITS;
    if (code === Code.copyArrived) {
      if (!osd.isUp) osd.held.push([this, Code.copyLost]);
      else osd.program.enter(this, Code.copyExecuted | same, this.#cluster.vary(this.#cluster.costs.copyUs));
    } else if (code === Code.copyExecuted) osd.commits.add(this, Code.copyCommitted | same);
    else this.#travel(Code.acknowledged | same);
  }

  get #primary(): Osd {
    return this.#cluster.osd(this.#acting[0] as number);
  }

  #write(): void {
    this.#uncommitted = this.#acting.length;
    this.#primary.commits.add(this, Code.committed);
    for (let copy = 1; copy < this.#acting.length; copy++) this.#travel(Code.copyArrived | (copy << CODE_BITS));
  }
}
