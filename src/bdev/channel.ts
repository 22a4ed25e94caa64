/**
 * A bdev's channel in one reactor: the module's channel behind the checks and services every module gets: range checks,
 * emulation of what the module lacks, counters, refusal after a hot-remove.
 */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { clockStamp, stepsBetween } from '../sys/thread.ts';
import type { BdevDescription, ChannelContext, ChannelFactory } from './bdev.ts';
import { BdevIo, type IoAccount, type IoChannel, IoStatus, IoType, NO_WAKE_FD } from './bdev-io.ts';
import { REGIONS, StatsRow } from './bdev-stats.ts';
import type { Sharer } from './fair-shares.ts';
import { LimitedChannel } from './limited-channel.ts';
import { RequestSampler } from './request-sampler.ts';

const IO_TYPE_COUNT = Object.keys(IoType).length;
/** Not a status: the module takes the request. */
const ADMITTED = 1;
// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const SUCCESS = IoStatus.success;
const FAILED = IoStatus.failed;
const GONE = IoStatus.gone;
const WITHDRAWN = IoStatus.withdrawn;
const { flush: FLUSH } = IoType;
const LAST_REGION = REGIONS - 1;

export class BdevChannel implements IoAccount {
  /** Requests in the module. */
  inFlight = 0;
  /** Somebody polls. While false, `wake` is called for whatever needs it. */
  isAwake = true;
  wake: () => void = () => {};
  /** No new requests: the bdev is gone. */
  isRemoved = false;
  blockCount: number;
  readonly blockSizeBytes: number;
  readonly id: number;
  readonly name: string;
  readonly hasWriteCache: boolean;
  /** Null once the bdev is gone. */
  #module: IoChannel | null;
  readonly #stats: StatsRow;
  readonly #sampler = new RequestSampler();
  /** 1 for what the module does itself. */
  readonly #supported = new Uint8Array(IO_TYPE_COUNT);
  #onIdle: (() => void)[] = [];
  readonly #onGone: ((bdevId: number) => void) | undefined;
  readonly #reactorIndex: number;

  constructor(description: BdevDescription, factory: ChannelFactory, context: ChannelContext, reactorIndex: number) {
    this.id = description.id;
    this.name = description.name;
    this.blockSizeBytes = description.blockSizeBytes;
    this.blockCount = description.blockCount;
    this.hasWriteCache = description.hasWriteCache;
    for (const type of description.ioTypes) this.#supported[type] = 1;
    this.#reactorIndex = reactorIndex;
    this.#stats = new StatsRow(description.stats, reactorIndex);
    this.isRemoved = description.isRemoved;
    this.#onGone = context.onGone;
    this.#module = description.isRemoved ? null : factory(description, context);
    if (this.#module !== null) this.#module.wake = () => this.#wakeIfAsleep();
    this.#limit(description);
  }

  #wakeIfAsleep(): void {
    if (!this.isAwake) this.wake();
  }

  /** Takes a request; `io.owner` hears of its end, now or later. */
  submit(io: BdevIo): void {
    if (io.account !== this) io.account = this;
    this.inFlight++;
    if (this.#sampler.isChosen(io.type)) this.#sampler.begin(io, clockStamp());
    if (!this.isAwake) this.wake();
    const status = this.#admit(io);
    if (status === ADMITTED && this.#module !== null) this.#module.submit(io);
    else io.complete(status === SUCCESS ? SUCCESS : FAILED);
  }

  poll(): number {
    return this.inFlight === 0 || this.#module === null ? 0 : this.#module.poll();
  }

  /** As the module's: what it says is of use while requests are in flight. */
  get wakeFd(): number {
    return this.#module === null ? NO_WAKE_FD : this.#module.wakeFd;
  }

  get sharesCores(): boolean {
    return this.#module?.sharesCores ?? false;
  }

  rest(timeoutNs: number): number {
    return this.#module?.rest?.(timeoutNs) ?? 0;
  }

  arm(): boolean {
    return this.#module?.arm() ?? false;
  }

  disarm(): void {
    this.#module?.disarm();
  }

  /** A grown or moved bdev. */
  update(description: BdevDescription): void {
    this.blockCount = description.blockCount;
    this.#module?.update(description);
    this.#limit(description);
  }

  /** From the first limits on, also when they are taken away: then nothing waits. */
  #limit({ limits }: BdevDescription): void {
    if (limits === null || this.#module === null || this.#module instanceof LimitedChannel) return;
    this.#module = new LimitedChannel(this.#module, limits, this.#reactorIndex);
  }

  /** Refuses new requests; resolves when those in flight have ended and the module's channel is closed. */
  async remove(): Promise<void> {
    this.isRemoved = true;
    this.abandon();
    await this.drained();
    this.close();
  }

  /** What waits for the bdev's device to come back fails now. */
  abandon(): void {
    if (this.#module?.abandon === undefined) return;
    this.#module.abandon();
    if (!this.isAwake) this.wake();
  }

  /** Ends as `withdrawn` what a queue, known by its own `sharer`, submitted and no device was given yet. */
  withdraw(sharer: Sharer): void {
    if (this.inFlight === 0 || this.#module?.withdraw === undefined) return;
    if (!this.isAwake) this.wake();
    this.#module.withdraw(sharer);
  }

  /**
   * Resolves when the connection of a module that has one stands. No other is asked for anything: a flush of an RBD
   * image takes its lock, a read fills a cache with what another process may write over.
   */
  async connect(): Promise<void> {
    if (this.#module?.hasConnection === true) await this.flush();
  }

  /** For an upgrade: flushes what another process will have, while guests work, so that little is left for `letGo`. */
  async flushEarly(): Promise<void> {
    if (this.#module?.letGo !== undefined) await this.flush();
  }

  /** For an upgrade: another process may have the bdev now. Throws `EIO` when what was written cannot be flushed. */
  async letGo(): Promise<void> {
    if (this.#module?.letGo === undefined) return;
    if ((await this.flush()) !== SUCCESS) throw new TargetError('EIO', `bdev "${this.name}" cannot be flushed`);
    this.#module?.letGo?.();
  }

  flush(): Promise<IoStatus> {
    return new Promise<IoStatus>((resolve) => {
      const io = new BdevIo({ ioDone: (done) => resolve(done.status) });
      io.type = FLUSH;
      this.submit(io);
    });
  }

  drained(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onIdle.push(resolve));
  }

  close(): void {
    assert(this.inFlight === 0, 'a channel is closed when nothing is in flight');
    this.#module?.close();
    this.#module = null;
  }

  /** `ADMITTED`, or how the request ends without the module. */
  #admit(io: BdevIo): number {
    if (this.isRemoved) return FAILED;
    if (io.type === FLUSH) {
      return this.hasWriteCache && this.#supported[FLUSH] === 1 ? ADMITTED : SUCCESS;
    }
    const isInside = io.offsetBlocks + io.countBlocks <= this.blockCount;
    return isInside && this.#supported[io.type] === 1 ? ADMITTED : FAILED;
  }

  ioFinished(io: BdevIo): void {
    this.inFlight--;
    // One that was withdrawn is as if it had not come.
    if (io.status !== WITHDRAWN) this.#stats.add(io.type, io.lengthBytes, io.status !== SUCCESS);
    if (io.weight !== 0) this.#endSample(io);
    if (io.status === GONE) this.#deviceGone();
    if (this.inFlight === 0 && this.#onIdle.length > 0) {
      const waiting = this.#onIdle;
      this.#onIdle = [];
      for (const resolve of waiting) resolve();
    }
  }

  #endSample(io: BdevIo): void {
    const { type, weight } = io;
    io.weight = 0;
    if (io.status !== SUCCESS) return;
    const steps = stepsBetween(io.stamp, clockStamp());
    this.#stats.latencies.add(type, steps, weight);
    io.owner.latencies?.add(type, steps, weight);
    if (type === FLUSH) return;
    // The disk may have become smaller meanwhile.
    const region = Math.floor((io.offsetBlocks / this.blockCount) * REGIONS);
    this.#stats.addPlace(type, Math.min(region, LAST_REGION), weight);
  }

  /** New requests are refused from here on; whoever listens has the bdev deleted. */
  #deviceGone(): void {
    if (this.isRemoved) return;
    this.isRemoved = true;
    this.#onGone?.(this.id);
  }
}
