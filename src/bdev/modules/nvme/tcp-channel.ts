/**
 * A reactor's channel to a namespace over TCP: a queue of its own on each path to the subsystem, of which the best is
 * used. Requests become one or more commands, as the limits of the controller have it. When a path is lost, what was in
 * flight on it is driven again, by another path or when this one is back; until then requests wait.
 *
 * Everything happens in `poll`. While a queue connects, or when the main thread has news of the paths, the event loop
 * calls it too, so that a channel with nothing to do is ready again before the next request.
 */
import { assert } from '../../../base/assert.ts';
import { encodeBlocks, encodeDeallocate, encodeFlush, encodeRange, RANGE_BLOCKS_MAX } from '../../../nvme/command.ts';
import { IoOpcode } from '../../../nvme/spec.ts';
import { STATUS_DNR, Status, statusCode } from '../../../nvme/status.ts';
import { Direction, NO_SLOT } from '../../../nvme/tcp/command-slots.ts';
import { Access, PATHS_MAX, PathState, PathTable } from '../../../nvme/tcp/path-table.ts';
import { TcpQueue, type TcpQueueOwner } from '../../../nvme/tcp/tcp-queue.ts';
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../../../sys/events.ts';
import { ReadySet } from '../../../sys/ready-set.ts';
import { isOnThisMachine } from '../../../sys/stream-socket.ts';
import { clockNs } from '../../../sys/thread.ts';
import type { BdevDescription, ChannelContext, PlainParams } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';

/** What a reactor needs to know of a namespace over TCP. */
export interface TcpChannelParams extends PlainParams {
  readonly nsid: number;
  /** Where the table has its access states. */
  readonly place: number;
  readonly table: SharedArrayBuffer;
  readonly hostNqn: string;
  readonly hostId: string;
  readonly subsystemNqn: string;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
}

/** Commands in flight on a path at most. */
const DEPTH_MAX = 128;
/** Longer requests go in pieces, so that others come in between. */
const PIECE_BYTES_MAX = 1 << 20;
/** Blocks of a Write Zeroes: the field has 16 bits. */
const ZEROES_BLOCKS_MAX = 0x1_0000;
/** Times that the controller may fail a request in a way that allows to do it once more. */
const RETRIES_MAX = 4;
/** A queue that does not get connected is given up after so long. */
const CONNECT_NS_MAX = 10e9;
/** Between two looks at a queue that connects, while nobody polls. */
const CONNECT_POLL_MS = 5;

/** A request on its way. Pooled. */
class Task {
  io: BdevIo | null = null;
  /** Blocks that were made commands of. */
  issued = 0;
  /** Commands in flight. */
  commands = 0;
  retries = 0;
  status: IoStatus = IoStatus.success;
  /** It is to be done once more, from its start, when no command of it is in flight. */
  isAgain = false;
  /** It is in the list of those that wait. */
  isListed = false;
  next: Task | null = null;
}

/** This channel's queue on one path. */
class PathQueue implements TcpQueueOwner {
  readonly path: number;
  readonly #channel: TcpChannel;
  queue: TcpQueue | null = null;
  queueId = 0;
  /** The association it belongs to; that of the last attempt, when there is no queue. */
  association = 0;
  startedNs = 0;
  /** As the table has it, until a command is told otherwise. */
  access: number = Access.optimized;
  readonly tasks: (Task | null)[] = Array.from({ length: DEPTH_MAX }, () => null);

  constructor(path: number, channel: TcpChannel) {
    this.path = path;
    this.#channel = channel;
  }

  get isReady(): boolean {
    return this.queue !== null && this.queue.state === 'ready';
  }

  queueReady(): void {
    this.#channel.pathReady();
  }

  commandDone(slot: number, status: number): void {
    const task = this.tasks[slot] as Task;
    this.tasks[slot] = null;
    this.#channel.commandDone(this, task, status);
  }
}

export class TcpChannel implements IoChannel {
  readonly #ready = new ReadySet();
  readonly wakeFd: number = this.#ready.fd;
  readonly sharesCores: boolean;
  readonly hasConnection = true;
  /** Wakes who sleeps on `wakeFd` when a request ended in the event loop. */
  readonly #nudge = createEventFd();
  readonly #params: TcpChannelParams;
  readonly #context: ChannelContext;
  readonly #blockSizeBytes: number;
  readonly #table: PathTable;
  readonly #paths: readonly PathQueue[];
  readonly #block = new Float64Array(1);
  #active: PathQueue | null = null;
  /** Requests with something left to make commands of: a list. */
  #first: Task | null = null;
  #last: Task | null = null;
  #pool: Task | null = null;
  /** What the table was when it was last looked at. */
  #changes = -1;
  #isArmed = false;
  #isOpen = true;
  #ended = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(description: BdevDescription, context: ChannelContext) {
    const params = description.params as TcpChannelParams;
    this.#params = params;
    this.#context = context;
    this.#blockSizeBytes = description.blockSizeBytes;
    this.#table = new PathTable(params.table);
    this.#paths = Array.from({ length: PATHS_MAX }, (_, path) => new PathQueue(path, this));
    this.sharesCores = this.#paths.some(({ path }) => {
      const isUsed = this.#table.state(path) !== PathState.gone;
      return isUsed && isOnThisMachine({ host: this.#table.address(path), port: this.#table.port(path) });
    });
    this.#ready.add(this.#nudge);
    this.#ready.watch(this.#nudge, true, false);
    void this.#hearChanges();
  }

  submit(io: BdevIo): void {
    const task = this.#pool ?? new Task();
    this.#pool = task.next;
    task.io = io;
    task.issued = 0;
    task.retries = 0;
    task.status = IoStatus.success;
    task.isAgain = false;
    this.#append(task);
  }

  poll(): number {
    this.#ended = 0;
    if (this.#table.changes !== this.#changes) this.#look();
    this.#issue();
    for (const path of this.#paths) {
      const { queue } = path;
      if (queue === null) continue;
      queue.poll();
      if (queue.state === 'lost') this.#lost(path);
    }
    // What failed meanwhile, or was submitted by what ended.
    if (this.#first !== null) this.#issue();
    return this.#ended;
  }

  arm(): boolean {
    this.#isArmed = true;
    let isDue = this.#table.changes !== this.#changes;
    for (const { queue } of this.#paths) {
      if (queue === null) continue;
      this.#ready.watch(queue.fd, true, queue.isBlocked);
      isDue ||= queue.hasUnsent;
    }
    return isDue;
  }

  disarm(): void {
    this.#isArmed = false;
    readEventFd(this.#nudge);
    for (const { queue } of this.#paths) if (queue !== null) this.#ready.watch(queue.fd, false, false);
  }

  /** A flush by another controller of the subsystem need not count for what this one wrote. */
  letGo(): void {}

  update(): void {}

  close(): void {
    this.#isOpen = false;
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const path of this.#paths) this.#closeQueue(path);
    closeFd(this.#nudge);
    this.#ready.close();
  }

  pathReady(): void {
    this.#choose();
  }

  commandDone(path: PathQueue, task: Task, status: number): void {
    task.commands--;
    const code = statusCode(status);
    if (code !== Status.success) this.#failed(path, task, status, code);
    if (task.commands === 0) this.#settle(task);
  }

  /** A task without commands in flight: it is over, or to be done again, or has more to come. */
  #settle(task: Task): void {
    if (task.isAgain) {
      task.isAgain = false;
      task.issued = 0;
      this.#append(task);
    } else if (!task.isListed) this.#end(task);
  }

  #failed(path: PathQueue, task: Task, status: number, code: number): void {
    const isAccess =
      code === Status.accessInaccessible || code === Status.accessTransition || code === Status.accessPersistentLoss;
    if (isAccess) {
      // Until the main thread has asked again, and says so.
      path.access = Access.inaccessible;
      this.#table.doubtAccess(path.path);
      this.#choose();
    }
    const isWorthIt = isAccess || ((status & STATUS_DNR) === 0 && task.retries++ < RETRIES_MAX);
    if (isWorthIt && task.status === IoStatus.success) task.isAgain = true;
    else {
      task.status = IoStatus.failed;
      task.isAgain = false;
    }
    // What is left of it is not begun, for now or for good.
    this.#unlist(task);
  }

  #end(task: Task): void {
    const io = task.io as BdevIo;
    task.io = null;
    task.next = this.#pool;
    this.#pool = task;
    this.#ended++;
    io.complete(task.status);
  }

  #append(task: Task): void {
    task.isListed = true;
    task.next = null;
    if (this.#last === null) this.#first = task;
    else this.#last.next = task;
    this.#last = task;
  }

  #unlist(task: Task): void {
    if (!task.isListed) return;
    task.isListed = false;
    let before: Task | null = null;
    let one = this.#first;
    while (one !== task && one !== null) {
      before = one;
      one = one.next;
    }
    if (before === null) this.#first = task.next;
    else before.next = task.next;
    if (this.#last === task) this.#last = before;
  }

  /** Makes commands of what waits, as far as the active path takes them. */
  #issue(): void {
    while (this.#first !== null && this.#active?.isReady === true) {
      const task = this.#first;
      const io = task.io as BdevIo;
      if (io.countBlocks === 0 && io.type !== IoType.flush) {
        this.#unlist(task);
        this.#end(task);
        continue;
      }
      const queue = this.#active.queue as TcpQueue;
      const slot = queue.take();
      if (slot === NO_SLOT) return;
      this.#active.tasks[slot] = task;
      task.commands++;
      this.#build(queue, slot, task, io);
      if (task.issued >= io.countBlocks) this.#unlist(task);
    }
  }

  /** The next command of a task. */
  #build(queue: TcpQueue, slot: number, task: Task, io: BdevIo): void {
    const { nsid } = this.#params;
    const words = queue.words;
    const at = queue.commandWord(slot);
    const left = io.countBlocks - task.issued;
    this.#block[0] = io.offsetBlocks + task.issued;
    if (io.type === IoType.flush) {
      encodeFlush(words, at, 0, nsid);
      queue.submit(slot, Direction.none, 0, 0, 0, 0);
      task.issued = io.countBlocks;
    } else if (io.type === IoType.unmap) {
      const count = Math.min(left, RANGE_BLOCKS_MAX);
      const data = queue.slotData(slot);
      encodeDeallocate(words, at, 0, nsid);
      encodeRange(words, data / 4, this.#block, 0, count);
      queue.submit(slot, Direction.write, 0, 0, data, 16);
      task.issued += count;
    } else if (io.type === IoType.writeZeroes) {
      const count = Math.min(left, ZEROES_BLOCKS_MAX, this.#blocksMax());
      encodeBlocks(words, at, IoOpcode.writeZeroes, 0, nsid, this.#block, 0, count);
      queue.submit(slot, Direction.none, 0, 0, 0, 0);
      task.issued += count;
    } else {
      const count = Math.min(left, this.#blocksMax());
      const isWrite = io.type === IoType.write;
      encodeBlocks(words, at, isWrite ? IoOpcode.write : IoOpcode.read, 0, nsid, this.#block, 0, count);
      const direction = isWrite ? Direction.write : Direction.read;
      const skip = task.issued * this.#blockSizeBytes;
      queue.submit(slot, direction, io.iovFirst, io.iovCount, skip, count * this.#blockSizeBytes);
      task.issued += count;
    }
  }

  #blocksMax(): number {
    const path = (this.#active as PathQueue).path;
    const limit = this.#table.transferBytesMax(path);
    const bytes = limit === 0 ? PIECE_BYTES_MAX : Math.min(limit, PIECE_BYTES_MAX);
    return Math.max(1, Math.floor(bytes / this.#blockSizeBytes));
  }

  /** The main thread has news. */
  #look(): void {
    const table = this.#table;
    this.#changes = table.changes;
    let canHope = false;
    for (const path of this.#paths) {
      const state = table.state(path.path);
      const association = table.association(path.path);
      path.access = table.access(path.path, this.#params.place) || Access.optimized;
      const isOld = path.association !== association || state !== PathState.up;
      if (path.queue !== null && isOld) this.#dropQueue(path);
      if (path.queue === null && state === PathState.up && path.association !== association) this.#connect(path);
      if (state === PathState.up || state === PathState.down) canHope = true;
    }
    this.#choose();
    if (!canHope) this.#failAll();
  }

  #choose(): void {
    let best: PathQueue | null = null;
    for (const path of this.#paths) {
      if (!path.isReady || path.access > Access.nonOptimized) continue;
      if (best === null || path.access < best.access) best = path;
    }
    this.#active = best;
  }

  #connect(path: PathQueue): void {
    const table = this.#table;
    const { hostNqn, hostId, subsystemNqn, headerDigest, dataDigest } = this.#params;
    const entries = Math.min(table.entries(path.path), DEPTH_MAX + 1);
    const association = table.association(path.path);
    const queueId = table.takeQueue(path.path);
    // No queue is left: another channel's may become free.
    if (queueId === 0) {
      table.reportShort(path.path, association);
      this.#lookLater();
      return;
    }
    path.association = association;
    path.queueId = queueId;
    path.startedNs = clockNs();
    const controllerId = table.controllerId(path.path);
    try {
      path.queue = new TcpQueue(
        {
          address: table.address(path.path),
          port: table.port(path.path),
          headerDigest,
          dataDigest,
          connect: { queueId, controllerId, entries, keepAliveMs: 0, hostNqn, hostId, subsystemNqn },
          depth: entries - 1,
          capsuleDataBytes: table.capsuleDataBytes(path.path),
          arena: this.#context.arena,
        },
        path,
      );
    } catch {
      table.releaseQueue(path.path, association, queueId);
      table.reportBroken(path.path, association);
      return;
    }
    this.#ready.add(path.queue.fd);
    if (this.#isArmed) this.#ready.watch(path.queue.fd, true, true);
    this.#lookLater();
  }

  /** A queue ended by itself: so does its association. */
  #lost(path: PathQueue): void {
    const { association } = path;
    this.#dropQueue(path);
    this.#table.reportBroken(path.path, association);
    this.#choose();
  }

  /** Closes a queue; what was in flight on it is done again. */
  #dropQueue(path: PathQueue): void {
    this.#closeQueue(path);
    if (this.#active === path) this.#active = null;
    for (let slot = 0; slot < path.tasks.length; slot++) {
      const task = path.tasks[slot] as Task | null;
      if (task === null) continue;
      path.tasks[slot] = null;
      task.commands--;
      if (task.status === IoStatus.success) task.isAgain = true;
      this.#unlist(task);
      if (task.commands === 0) this.#settle(task);
    }
  }

  #closeQueue(path: PathQueue): void {
    if (path.queue === null) return;
    path.queue.close();
    path.queue = null;
    this.#table.releaseQueue(path.path, path.association, path.queueId);
  }

  /** No path will come back in time: nothing is held any more. */
  #failAll(): void {
    for (const path of this.#paths) if (path.queue !== null) this.#dropQueue(path);
    while (this.#first !== null) {
      const task = this.#first;
      assert(task.commands === 0, 'without a path nothing is in flight');
      this.#unlist(task);
      task.status = IoStatus.failed;
      this.#end(task);
    }
  }

  #pollUnasked(): void {
    const ended = this.poll();
    // Whoever sleeps hears of it; a queue that has become ready has its socket watched for answers.
    if (this.#isArmed && (this.arm() || ended > 0)) signalEventFd(this.#nudge);
  }

  /** Looks again soon, also when nobody polls. */
  #lookLater(): void {
    if (this.#timer !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (!this.#isOpen) return;
      this.#pollUnasked();
      const now = clockNs();
      let isBusy = false;
      for (const path of this.#paths) {
        const isConnecting = path.queue !== null && path.queue.state === 'connecting';
        if (isConnecting && now - path.startedNs > CONNECT_NS_MAX) this.#lost(path);
        else if (isConnecting) isBusy = true;
        const isUp = this.#table.state(path.path) === PathState.up;
        if (path.queue === null && isUp && path.association !== this.#table.association(path.path)) {
          isBusy = true;
          this.#connect(path);
        }
      }
      if (isBusy) this.#lookLater();
    }, CONNECT_POLL_MS);
  }

  async #hearChanges(): Promise<void> {
    while (this.#isOpen) {
      if (this.#table.changes !== this.#changes) this.#pollUnasked();
      await this.#table.changed(this.#changes);
    }
  }
}
