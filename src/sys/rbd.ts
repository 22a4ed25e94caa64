/** Ceph RBD through librbd (native/rbd.c): clusters, images, and the channels of reactors to an image. */
import { checkErrno } from '../base/errors.ts';
import type { IovArena } from './iov-arena.ts';
import { native } from './native.ts';

/** What may block, and runs on a worker thread. native/rbd.c has the same numbers. */
const Operation = {
  load: 0,
  connect: 1,
  shutdown: 2,
  fence: 3,
  open: 4,
  close: 5,
  identity: 6,
  size: 7,
  resize: 8,
  owner: 9,
  acquire: 10,
  break: 11,
  breakFenced: 12,
  setting: 13,
  release: 14,
} as const;

/** Loads librbd and librados. Resolves with what is missing, in words of the dynamic linker, or null. */
export async function loadRbd(): Promise<string | null> {
  const missing = await native.rbdCall(Operation.load, 0, '', '', 0);
  return typeof missing === 'string' ? missing : null;
}

/** How a call ended: a negative errno, or what it was asked for. */
type Outcome<T> = Promise<T | number>;

/** A client of a cluster. `loadRbd` was called. */
export class RadosCluster {
  readonly #handle: number;
  /** Calls that nobody may wait for. */
  readonly #fencing = new Set<Promise<unknown>>();

  /** `user`: without `client.`; empty for the one that Ceph takes by default. `cores`: where librbd's threads run. */
  constructor(user: string, cores: readonly number[]) {
    this.#handle = checkErrno(native.rbdCluster(user, Int32Array.from(cores)), 'cannot make a client of Ceph');
  }

  /** 0 or a negative errno. Before `connect`. */
  configure(name: string, value: string): number {
    return native.rbdConfigure(this.#handle, name, value);
  }

  /** The same from a file; `''` is what Ceph looks for by itself. */
  configureFromFile(path: string): number {
    return native.rbdConfigure(this.#handle, '', path);
  }

  /** The cluster's id, and the address that locks show as their owner; or a negative errno. */
  async connect(): Outcome<{ fsid: string; address: string }> {
    const answer = await native.rbdCall(Operation.connect, this.#handle, '', '', 0);
    if (typeof answer === 'number') return answer;
    const [fsid = '', address = ''] = answer.split(' ');
    return { fsid, address: plainAddress(address) };
  }

  async open(pool: string, name: string, isReadonly: boolean): Outcome<RbdImage> {
    const handle = (await native.rbdCall(Operation.open, this.#handle, pool, name, isReadonly ? 1 : 0)) as number;
    return handle < 0 ? handle : new RbdImage(handle);
  }

  /** From now on the cluster does not listen to that client, for so long. 0 or a negative errno. */
  async fence(address: string, seconds: number): Promise<number> {
    const fencing = native.rbdCall(Operation.fence, this.#handle, address, '', seconds) as Promise<number>;
    this.#fencing.add(fencing);
    try {
      return await fencing;
    } finally {
      this.#fencing.delete(fencing);
    }
  }

  /** Every image is closed. */
  async close(): Promise<void> {
    await Promise.all(this.#fencing);
    await native.rbdCall(Operation.shutdown, this.#handle, '', '', 0);
  }
}

/** An open image. Reactors know it by its handle. */
export class RbdImage {
  readonly handle: number;
  /** Readable when the image changed or a request failed. */
  readonly eventFd: number;

  constructor(handle: number) {
    this.handle = handle;
    this.eventFd = native.rbdFd(handle);
  }

  /** Takes the event. How a request failed since the last time (a negative errno), or 0. */
  takeEvent(): number {
    return native.rbdImageError(this.handle);
  }

  /** The same for the same image, also after it was renamed. */
  async identity(): Outcome<string> {
    return await native.rbdCall(Operation.identity, this.handle, '', '', 0);
  }

  /** Bytes, or a negative errno. */
  async size(): Promise<number> {
    return (await native.rbdCall(Operation.size, this.handle, '', '', 0)) as number;
  }

  async resize(sizeBytes: number): Promise<number> {
    return (await native.rbdCall(Operation.resize, this.handle, '', '', sizeBytes)) as number;
  }

  /** Address of whoever else holds the exclusive lock, null when nobody does; or a negative errno. */
  async lockOwner(): Outcome<string | null> {
    const answer = await native.rbdCall(Operation.owner, this.handle, '', '', 0);
    return answer === 0 ? null : answer;
  }

  /** Takes the exclusive lock, and keeps it until the image is closed. */
  async acquireLock(): Promise<number> {
    return (await native.rbdCall(Operation.acquire, this.handle, '', '', 0)) as number;
  }

  /** Lets go of the exclusive lock: once it has answered, another client can take it. `EINVAL`: this one has it not. */
  async releaseLock(): Promise<number> {
    return (await native.rbdCall(Operation.release, this.handle, '', '', 0)) as number;
  }

  /** Takes the lock from its owner, who was fenced before, by whatever client. */
  async breakFencedLock(owner: string): Promise<number> {
    return (await native.rbdCall(Operation.breakFenced, this.handle, owner, '', 0)) as number;
  }

  /** Takes the lock from its owner, whom the cluster does not listen to any more. */
  async breakLock(owner: string): Promise<number> {
    return (await native.rbdCall(Operation.break, this.handle, owner, '', 0)) as number;
  }

  /** A setting as it is in force for this image; empty when there is none of this name. */
  async setting(name: string): Outcome<string> {
    const answer = await native.rbdCall(Operation.setting, this.handle, name, '', 0);
    return answer === 0 ? '' : answer;
  }

  /** Every channel is closed. */
  async close(): Promise<number> {
    return (await native.rbdCall(Operation.close, this.handle, '', '', 0)) as number;
  }
}

/** IP address, port and nonce, without the braces and the version that Ceph puts around them. */
function plainAddress(address: string): string {
  return /([\d.]+|\[[\da-f:]+\]):\d+\/\d+/.exec(address)?.[0] ?? address;
}

/** Types of requests; those of native/rbd.c. */
export const RbdRequest = { read: 0, write: 1, flush: 2, discard: 3, writeZeroes: 4 } as const;

const RECORD = 6;

/** Requests of one reactor to an image. */
export class RbdQueue {
  /** Readable when something completed while armed. */
  readonly wakeFd: number;
  readonly #handle: number;
  readonly #records: Float64Array;
  readonly #done: Float64Array;
  #count = 0;

  /** `image`: its handle. `slots`: requests at once. */
  constructor(image: number, slots: number) {
    this.#handle = checkErrno(native.rbdChannelOpen(image, slots), 'cannot open a channel to the image');
    this.wakeFd = native.rbdFd(this.#handle);
    this.#records = new Float64Array(slots * RECORD);
    this.#done = new Float64Array(slots * 2);
  }

  /** Adds a request to the batch. `offsets[slot]` and `lengths[slot]` are in bytes. */
  add(
    slot: number,
    type: number,
    offsets: Float64Array,
    lengths: Float64Array,
    arena: IovArena,
    iovFirst: number,
    iovCount: number,
  ): void {
    const records = this.#records;
    const at = this.#count++ * RECORD;
    records[at] = slot;
    records[at + 1] = type;
    records[at + 2] = offsets[slot] as number;
    records[at + 3] = lengths[slot] as number;
    arena.storeEntryAddress(iovFirst, records, at + 4);
    records[at + 5] = iovCount;
  }

  /** Hands the batch to librbd, and takes what completed. Returns how many did. */
  run(): number {
    if (this.#count > 0) {
      const count = this.#count;
      this.#count = 0;
      // SAFETY: segments come from the memory map, and their memory stays until the request has completed.
      native.rbdSubmit(this.#handle, this.#records, count);
    }
    return native.rbdReap(this.#handle, this.#done);
  }

  /** Slot of a completed request. */
  slot(index: number): number {
    return this.#done[2 * index] as number;
  }

  /** Bytes, or a negative errno. */
  result(index: number): number {
    return this.#done[2 * index + 1] as number;
  }

  /** True when `run` has something to do. */
  arm(): boolean {
    return native.rbdArm(this.#handle, 1) > 0 || this.#count > 0;
  }

  disarm(): void {
    native.rbdArm(this.#handle, 0);
  }

  /** Nothing is in flight. */
  close(): void {
    native.rbdChannelClose(this.#handle);
  }
}
