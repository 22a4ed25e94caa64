/**
 * The costs of the simulation, from seven measurements of one client: reads and writes at depths 1 and 128 on one OSD,
 * both mixed at 128, and reads and writes at 128 on three OSDs. Everything else that was measured is left to check what
 * the model says.
 */
import type { Costs } from './cluster.ts';
import { bestOf, type LoadPoint, type LoadSample } from './measured.ts';
import { predict } from './small-cluster.ts';

/** Percent of writes in loads that are mixed. */
const MIXED = 30;
const SHALLOW = 1;
const DEEP = 128;
/** Commits at depth 128 take about half of what is in flight, each: the other half waits for the next. */
const BATCH = DEEP / 2;
/** Of what a copy costs the primary and another OSD together; the rest is the primary's. Cannot be told apart here. */
const COPY_SHARE = 0.75;
/** Jobs of a write on three OSDs: at the primary, two copies, two words of them. */
const COPIES_JOBS = 5;
const VARIATIONS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1];
const SEED = 1;

export const isForCalibration = ({ osds, clients, depth, writePercent }: LoadPoint): boolean =>
  clients === 1 && (depth === DEEP ? writePercent !== MIXED || osds === 1 : isShallow(osds, depth, writePercent));

const isShallow = (osds: number, depth: number, writePercent: number): boolean =>
  depth === SHALLOW && osds === 1 && writePercent !== MIXED;

export function calibrate(samples: readonly LoadSample[]): Costs {
  const best = bestOf(samples);
  const at = (osds: number, depth: number, writePercent: number): LoadSample => {
    const isIt = (one: LoadPoint) => one.osds === osds && one.depth === depth && one.writePercent === writePercent;
    const sample = best.find((one) => one.clients === 1 && isIt(one));
    if (sample === undefined) throw new Error(`not measured: ${osds} OSDs, depth ${depth}, ${writePercent} % writes`);
    return sample;
  };
  const [read, deepRead] = [at(1, SHALLOW, 0), at(1, DEEP, 0)];
  const [write, deepWrite] = [at(1, SHALLOW, 100), at(1, DEEP, 100)];
  const [deepReads, deepCopies] = [at(3, DEEP, 0), at(3, DEEP, 100)];
  // A request at a time finds everybody asleep: the library twice, an OSD once.
  const libraryTurnUs = (read.clientCpuUs - deepRead.clientCpuUs) / 2;
  const osdTurnUs = read.osdCpuUs - deepRead.osdCpuUs;
  const workUs = deepRead.clientCpuUs + deepRead.osdCpuUs;
  // What a request waits for of that is waking up; the rest is going to sleep, after it has gone on.
  const wakeShare = clamp((read.p50Us - workUs) / (2 * libraryTurnUs + osdTurnUs));
  const networkUs = Math.max(0, (read.p50Us - workUs - 2 * libraryTurnUs - osdTurnUs) / 2);
  // A write wakes threads of the OSD twice: for itself, and to commit it.
  const bothUs = write.osdCpuUs - osdTurnUs * (1 + wakeShare);
  const commitUs = (bothUs - deepWrite.osdCpuUs) / (1 - 1 / BATCH);
  // Of three OSDs with one core, two requests in three are of another one than the request before.
  const switchUs = Math.max(0, (deepReads.osdCpuUs - deepRead.osdCpuUs) / (2 / 3));
  const copiesUs = deepCopies.osdCpuUs - deepWrite.osdCpuUs - (2 * commitUs) / BATCH - COPIES_JOBS * switchUs * (2 / 3);
  // With so many in flight, a commit is always under way.
  const readShare = 1 - MIXED / 100;
  const apartUs = readShare * deepRead.osdCpuUs + (1 - readShare) * deepWrite.osdCpuUs;
  const mixedUs = Math.max(0, (at(1, DEEP, MIXED).osdCpuUs - apartUs) / readShare);
  const costs: Costs = {
    readLibraryUs: deepRead.clientCpuUs,
    writeLibraryUs: deepWrite.clientCpuUs,
    libraryWakeUs: libraryTurnUs * wakeShare,
    librarySleepUs: libraryTurnUs * (1 - wakeShare),
    reactorUs: 0,
    readUs: deepRead.osdCpuUs,
    mixedUs,
    writeUs: bothUs - commitUs,
    copyUs: (copiesUs / 2) * COPY_SHARE,
    ackUs: (copiesUs / 2) * (1 - COPY_SHARE),
    osdWakeUs: osdTurnUs * wakeShare,
    osdSleepUs: osdTurnUs * (1 - wakeShare),
    commitUs,
    deviceWriteUs: 0,
    deviceReadUs: 0,
    networkUs,
    switchUs,
    variation: 0,
  };
  return { ...costs, variation: variationOf(read, costs) };
}

const clamp = (share: number): number => Math.min(1, Math.max(0, share));

/** The one with which the 99th percentile of single reads comes nearest to what was measured. */
function variationOf(read: LoadSample, costs: Costs): number {
  const errorOf = (variation: number): number =>
    Math.abs(Math.log(predict(read, { ...costs, variation }, SEED).p99Us / read.p99Us));
  return VARIATIONS.reduce((best, one) => (errorOf(one) < errorOf(best) ? one : best));
}
