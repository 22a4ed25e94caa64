import { describe, expect, it } from 'vitest';
import { Random } from './random.ts';
import { type Actor, Simulation } from './simulation.ts';

class Diary implements Actor {
  readonly entries: [number, number][] = [];
  readonly #simulation: Simulation;

  constructor(simulation: Simulation) {
    this.#simulation = simulation;
  }

  wake(what: number): void {
    this.entries.push([this.#simulation.nowUs, what]);
  }
}

describe('a simulation', () => {
  it('lets things happen in the order of their times, and of their making at the same time', () => {
    const [simulation, random] = [new Simulation(), new Random(1)];
    const diary = new Diary(simulation);
    // More than it has room for at first, many of them at the same time.
    const delays = Array.from({ length: 5000 }, () => random.below(100));
    for (const [what, delayUs] of delays.entries()) simulation.at(delayUs, diary, what);
    simulation.run();
    const expected = delays
      .map((delayUs, what) => [delayUs, what])
      .sort(([a = 0, x = 0], [b = 0, y = 0]) => a - b || x - y);
    expect(diary.entries).toEqual(expected);
    expect(simulation.events).toBe(5000);
  });

  it('stops at a time, and goes on from there', () => {
    const simulation = new Simulation();
    const diary = new Diary(simulation);
    simulation.at(10, diary, 1);
    simulation.at(30, diary, 2);
    simulation.run(20);
    expect([simulation.nowUs, diary.entries]).toEqual([20, [[10, 1]]]);
    simulation.at(5, diary, 3);
    simulation.run();
    expect(diary.entries).toEqual([
      [10, 1],
      [25, 3],
      [30, 2],
    ]);
  });

  it('refuses what is over', () => {
    const simulation = new Simulation();
    expect(() => simulation.at(-1, new Diary(simulation), 0)).toThrow(RangeError);
    expect(() => simulation.at(Number.NaN, new Diary(simulation), 0)).toThrow(RangeError);
  });
});

describe('random numbers', () => {
  const mean = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0) / values.length;

  it('have the mean and the variation that was asked for', () => {
    const random = new Random(7);
    const values = Array.from({ length: 200_000 }, () => random.lognormal(50, 0.6));
    const average = mean(values);
    expect(average).toBeCloseTo(50, 0);
    const deviation = Math.sqrt(mean(values.map((value) => (value - average) ** 2)));
    expect(deviation / average).toBeCloseTo(0.6, 1);
    expect(mean(Array.from({ length: 200_000 }, () => random.exponential(50)))).toBeCloseTo(50, 0);
  });

  it('are the same for the same seed, and others for another', () => {
    const draw = (seed: number): number[] => {
      const random = new Random(seed);
      return Array.from({ length: 5 }, () => random.uniform());
    };
    expect(draw(3)).toEqual(draw(3));
    expect(draw(3)).not.toEqual(draw(4));
  });
});
