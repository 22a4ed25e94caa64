/**
 * A virtio disk's channel in one reactor, whatever the device: it sends requests to the reactor's queue of the disk's
 * controller. While the target is away they wait here; what it had not answered is sent again when it is back.
 */
import { REMOVAL_DRAIN_MS_MAX } from '../../../base/limits.ts';
import type { IovArena } from '../../../sys/iov-arena.ts';
import { ReadySet } from '../../../sys/ready-set.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';
import type { ControllerParams, RequestForm } from './layout.ts';
import { type QueueUser, TargetQueue } from './target-queue.ts';

const { flush: FLUSH } = IoType;
const SUCCESS = IoStatus.success;
const FAILED = IoStatus.failed;

export abstract class VirtioChannel implements IoChannel, QueueUser {
  /** A vhost-user target is a program of this machine. */
  readonly sharesCores = true;
  readonly wakeFd: number;
  readonly arena: IovArena;
  readonly blockSizeBytes: number;
  protected readonly queue: TargetQueue;
  /** Readable with the queue's call descriptor: each channel has its own, which its reactor may watch. */
  readonly #ready = new ReadySet();
  #isReady = false;
  #isArmed = false;
  #isAbandoned = false;
  #held: BdevIo[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(description: BdevDescription, context: ChannelContext, form: RequestForm) {
    this.arena = context.arena;
    this.blockSizeBytes = description.blockSizeBytes;
    this.wakeFd = this.#ready.fd;
    this.queue = TargetQueue.take(description.name, description.params as ControllerParams, form);
    this.#ready.add(this.queue.callFd);
  }

  abstract pieceMax(io: BdevIo): number;
  abstract encode(slot: number, io: BdevIo, doneBytes: number, lengthBytes: number): number;
  abstract judge(slot: number, io: BdevIo): number;
  /** Whether the disk can be used, as far as the description says. */
  protected abstract isReady(description: BdevDescription): boolean;

  submit(io: BdevIo): void {
    if (io.type !== FLUSH && io.lengthBytes === 0) io.complete(SUCCESS);
    else if (this.#isReady) this.queue.submit(this, io);
    else this.#held.push(io);
  }

  takeBack(io: BdevIo): void {
    this.#held.push(io);
  }

  poll(): number {
    const failed = this.#isAbandoned && this.#held.length > 0 ? this.#failHeld() : 0;
    return failed + this.queue.poll();
  }

  arm(): boolean {
    this.#isArmed = true;
    this.#ready.watch(this.queue.callFd, true, false);
    return this.queue.arm() || (this.#isAbandoned && this.#held.length > 0);
  }

  disarm(): void {
    if (!this.#isArmed) return;
    this.#isArmed = false;
    this.#ready.watch(this.queue.callFd, false, false);
    this.queue.disarm();
  }

  /** What the target does not answer in time fails: it works on buffers of ours, so nobody needs to wait for it. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#timer ??= setTimeout(() => this.queue.fail(this), REMOVAL_DRAIN_MS_MAX);
  }

  /** The target came, went, or has another size. */
  update(description: BdevDescription): void {
    const { isConnected } = description.params as ControllerParams;
    this.queue.setConnected(isConnected);
    this.#isReady = isConnected && this.isReady(description);
    if (!this.#isReady) return;
    const held = this.#held;
    this.#held = [];
    for (const io of held) this.queue.submit(this, io);
    this.queue.publish();
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.disarm();
    this.queue.release();
    this.#ready.close();
  }

  #failHeld(): number {
    const held = this.#held;
    this.#held = [];
    for (const io of held) io.complete(FAILED);
    return held.length;
  }
}
