/** Processor cores, and the programs that share them. */
import type { Actor, Simulation } from './simulation.ts';

/** What waits for a core, or has one. */
class Job {
  next: Job | null = null;
  actor: Actor | null = null;
  what = 0;
  costUs = 0;
  program: Program | null = null;
}

/** First come, first served; what is urgent goes before what is not. */
export class Cores {
  readonly simulation: Simulation;
  readonly count: number;
  /** What it takes a core to turn to another program than it ran last. */
  readonly switchUs: number;
  /** Of all cores together. */
  busyUs = 0;
  readonly #idle: Core[];
  readonly #urgent = new Queue();
  readonly #later = new Queue();
  #spare: Job | null = null;

  constructor(simulation: Simulation, count: number, switchUs = 0) {
    this.simulation = simulation;
    this.count = count;
    this.switchUs = switchUs;
    this.#idle = Array.from({ length: count }, () => new Core(this));
  }

  enter(program: Program, actor: Actor, what: number, costUs: number, isUrgent: boolean): void {
    const job = this.#spare ?? new Job();
    this.#spare = job.next;
    job.next = null;
    job.actor = actor;
    job.what = what;
    job.costUs = costUs;
    job.program = program;
    const core = this.#idle.pop();
    if (core !== undefined) core.begin(job);
    else if (isUrgent) this.#urgent.push(job);
    else this.#later.push(job);
  }

  /** Of what is done. */
  leave(core: Core, job: Job): void {
    job.next = this.#spare;
    this.#spare = job;
    const next = this.#urgent.take() ?? this.#later.take();
    if (next === null) this.#idle.push(core);
    else core.begin(next);
  }
}

class Queue {
  #first: Job | null = null;
  #last: Job | null = null;

  push(job: Job): void {
    if (this.#last === null) this.#first = job;
    else this.#last.next = job;
    this.#last = job;
  }

  take(): Job | null {
    const job = this.#first;
    if (job === null) return null;
    this.#first = job.next;
    if (this.#first === null) this.#last = null;
    job.next = null;
    return job;
  }
}

const DONE = 0;
const ASLEEP = 1;

class Core implements Actor {
  readonly #cores: Cores;
  #job: Job | null = null;
  #program: Program | null = null;

  constructor(cores: Cores) {
    this.#cores = cores;
  }

  begin(job: Job): void {
    const switchUs = this.#program === null || this.#program === job.program ? 0 : this.#cores.switchUs;
    this.#job = job;
    this.#program = job.program;
    this.#cores.busyUs += job.costUs + switchUs;
    this.#cores.simulation.at(job.costUs + switchUs, this, DONE);
  }

  wake(what: number): void {
    const job = this.#job as Job;
    const { actor, program } = job as { actor: Actor; program: Program };
    if (what === DONE) {
      program.pending--;
      // What is done goes on before the core does something else.
      actor.wake(job.what);
      if (program.sleepUs > 0) {
        const restUs = program.sleepUs / (1 + program.pending);
        this.#cores.busyUs += restUs;
        this.#cores.simulation.at(restUs, this, ASLEEP);
        return;
      }
    }
    this.#job = null;
    this.#cores.leave(this, job);
  }
}

/**
 * Threads of one process. With nothing to do they sleep; to wake them, and to go back to sleep, takes time. The more
 * waits for them, the more of it they find done in one turn: each is charged its share of the turn.
 */
export class Program {
  readonly cores: Cores;
  readonly wakeUs: number;
  readonly sleepUs: number;
  /** What waits for a core, or has one. */
  pending = 0;

  constructor(cores: Cores, wakeUs = 0, sleepUs = 0) {
    this.cores = cores;
    this.wakeUs = wakeUs;
    this.sleepUs = sleepUs;
  }

  /** Does something that takes so long, then wakes its actor. */
  enter(actor: Actor, what: number, costUs: number, isUrgent = true): void {
    this.cores.enter(this, actor, what, costUs + this.wakeUs / ++this.pending, isUrgent);
  }
}
