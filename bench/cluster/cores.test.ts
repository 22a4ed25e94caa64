/** Against what the theory of queues says of the same arrivals. */
import { describe, expect, it } from 'vitest';
import { Cores, Program } from './cores.ts';
import { Random } from './random.ts';
import { type Actor, Simulation } from './simulation.ts';

const ARRIVE = -1;
const SERVICE_US = 10;

/** Poisson arrivals of jobs with exponential times; how long they wait for a core on average. */
class Arrivals implements Actor {
  waitedUs = 0;
  done = 0;
  readonly #simulation = new Simulation();
  readonly #random = new Random(11);
  readonly #program: Program;
  readonly #arrivedUs: number[] = [];
  readonly #costsUs: number[] = [];
  readonly #everyUs: number;
  #left: number;

  constructor(cores: number, load: number, jobs: number) {
    this.#program = new Program(new Cores(this.#simulation, cores));
    this.#everyUs = SERVICE_US / (load * cores);
    this.#left = jobs;
    this.wake(ARRIVE);
    this.#simulation.run();
  }

  get meanWaitUs(): number {
    return this.waitedUs / this.done;
  }

  wake(what: number): void {
    if (what !== ARRIVE) {
      this.done++;
      this.waitedUs += this.#simulation.nowUs - (this.#arrivedUs[what] as number) - (this.#costsUs[what] as number);
      return;
    }
    if (this.#left-- === 0) return;
    const costUs = this.#random.exponential(SERVICE_US);
    const job = this.#arrivedUs.push(this.#simulation.nowUs) - 1;
    this.#costsUs.push(costUs);
    this.#program.enter(this, job, costUs);
    this.#simulation.at(this.#random.exponential(this.#everyUs), this, ARRIVE);
  }
}

/** Erlang's C formula: the mean wait in a queue before `cores` servers. */
function erlangWaitUs(cores: number, load: number): number {
  const offered = cores * load;
  let [term, sum] = [1, 0];
  for (let n = 0; n < cores; n++) {
    sum += term;
    term *= offered / (n + 1);
  }
  const waits = term / (1 - load) / (sum + term / (1 - load));
  return (waits * SERVICE_US) / (cores * (1 - load));
}

describe('cores', () => {
  it.each([
    [1, 0.5],
    [1, 0.8],
    [2, 0.7],
    [4, 0.8],
    [16, 0.9],
  ])('let jobs wait as long as M/M/%i says at a load of %f', (cores, load) => {
    const arrivals = new Arrivals(cores, load, 200_000);
    expect(arrivals.done).toBe(200_000);
    const ratio = arrivals.meanWaitUs / erlangWaitUs(cores, load);
    expect(ratio).toBeGreaterThan(0.94);
    expect(ratio).toBeLessThan(1.06);
  });

  it('agree with the formula for one server that everybody knows', () => {
    expect(erlangWaitUs(1, 0.8)).toBeCloseTo((0.8 / (1 - 0.8)) * SERVICE_US);
  });

  const log = (): { order: number[]; actor: Actor } => {
    const order: number[] = [];
    return { order, actor: { wake: (what) => void order.push(what) } };
  };

  it('take what is urgent before what is not, and interrupt nothing', () => {
    const simulation = new Simulation();
    const program = new Program(new Cores(simulation, 1));
    const { order, actor } = log();
    program.enter(actor, 1, 10, false);
    program.enter(actor, 2, 10, false);
    program.enter(actor, 3, 10);
    simulation.run();
    expect(order).toEqual([1, 3, 2]);
    expect(simulation.nowUs).toBe(30);
  });

  it('share the cost of a turn between all that it finds', () => {
    const simulation = new Simulation();
    const program = new Program(new Cores(simulation, 1), 12);
    const { actor } = log();
    for (let i = 0; i < 3; i++) program.enter(actor, i, 10);
    simulation.run();
    expect(simulation.nowUs).toBe(30 + 12 + 6 + 4);
    program.enter(actor, 3, 10);
    simulation.run();
    expect(simulation.nowUs).toBe(52 + 10 + 12);
  });

  it('take time to turn to another program', () => {
    const simulation = new Simulation();
    const cores = new Cores(simulation, 1, 5);
    const [a, b] = [new Program(cores), new Program(cores)];
    const { actor } = log();
    for (const program of [a, a, b, a]) program.enter(actor, 0, 10);
    simulation.run();
    expect(simulation.nowUs).toBe(40 + 2 * 5);
    expect(cores.busyUs).toBe(50);
  });
});
