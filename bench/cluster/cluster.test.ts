import { describe, expect, it } from 'vitest';
import { calibrate } from './calibration.ts';
import { Cluster, type Costs } from './cluster.ts';
import { Disk, type DiskOptions, Host, Latencies } from './disks.ts';
import { bestOf, readMeasured } from './measured.ts';
import { type OpenCosts, type RestartOptions, restart } from './questions/restart.ts';
import { Random } from './random.ts';
import { Simulation } from './simulation.ts';
import { predict } from './small-cluster.ts';

const COSTS: Costs = {
  ...{ readLibraryUs: 20, writeLibraryUs: 20, libraryWakeUs: 0, librarySleepUs: 0, reactorUs: 4 },
  ...{ readUs: 30, mixedUs: 0, writeUs: 100, copyUs: 90, ackUs: 10, osdWakeUs: 0, osdSleepUs: 0 },
  ...{ commitUs: 8, deviceWriteUs: 20, deviceReadUs: 80, networkUs: 30, switchUs: 0, variation: 0 },
};
const SHAPE = { nodes: 6, osdsPerNode: 2, copies: 3, groups: 64, coresPerOsd: 2 };

function build(costs: Costs, seed = 1) {
  const [simulation, random, latencies] = [new Simulation(), new Random(seed), new Latencies()];
  const cluster = new Cluster({ simulation, random, costs, ...SHAPE });
  const host = new Host(cluster, { libraryCores: 2, hasReactor: true });
  const disk = (options: Partial<DiskOptions> = {}) =>
    new Disk(cluster, host, latencies, { image: 1, objects: 100, depth: 8, writePercent: 50, ...options });
  return { simulation, cluster, latencies, disk };
}

describe('a cluster', () => {
  it('takes as long for a single read, and for a single write, as their parts take one after the other', () => {
    const read = build(COSTS);
    read.disk({ writePercent: 0 }).ask(1);
    read.simulation.run();
    expect(read.simulation.nowUs).toBe(4 + 20 + 30 + 80 + 2 * 30);
    const write = build(COSTS);
    write.disk({ writePercent: 100 }).ask(1);
    write.simulation.run();
    // The copies are further away than the primary's own commit; the second word waits for none: there are two cores.
    expect(write.simulation.nowUs).toBe(4 + 20 + 2 * 30 + 100 + (30 + 90 + 8 + 20 + 30 + 10));
  });

  it('completes every request once, in the depth that there is', () => {
    const { simulation, latencies, disk, cluster } = build({ ...COSTS, variation: 0.8 });
    const disks = [1, 2, 3].map((image) => disk({ image }));
    for (const one of disks) one.ask(5000);
    expect(disks.map(({ inFlight }) => inFlight)).toEqual([8, 8, 8]);
    simulation.run();
    expect(disks.map(({ completed, inFlight, backlog }) => [completed, inFlight, backlog])).toEqual(
      disks.map(() => [5000, 0, 0]),
    );
    expect(latencies.count).toBe(15_000);
    expect(cluster.osds.reduce((sum, { requests }) => sum + requests, 0)).toBe(15_000);
  });

  it('holds what needs a dead OSD until it is said down, and loses none of it', () => {
    const { simulation, cluster, latencies, disk } = build({ ...COSTS, variation: 0.5 });
    const one = disk();
    one.ask(2000);
    simulation.run(5000);
    cluster.fail([0, 1]);
    simulation.run(3e6);
    const [before, held] = [one.completed, one.inFlight];
    expect(held).toBe(8);
    cluster.markDown([0, 1]);
    simulation.run();
    expect(before).toBeLessThan(2000);
    expect([one.completed, one.inFlight]).toEqual([2000, 0]);
    expect(latencies.percentileUs(100)).toBeGreaterThan(2.9e6);
  });

  it('lets a limited disk have what its limit says, and its burst', () => {
    const { simulation, disk } = build(COSTS);
    const one = disk({ iopsMax: 1000, depth: 128 });
    one.ask(1e6);
    simulation.run(2e6);
    expect(one.completed).toBeGreaterThan(1990);
    expect(one.completed).toBeLessThanOrEqual(2101);
  });

  it('says the same for the same seed, and something else for another', () => {
    const point = { osds: 3, clients: 2, depth: 16, writePercent: 30 };
    const costs = { ...COSTS, variation: 0.5 };
    expect(predict(point, costs, 5, 0.1)).toEqual(predict(point, costs, 5, 0.1));
    expect(predict(point, costs, 5, 0.1)).not.toEqual(predict(point, costs, 6, 0.1));
  });
});

describe('the calibration', () => {
  const samples = readMeasured();

  it('gives costs that are times', () => {
    for (const value of Object.values(calibrate(samples))) expect(value).toBeGreaterThanOrEqual(0);
  });

  it('has the model say again what it was calibrated with, where queues are long', () => {
    const costs = calibrate(samples);
    for (const writePercent of [0, 100]) {
      const isIt = { osds: 1, clients: 1, depth: 128, writePercent };
      const measured = bestOf(samples).find((one) =>
        Object.entries(isIt).every(([key, value]) => one[key as 'osds'] === value),
      );
      const ratio = predict(isIt, costs, 1, 0.3).iops / (measured?.iops ?? Number.NaN);
      expect(ratio).toBeGreaterThan(0.8);
      expect(ratio).toBeLessThan(1.2);
    }
  });
});

describe('daemons that start again', () => {
  const costs: OpenCosts = { startUs: 5e5, connectUs: 500, openRequests: 10, requestUs: 50, openUs: 3000 };
  const usual: RestartOptions = {
    ...{ hosts: 40, images: 12, fencing: 'client', monitors: 3, spreadUs: 0, isLeaderGone: false, atOnce: 40 },
  };

  it('wait for a map or two when each client is shut out once, for one an image otherwise', () => {
    const [once, each] = [restart(usual, costs, 1), restart({ ...usual, fencing: 'image' }, costs, 1)];
    expect(once.epochs).toBeLessThanOrEqual(2);
    expect(each.epochs).toBeGreaterThanOrEqual(12);
    expect(each.lastUs - once.lastUs).toBeGreaterThan(10e6);
  });

  it('need no map when nobody had a lock, and take their turns', () => {
    const turns = restart({ ...usual, fencing: 'none', atOnce: 1 }, costs, 1);
    const together = restart({ ...usual, fencing: 'none' }, costs, 1);
    expect([turns.epochs, together.epochs]).toEqual([0, 0]);
    expect(turns.lastUs).toBeGreaterThan(20 * together.lastUs);
  });
});
