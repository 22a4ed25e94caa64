/** A bdev channel over a module that does what a test tells it to, and owners that keep what they were told. */
import type { BdevDescription } from '../../src/bdev/bdev.ts';
import {
  BdevIo,
  GUEST_IO_TYPES,
  type IoChannel,
  type IoOwner,
  IoStatus,
  type IoType,
  NO_WAKE_FD,
} from '../../src/bdev/bdev-io.ts';
import { createStats } from '../../src/bdev/bdev-stats.ts';

export const ALL_IO_TYPES = GUEST_IO_TYPES;

export function describeBdev(parts: Partial<BdevDescription> = {}): BdevDescription {
  return {
    id: 1,
    name: 'Test0',
    kind: 'test',
    blockSizeBytes: 512,
    blockCount: 100,
    hasWriteCache: false,
    ioTypes: ALL_IO_TYPES,
    unmapReadsZeroes: true,
    params: {},
    limits: null,
    bases: [],
    isRemoved: false,
    stats: createStats(1),
    ...parts,
  };
}

/** Keeps every request until the test completes it. */
export class HeldChannel implements IoChannel {
  readonly held: BdevIo[] = [];
  readonly updates: BdevDescription[] = [];
  wakeFd = NO_WAKE_FD;
  hasConnection = false;
  isArmed = false;
  polls = 0;
  closes = 0;
  /** When set, requests are completed with it inside `submit`. */
  immediateStatus: IoStatus | null = null;

  submit(io: BdevIo): void {
    if (this.immediateStatus === null) this.held.push(io);
    else io.complete(this.immediateStatus);
  }

  poll(): number {
    this.polls++;
    return 0;
  }

  arm(): boolean {
    this.isArmed = true;
    return false;
  }

  disarm(): void {
    this.isArmed = false;
  }

  update(description: BdevDescription): void {
    this.updates.push(description);
  }

  close(): void {
    this.closes++;
  }

  /** Completes the held request at `index`, by default the oldest. */
  complete(status: IoStatus = IoStatus.success, index = 0): void {
    const [io] = this.held.splice(index, 1);
    io?.complete(status);
  }
}

/** Remembers how its requests ended. */
export class RecordingOwner implements IoOwner {
  readonly ended: { type: IoType; status: IoStatus; tag: number }[] = [];

  ioDone(io: BdevIo): void {
    this.ended.push({ type: io.type, status: io.status, tag: io.tag });
  }

  /** A request of its own. */
  io(type: IoType, offsetBlocks = 0, countBlocks = 1, blockSizeBytes = 512): BdevIo {
    const io = new BdevIo(this);
    io.type = type;
    io.offsetBlocks = offsetBlocks;
    io.countBlocks = countBlocks;
    io.lengthBytes = countBlocks * blockSizeBytes;
    io.tag = offsetBlocks;
    return io;
  }

  get statuses(): IoStatus[] {
    return this.ended.map(({ status }) => status);
  }
}
