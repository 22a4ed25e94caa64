/**
 * A mirror's channel. A read goes to one leg, and to another one when that fails; whatever changes the disk goes to all
 * legs, and is answered when all that count have it (mirror-state.ts says what counts, and what is locked).
 */
import { assert } from '../../../base/assert.ts';
import type { IovArena } from '../../../sys/iov-arena.ts';
import { clockStamp, STAMP_NS, stepsBetween } from '../../../sys/thread.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import {
  type BaseChannel,
  type BaseChannels,
  BdevIo,
  type IoChannel,
  type IoOwner,
  IoStatus,
  IoType,
  NO_WAKE_FD,
  WOKEN_FROM_BELOW,
} from '../../bdev-io.ts';
import { type LogHost, MirrorLog } from './mirror-log.ts';
import { LEGS_MAX, MirrorState, UNIT_BYTES, UnitRange } from './mirror-state.ts';

const { read: READ, write: WRITE, flush: FLUSH, resync: RESYNC } = IoType;
const { success: SUCCESS, failed: FAILED } = IoStatus;

/** What a request does next. */
const Step = { lock: 0, mark: 1, send: 2, wait: 3, copy: 4, settle: 5 } as const;
type Step = (typeof Step)[keyof typeof Step];

/** Who waits so long for a lock goes before all others. */
const AGED_STEPS = 250_000_000 / STAMP_NS;
/** A sequential read stays with its leg until that one has so many requests more than the idlest. */
const AFFINITY_MAX = 8;

/** A request of the mirror. Pooled. */
class Job {
  readonly index: number;
  /** Of `MirrorState.ageTo`. */
  readonly id: number;
  readonly units = new UnitRange();
  io: BdevIo | null = null;
  step: Step = Step.lock;
  isAlone = false;
  /** Units that it has; and whether it has claimed the next one. */
  held = 0;
  hasClaimed = false;
  waitsSince = 0;
  hasAged = false;
  hasEntered = false;
  /** How often the record could not be written before it came. */
  markFailures = 0;
  firstRegion = 0;
  lastRegion = 0;
  /** Requests below. */
  pending = 0;
  /** Bits of the slots that have carried it out. */
  done = 0;
  /** Bits of the slots that were tried in order to read. */
  tried = 0;

  constructor(index: number, channel: number) {
    this.index = index;
    this.id = channel * 2 ** 16 + index + 1;
  }
}

export class MirrorChannel implements IoChannel, IoOwner, LogHost {
  wake: () => void = () => {};
  readonly state: MirrorState;
  readonly legs: (BaseChannel | null)[] = Array.from({ length: LEGS_MAX }, () => null);
  readonly #bdevId: number;
  readonly #table: BaseChannels;
  readonly #tell: (bdevId: number, what: unknown) => void;
  readonly #unitBlocks: number;
  readonly #regionBlocks: number;
  readonly #dataOffset: number;
  readonly #log: MirrorLog | null;
  readonly #number: number;
  #regionCount: number;
  /** By slot: requests in flight, those that go there no more, and where the last read ended. */
  readonly #inFlight = new Int32Array(LEGS_MAX);
  readonly #leaving: (BaseChannel | null)[] = Array.from({ length: LEGS_MAX }, () => null);
  readonly #nextBlock = new Float64Array(LEGS_MAX);
  #turn = 0;
  readonly #jobs: Job[] = [];
  readonly #idleJobs: Job[] = [];
  readonly #free: BdevIo[] = [];
  #waiting: Job[] = [];
  #spare: Job[] = [];
  #isRetrying = false;
  #markFailures = 0;
  #retryAgain = false;

  constructor(description: BdevDescription, { arena, bases, tell }: ChannelContext) {
    assert(bases !== undefined, 'whoever opens stacked bdevs opens those below');
    const { params, blockSizeBytes } = description;
    this.#bdevId = description.id;
    this.#table = bases;
    this.#tell = tell ?? (() => {});
    this.state = new MirrorState(params['state'] as SharedArrayBuffer);
    this.#number = this.state.nextChannel();
    this.#unitBlocks = Math.max(1, UNIT_BYTES / blockSizeBytes);
    this.#regionBlocks = (params['regionBytes'] as number) / blockSizeBytes;
    this.#dataOffset = params['dataOffset'] as number;
    this.#log = params['hasLog'] === true ? new MirrorLog(this, arena as IovArena, blockSizeBytes) : null;
    this.#regionCount = 0;
    this.update(description);
  }

  /** While something waits for other threads, nothing below wakes it. */
  get wakeFd(): number {
    return this.#waiting.length > 0 ? NO_WAKE_FD : WOKEN_FROM_BELOW;
  }

  submit(io: BdevIo): void {
    if (io.type !== FLUSH && io.countBlocks === 0) {
      io.complete(SUCCESS);
      return;
    }
    const job = this.#take(io);
    if (!this.#advance(job)) this.#wait(job);
  }

  poll(): number {
    if (this.#waiting.length > 0) this.#retry();
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  abandon(): void {
    for (const leg of this.legs) if (leg !== null) this.#table.abandon(leg);
  }

  /** `slots` names the slot of each base, in their order. */
  update(description: BdevDescription): void {
    const { bases, params } = description;
    this.#regionCount = Math.ceil(description.blockCount / this.#regionBlocks);
    const slots = String(params['slots']).split(',').map(Number);
    for (let slot = 0; slot < LEGS_MAX; slot++) {
      const leg = this.legs[slot] as BaseChannel | null;
      const base = bases[slots.indexOf(slot)];
      if (leg !== null && base?.id === leg.id) leg.update(base);
      else if (leg !== null) this.#leave(slot, leg);
    }
    for (const [i, base] of bases.entries()) {
      const slot = slots[i] as number;
      if (this.legs[slot] !== null || this.#leaving[slot] !== null) continue;
      this.legs[slot] = this.#table.take(base);
      this.state.opened(slot, 1);
    }
  }

  close(): void {
    for (let slot = 0; slot < LEGS_MAX; slot++) {
      const leg = this.legs[slot] as BaseChannel | null;
      if (leg !== null) this.#leave(slot, leg);
    }
    this.#releaseIdle();
    this.#log?.close();
  }

  /** No more requests go to it; when those there are have ended it is released. */
  #leave(slot: number, leg: BaseChannel): void {
    this.legs[slot] = null;
    this.#leaving[slot] = leg;
    if (this.#inFlight[slot] === 0 && this.#log?.isBusy !== true) this.#release(slot);
    else this.#table.abandon(leg);
  }

  /** Not now: the leg that has just ended a request of ours goes on after that, and must not be closed meanwhile. */
  #releaseSoon(): void {
    queueMicrotask(() => this.#releaseIdle());
  }

  #releaseIdle(): void {
    if (this.#log?.isBusy === true) return;
    for (let slot = 0; slot < LEGS_MAX; slot++) {
      if (this.#leaving[slot] !== null && this.#inFlight[slot] === 0) this.#release(slot);
    }
  }

  #release(slot: number): void {
    const leg = this.#leaving[slot] as BaseChannel;
    this.#leaving[slot] = null;
    this.#table.release(leg);
    this.state.opened(slot, -1);
  }

  // Steps of a request.

  #take(io: BdevIo): Job {
    let job = this.#idleJobs.pop();
    if (job === undefined) {
      job = new Job(this.#jobs.length, this.#number);
      this.#jobs.push(job);
    }
    const { type } = io;
    job.io = io;
    job.step = type === FLUSH ? Step.send : Step.lock;
    job.isAlone = type !== READ;
    job.held = 0;
    job.hasClaimed = false;
    job.hasAged = false;
    job.hasEntered = false;
    job.markFailures = this.#markFailures;
    job.pending = 0;
    job.done = 0;
    job.tried = 0;
    if (type !== FLUSH) {
      job.units.set(io.offsetBlocks, io.countBlocks, this.#unitBlocks);
      job.firstRegion = Math.floor(io.offsetBlocks / this.#regionBlocks);
      job.lastRegion = Math.floor((io.offsetBlocks + io.countBlocks - 1) / this.#regionBlocks);
    }
    return job;
  }

  /** False: it waits for something that no request below brings about. */
  #advance(job: Job): boolean {
    if (job.step === Step.lock) {
      if (!this.#lock(job)) return false;
      const { type } = job.io as BdevIo;
      job.step = type === READ || type === RESYNC ? Step.send : Step.mark;
    }
    if (job.step === Step.mark) {
      if (!this.#mark(job)) {
        if (job.markFailures === this.#markFailures) return false;
        this.#finish(job, FAILED);
        return true;
      }
      job.step = Step.send;
    }
    if (job.step === Step.send) {
      job.step = Step.wait;
      this.#send(job);
      return true;
    }
    if (job.step === Step.settle) return this.#settle(job);
    return true;
  }

  #lock(job: Job): boolean {
    const { state } = this;
    const { units } = job;
    if (job.held === 0 && !job.hasClaimed && state.isHeldBack(job.id)) return false;
    while (job.held < units.count) {
      const unit = units.at(job.held);
      if (job.isAlone) {
        if (!job.hasClaimed && !state.claim(unit)) return false;
        job.hasClaimed = true;
        if (!state.isQuiet(unit)) return false;
        job.hasClaimed = false;
      } else if (!state.share(unit)) return false;
      job.held++;
    }
    if (job.hasAged) state.rejuvenate(job.id);
    return true;
  }

  #unlock(job: Job): void {
    const { state } = this;
    const { units } = job;
    for (let i = 0; i < job.held; i++) {
      if (job.isAlone) state.unclaim(units.at(i));
      else state.unshare(units.at(i));
    }
    job.held = 0;
  }

  /** Before a region is written it is dirty, and on record as such. */
  #mark(job: Job): boolean {
    const { state } = this;
    const { firstRegion, lastRegion } = job;
    if (!job.hasEntered) {
      job.hasEntered = true;
      for (let region = firstRegion; region <= lastRegion; region++) state.enter(region);
    }
    for (let region = firstRegion; region <= lastRegion; region++) {
      if (state.isDirty(region)) continue;
      if (this.#log === null) state.setDirty(region);
      else {
        this.#log.write(region, this.#regionCount);
        if (!state.isDirty(region)) return false;
      }
    }
    return true;
  }

  #send(job: Job): void {
    const io = job.io as BdevIo;
    // A resync reads into the buffers of its request, and writes them to those that are being rebuilt.
    if (io.type === READ || io.type === RESYNC) this.#read(job, io);
    else this.#toLegs(job, io, io.type, this.state.written);
  }

  #read(job: Job, io: BdevIo): void {
    const slot = this.#chooseLeg(io, job.tried);
    if (slot < 0) {
      this.#finish(job, FAILED);
      return;
    }
    job.tried |= 1 << slot;
    job.pending = 1;
    this.#nextBlock[slot] = io.offsetBlocks + io.countBlocks;
    this.#submit(job, io, READ, slot);
  }

  #toLegs(job: Job, io: BdevIo, type: IoType, slots: number): void {
    // One of its own, so that the first leg's end is not taken for the last.
    job.pending = 1;
    for (let left = slots; left !== 0; left &= left - 1) {
      const slot = lowestOf(left);
      job.pending++;
      // A leg that this reactor does not know yet has missed something from here on.
      if (this.legs[slot] === null) this.#legDone(job, slot, FAILED);
      else this.#submit(job, io, type, slot);
    }
    this.#oneDone(job);
  }

  #submit(job: Job, io: BdevIo, type: IoType, slot: number): void {
    const below = this.#free.pop() ?? new BdevIo(this);
    below.type = type;
    below.offsetBlocks = type === FLUSH ? 0 : io.offsetBlocks + this.#dataOffset;
    below.countBlocks = io.countBlocks;
    below.lengthBytes = io.lengthBytes;
    below.iovFirst = io.iovFirst;
    below.iovCount = io.iovCount;
    below.tag = job.index * LEGS_MAX + slot;
    this.#inFlight[slot] = (this.#inFlight[slot] as number) + 1;
    (this.legs[slot] as BaseChannel).submit(below);
  }

  /** Of those in sync that were not tried: the one that reads on where it was, or the idlest. -1: there is none. */
  #chooseLeg({ offsetBlocks }: BdevIo, tried: number): number {
    const candidates = this.state.inSync & ~tried;
    let best = -1;
    let next = -1;
    let fewest = 0;
    for (let left = candidates; left !== 0; left &= left - 1) {
      const slot = lowestOf(left);
      if (this.legs[slot] === null) continue;
      if (this.#nextBlock[slot] === offsetBlocks) next = slot;
      // Of those that are equally idle, the next one in turn.
      const order = (this.#inFlight[slot] as number) * LEGS_MAX + ((slot - this.#turn) & (LEGS_MAX - 1));
      if (best >= 0 && order >= fewest) continue;
      best = slot;
      fewest = order;
    }
    const isNear = next >= 0 && (this.#inFlight[next] as number) - (this.#inFlight[best] as number) < AFFINITY_MAX;
    const chosen = isNear ? next : best;
    this.#turn = chosen + 1;
    return chosen;
  }

  ioDone(below: BdevIo): void {
    const { tag, status } = below;
    this.#free.push(below);
    const slot = tag % LEGS_MAX;
    const job = this.#jobs[(tag - slot) / LEGS_MAX] as Job;
    this.#inFlight[slot] = (this.#inFlight[slot] as number) - 1;
    this.#legDone(job, slot, status);
    if (this.#leaving[slot] !== null && this.#inFlight[slot] === 0) this.#releaseSoon();
  }

  #legDone(job: Job, slot: number, status: IoStatus): void {
    if (status === SUCCESS) job.done |= 1 << slot;
    else this.legFailed(slot, status);
    this.#oneDone(job);
  }

  #oneDone(job: Job): void {
    if (--job.pending > 0) return;
    const io = job.io as BdevIo;
    if (io.type === READ || (io.type === RESYNC && job.step === Step.wait)) this.#readDone(job, io);
    else if (job.step === Step.copy) this.#finish(job, SUCCESS);
    else {
      job.step = Step.settle;
      if (!this.#settle(job)) this.#wait(job);
    }
  }

  #readDone(job: Job, io: BdevIo): void {
    // Another leg may have it.
    if (job.done === 0) this.#read(job, io);
    else if (io.type === READ) this.#finish(job, SUCCESS);
    else {
      job.step = Step.copy;
      this.#toLegs(job, io, WRITE, this.state.targets);
    }
  }

  /** All legs that a daemon would take for being in sync have it: the request is over. False: not yet. */
  #settle(job: Job): boolean {
    const { state } = this;
    const missing = state.recorded & ~job.done;
    const isLeft = missing !== 0 && (missing & state.inSync) === 0;
    if (isLeft && job.done !== 0 && state.canRecord) return false;
    const isDone = missing === 0 && job.done !== 0;
    // The last leg does not have it: those that are made like that one must not either.
    if (!isDone) this.#dropAll(job.done & state.targets);
    this.#finish(job, isDone ? SUCCESS : FAILED);
    return true;
  }

  #dropAll(slots: number): void {
    for (let left = slots; left !== 0; left &= left - 1) this.legFailed(lowestOf(left), FAILED);
  }

  #finish(job: Job, status: IoStatus): void {
    const io = job.io as BdevIo;
    if (job.hasEntered) for (let region = job.firstRegion; region <= job.lastRegion; region++) this.state.leave(region);
    this.#unlock(job);
    job.io = null;
    this.#idleJobs.push(job);
    io.complete(status);
    if (this.#waiting.length > 0) this.#retry();
  }

  // What waits.

  #wait(job: Job): void {
    job.waitsSince = clockStamp();
    this.#waiting.push(job);
    // Nobody may have polled since the legs were given their requests.
    this.wake();
  }

  /** In their order, once each; again when one that ended made room meanwhile. */
  #retry(): void {
    if (this.#isRetrying) {
      this.#retryAgain = true;
      return;
    }
    this.#isRetrying = true;
    do {
      this.#retryAgain = false;
      const list = this.#waiting;
      this.#waiting = this.#spare;
      for (let i = 0; i < list.length; i++) {
        const job = list[i] as Job;
        if (!this.#advance(job)) this.#keepWaiting(job);
      }
      list.length = 0;
      this.#spare = list;
    } while (this.#retryAgain && this.#waiting.length > 0);
    this.#isRetrying = false;
  }

  #keepWaiting(job: Job): void {
    this.#waiting.push(job);
    if (job.step !== Step.lock || stepsBetween(job.waitsSince, clockStamp()) < AGED_STEPS) return;
    job.hasAged = true;
    this.state.ageTo(job.id);
  }

  // The log's host.

  legFailed(slot: number, status: IoStatus): void {
    if (!this.state.drop(slot)) return;
    this.state.countFailure(slot);
    this.#tell(this.#bdevId, { failedSlot: slot, status });
  }

  logWritten(hasFailed: boolean): void {
    if (this.#leaving.some((leg) => leg !== null)) this.#releaseSoon();
    // The last leg does not take the record: nothing that needs it can be written.
    const { inSync } = this.state;
    if (hasFailed && (inSync & (inSync - 1)) === 0) this.#markFailures++;
    if (this.#waiting.length > 0) this.#retry();
  }
}

/** Of the bits that are set, the number of the lowest. */
function lowestOf(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}
