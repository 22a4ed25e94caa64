/**
 * A SCSI target over a RAM disk, and an initiator whose buffers are native memory between guard bytes: runs CDBs and
 * says what came back.
 */
import type { BdevDescription } from '../../src/bdev/bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, type IoType, NO_WAKE_FD } from '../../src/bdev/bdev-io.ts';
import { BdevChannel } from '../../src/bdev/channel.ts';
import { MallocChannel } from '../../src/bdev/modules/malloc/malloc-channel.ts';
import { BouncePool } from '../../src/scsi/bounce-pool.ts';
import { ScsiTarget, type TargetOptions } from '../../src/scsi/target.ts';
import { ScsiTask, type TaskTransport } from '../../src/scsi/task.ts';
import type { UnitOptions } from '../../src/scsi/unit-state.ts';
import { IovArena, NO_LIST } from '../../src/sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../src/sys/mapping.ts';
import { ALL_IO_TYPES, describeBdev } from './bdev-rig.ts';

const UUID = '12345678-9abc-4def-8123-456789abcdef';
const GUARD_BYTES = 64;
const GUARD = 0xee;
/** Polls after which a task counts as hanging. */
const POLLS_MAX = 10_000;

/** A RAM disk's channel that says what it was asked for, and fails or holds on demand. */
export class TestDisk implements IoChannel {
  readonly log: { type: IoType; offset: number; count: number }[] = [];
  /** Types whose requests fail. */
  readonly failing = new Set<IoType>();
  /** Keeps requests back until it is false again. */
  isHolding = false;
  /** Completes inside `submit`. */
  isImmediate = false;
  readonly wakeFd = NO_WAKE_FD;
  readonly bytes: Uint8Array;
  readonly memory: Mapping;
  readonly #views = new MappingViews();
  readonly #inner: MallocChannel;
  #held: BdevIo[] = [];

  constructor(sizeBytes: number, blockSizeBytes: number, arena: IovArena) {
    this.memory = Mapping.anonymous(sizeBytes);
    this.bytes = new Uint8Array(this.#views.view(this.memory, 0, sizeBytes));
    const description = describeBdev({ blockSizeBytes, params: { address: this.memory.address } });
    this.#inner = new MallocChannel(description, { arena });
  }

  arm(): boolean {
    return this.#inner.arm();
  }

  disarm(): void {}

  submit(io: BdevIo): void {
    this.log.push({ type: io.type, offset: io.offsetBlocks, count: io.countBlocks });
    if (this.isHolding) this.#held.push(io);
    else if (this.failing.has(io.type)) io.complete(IoStatus.failed);
    else {
      this.#inner.submit(io);
      if (this.isImmediate) this.poll();
    }
  }

  poll(): number {
    if (!this.isHolding) {
      const held = this.#held;
      this.#held = [];
      for (const io of held) this.#inner.submit(io);
    }
    return this.#inner.poll();
  }

  update(): void {}

  close(): void {
    this.#inner.close();
    this.#views.close();
    this.memory.close();
  }
}

export interface RigOptions extends TargetOptions {
  readonly blockSizeBytes?: number;
  readonly blockCount?: number;
  readonly hasWriteCache?: boolean;
  readonly unit?: Partial<UnitOptions>;
  /** Bounce buffers. */
  readonly buffers?: number;
  readonly bufferBytes?: number;
  /** Initiator's buffers: bytes each. */
  readonly dataBytes?: number;
  /** Leave POWER ON pending. */
  readonly keepsAttention?: boolean;
}

export interface RunOptions {
  /** Bytes of data-in. */
  readonly in?: number;
  readonly out?: Uint8Array;
  readonly lun?: number;
  readonly nexus?: number;
  readonly attribute?: number;
  readonly tag?: number;
}

/** How a task ended. */
export interface Answer {
  readonly response: number;
  readonly status: number;
  /** "5/24/00", or "" without sense. */
  readonly sense: string;
  readonly senseBytes: Uint8Array;
  /** What data-in was filled with. */
  readonly data: Uint8Array;
  readonly transferred: number;
  readonly residual: number;
}

/** A task that may still run. */
export class Running {
  readonly task: ScsiTask;
  answer: Answer | null = null;
  /** Its place in the order of ends. */
  endedAs = -1;

  constructor(task: ScsiTask) {
    this.task = task;
  }
}

export class ScsiRig implements TaskTransport {
  readonly arena = new IovArena(64, 4);
  readonly bounce: BouncePool;
  readonly target: ScsiTarget;
  readonly disk: TestDisk;
  readonly channel: BdevChannel;
  readonly blockSize: number;
  /** `mapData` finds no list while it is true. */
  isStarved = false;
  /** Tasks that found none. */
  readonly starved: Running[] = [];
  readonly #running = new Map<ScsiTask, Running>();
  readonly #lists = new Map<ScsiTask, number[]>();
  readonly #dataBytes: number;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  readonly #bytes: Uint8Array;
  #ends = 0;

  constructor(options: RigOptions = {}) {
    const blockSizeBytes = options.blockSizeBytes ?? 512;
    const blockCount = options.blockCount ?? 2048;
    this.blockSize = blockSizeBytes;
    this.#dataBytes = options.dataBytes ?? 256 * 1024;
    this.#memory = Mapping.anonymous(2 * this.#dataBytes + 3 * GUARD_BYTES);
    this.#bytes = new Uint8Array(this.#views.view(this.#memory, 0, this.#memory.lengthBytes));
    this.bounce = new BouncePool(this.arena, options.buffers ?? 2, options.bufferBytes ?? 128 * 1024);
    this.disk = new TestDisk(blockSizeBytes * blockCount, blockSizeBytes, this.arena);
    const description = describeBdev({ blockSizeBytes, blockCount, hasWriteCache: options.hasWriteCache ?? false });
    this.channel = this.openChannel(description);
    this.target = new ScsiTarget(options);
    this.target.addLun(0, this.unitOptions(options.unit));
    if (options.keepsAttention !== true) this.clearAttention(options.nexusCount ?? 1);
  }

  /** Another channel of the same disk. */
  openChannel(description: BdevDescription): BdevChannel {
    return new BdevChannel(description, () => this.disk, { arena: this.arena }, 0);
  }

  unitOptions(parts: Partial<UnitOptions> = {}): UnitOptions {
    return {
      channel: this.channel,
      bounce: this.bounce,
      uuid: UUID,
      productName: 'Malloc disk',
      ioTypes: ALL_IO_TYPES,
      unmapReadsZeroes: true,
      ...parts,
    };
  }

  /** TEST UNIT READY until it is good, for every unit and nexus. */
  clearAttention(nexusCount = 1): void {
    for (const lun of this.target.lunNumbers) {
      for (let nexus = 0; nexus < nexusCount; nexus++)
        while (this.run('00 00 00 00 00 00', { lun, nexus }).status !== 0);
    }
  }

  // ---- the initiator ------------------------------------------------------------------------------------------------

  /** Runs one CDB to its end. */
  run(cdb: string | ArrayLike<number>, options: RunOptions = {}): Answer {
    const running = this.start(cdb, options);
    this.settle();
    if (running.answer === null) throw new Error(`the task does not end: ${cdb}`);
    return running.answer;
  }

  /** Starts one CDB. Only one at a time may use the data buffers. */
  start(cdb: string | ArrayLike<number>, options: RunOptions = {}): Running {
    const task = new ScsiTask(this);
    const bytes = typeof cdb === 'string' ? cdb.split(' ').map((digits) => Number.parseInt(digits, 16)) : cdb;
    setCdb(task, bytes);
    task.lun = options.lun ?? 0;
    task.nexus = options.nexus ?? 0;
    task.attribute = options.attribute ?? 0;
    task.tagLow = options.tag ?? 0;
    task.dataInBytes = options.in ?? 0;
    task.dataOutBytes = options.out?.length ?? 0;
    this.#bytes.fill(GUARD);
    if (options.out !== undefined) this.#bytes.set(options.out, this.#outAt);
    const running = new Running(task);
    this.#running.set(task, running);
    this.target.execute(task);
    return running;
  }

  /** Polls the disk until nothing moves. */
  settle(): void {
    for (let i = 0; i < POLLS_MAX; i++) if (this.channel.poll() === 0) return;
    throw new Error('the disk is never done');
  }

  /** Throws when a byte outside the buffers of the last task was written. */
  checkGuards(dataIn: number, dataOut: Uint8Array | undefined): void {
    const inAt = this.#inAt;
    const outAt = this.#outAt;
    for (let i = 0; i < this.#bytes.length; i++) {
      const isIn = i >= inAt && i < inAt + dataIn;
      const expected = dataOut !== undefined && i >= outAt && i < outAt + dataOut.length ? dataOut[i - outAt] : GUARD;
      if (!isIn && this.#bytes[i] !== expected) throw new Error(`byte ${i} outside the buffers was written`);
    }
  }

  get #inAt(): number {
    return GUARD_BYTES;
  }

  get #outAt(): number {
    return this.#dataBytes + 2 * GUARD_BYTES;
  }

  // ---- TaskTransport ------------------------------------------------------------------------------------------------

  writeDataIn(task: ScsiTask, source: Uint8Array, offset: number, lengthBytes: number): number {
    const length = Math.max(0, Math.min(lengthBytes, task.dataInBytes - offset));
    this.#bytes.set(source.subarray(0, length), this.#inAt + offset);
    return length;
  }

  readDataOut(task: ScsiTask, target: Uint8Array, offset: number, lengthBytes: number): number {
    const length = Math.max(0, Math.min(lengthBytes, task.dataOutBytes - offset));
    const at = this.#outAt + offset;
    target.set(this.#bytes.subarray(at, at + length));
    return length;
  }

  mapData(task: ScsiTask, io: BdevIo, isRead: boolean, offset: number, lengthBytes: number): number {
    if (this.isStarved) {
      const running = this.#running.get(task);
      if (running !== undefined) this.starved.push(running);
      return -2;
    }
    if (offset + lengthBytes > (isRead ? task.dataInBytes : task.dataOutBytes)) return -1;
    const list = this.arena.takeShort();
    if (list === NO_LIST) throw new Error('the rig has no segment list left');
    // In two pieces, so that nobody takes the buffer for one segment.
    const at = this.#memory.address + (isRead ? this.#inAt : this.#outAt) + offset;
    const first = Math.min(lengthBytes, 200);
    this.arena.set(list, at, first);
    this.arena.set(list + 1, at + first, lengthBytes - first);
    io.iovFirst = list;
    io.iovCount = lengthBytes > first ? 2 : 1;
    const lists = this.#lists.get(task) ?? [];
    lists.push(list);
    this.#lists.set(task, lists);
    return 0;
  }

  taskWithdrawn(): void {}

  taskDone(task: ScsiTask): void {
    const running = this.#running.get(task);
    if (running === undefined) throw new Error('a task ended twice');
    this.#running.delete(task);
    for (const list of this.#lists.get(task) ?? []) this.arena.release(list);
    this.#lists.delete(task);
    running.endedAs = this.#ends++;
    const isIn = task.dataInBytes > 0;
    running.answer = {
      response: task.response,
      status: task.status,
      sense: senseText(task),
      senseBytes: task.sense.slice(0, task.senseLength),
      data: this.#bytes.slice(this.#inAt, this.#inAt + (isIn ? task.transferredBytes : 0)),
      transferred: task.transferredBytes,
      residual: task.residualBytes,
    };
  }

  close(): void {
    if (this.#running.size > 0) throw new Error('tasks are in flight when the rig is closed');
    if (!this.channel.isRemoved) this.channel.close();
    this.bounce.close();
    this.#views.close();
    this.#memory.close();
    this.arena.close();
  }
}

/** As a transport does it. */
function setCdb(task: ScsiTask, bytes: ArrayLike<number>): void {
  const words = new Int32Array(4);
  const cdb = new Uint8Array(words.buffer);
  for (let i = 0; i < Math.min(bytes.length, cdb.length); i++) cdb[i] = bytes[i] as number;
  [task.cdb0, task.cdb1, task.cdb2, task.cdb3] = words as unknown as [number, number, number, number];
}

/** So many bytes of 0, for expectations. */
export function zeros(count: number): number[] {
  return Array.from({ length: count }, () => 0);
}

/** Key, ASC and ASCQ of either format. */
function senseText(task: ScsiTask): string {
  if (task.senseLength === 0) return '';
  const isFixed = ((task.sense[0] as number) & 0x7f) === 0x70;
  const at = isFixed ? [2, 12, 13] : [1, 2, 3];
  const [key, asc, ascq] = at.map((index) => task.sense[index] as number) as [number, number, number];
  return `${(key & 0xf).toString(16)}/${hex(asc)}/${hex(ascq)}`;
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0').toUpperCase();
}
