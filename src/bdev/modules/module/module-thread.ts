/**
 * Entry of the thread of a disk in TypeScript: loads the user's file, and gives it the requests of every reactor.
 * Whatever the user's code throws fails a request, or is a line in the log; only its end ends the thread.
 */
import { registerHooks } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../../../base/assert.ts';
import { FdSet } from '../../../sys/events.ts';
import { MappingViews } from '../../../sys/mapping.ts';
import { SegmentReader } from '../../../sys/segment-reader.ts';
import { nameThread } from '../../../sys/thread.ts';
import { IoType } from '../../bdev-io.ts';
import type { Disk, DiskDefinition } from './define-disk.ts';
import type { FromModule, Geometry, ModuleStart, ToModule } from './messages.ts';
import { type ModuleRing, ModuleRings } from './module-ring.ts';

const BLOCK_SIZES = [512, 1024, 2048, 4096];
const BLOCK_BYTES_DEFAULT = 512;
const ZEROES_BYTES_MAX = 256 * 1024;
/** Looks at all rings, under a load that never ends, until the event loop has its turn. */
const ROUNDS_PER_TURN = 16;
const OWN_PACKAGE = new URL(`../../../index${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url).href;
const TYPE_NAMES = Object.fromEntries(Object.entries(IoType).map(([name, type]) => [type, name]));

assert(parentPort !== null, 'a disk runs in a worker thread');
const port = parentPort;
const start = workerData as ModuleStart;
const tell = (message: FromModule): void => port.postMessage(message);

/** A ring, and the memory of its reactor's segment lists. */
class Line {
  readonly ring: ModuleRing;
  #reader: SegmentReader | null = null;
  #address = 0;

  constructor(ring: ModuleRing) {
    this.ring = ring;
  }

  /** Of the reactor that has the ring now. */
  get reader(): SegmentReader {
    const { arenaAddress, arenaCapacity } = this.ring;
    if (this.#reader === null || this.#address !== arenaAddress) {
      this.#reader?.close();
      this.#reader = new SegmentReader({ address: arenaAddress, capacity: arenaCapacity });
      this.#address = arenaAddress;
    }
    return this.#reader;
  }
}

class DiskThread {
  readonly #disk: Disk;
  readonly #rings: ModuleRings;
  readonly #lines: readonly Line[];
  readonly #fds = new FdSet();
  #underWay = 0;
  #isClosed = false;
  #onIdle: () => void = () => {};

  constructor(disk: Disk, rings: ModuleRings) {
    this.#disk = disk;
    this.#rings = rings;
    this.#lines = rings.all().map((ring) => new Line(ring));
  }

  /** Takes what waits already, and everything that comes. */
  #serve(): void {
    this.#fds.add(this.#rings.doorbellFd, () => this.#takeAll(), { edge: true });
    this.#takeAll();
  }

  async hear(message: ToModule): Promise<void> {
    if (message.kind === 'serve') {
      this.#serve();
      return;
    }
    try {
      if (message.kind === 'resize') await this.#disk.resize?.(message.sizeBytes);
      else await this.#close();
      tell({ kind: 'answer', id: message.id, error: null });
    } catch (error) {
      tell({ kind: 'answer', id: message.id, error: textOf(error) });
    }
  }

  async #close(): Promise<void> {
    this.#isClosed = true;
    this.#fds.close();
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    await this.#disk.close?.();
  }

  #takeAll(): void {
    if (this.#isClosed) return;
    this.#rings.awake();
    for (let rounds = 0; rounds < ROUNDS_PER_TURN; rounds++) {
      if (this.#takeRound() > 0) continue;
      // Whoever submits from here on rings; what came before is seen by one more look.
      this.#rings.sleep();
      if (this.#takeRound() === 0) return;
    }
    // The event loop has its turn, and what the disk waits for in it.
    setImmediate(() => this.#takeAll());
  }

  #takeRound(): number {
    let taken = 0;
    for (const line of this.#lines) {
      for (let slot = line.ring.take(); slot >= 0; slot = line.ring.take()) {
        taken++;
        this.#start(line, slot);
      }
    }
    return taken;
  }

  #start(line: Line, slot: number): void {
    const { ring } = line;
    const type = ring.type[slot] as IoType;
    const views = new MappingViews();
    this.#underWay++;
    let outcome: void | Promise<void>;
    try {
      outcome = this.#carryOut(line, slot, type, views);
    } catch (error) {
      this.#end(ring, slot, views, error ?? new Error('nothing was thrown'));
      return;
    }
    if (outcome instanceof Promise || typeof (outcome as { then?: unknown } | undefined)?.then === 'function') {
      (outcome as Promise<void>).then(
        () => this.#end(ring, slot, views),
        (error: unknown) => this.#end(ring, slot, views, error ?? new Error('nothing was thrown')),
      );
    } else this.#end(ring, slot, views);
  }

  #carryOut({ ring, reader }: Line, slot: number, type: IoType, views: MappingViews): void | Promise<void> {
    const disk = this.#disk;
    const offset = ring.offsetBytes[slot] as number;
    const length = ring.lengthBytes[slot] as number;
    if (type === IoType.flush) return disk.flush?.();
    if (type === IoType.unmap) return disk.discard?.(offset, length);
    if (type === IoType.writeZeroes) return this.#writeZeroes(offset, length);
    const buffers = reader.open(views, ring.iovFirst[slot] as number, ring.iovCount[slot] as number, length);
    return type === IoType.read ? disk.read(offset, buffers) : disk.write?.(offset, buffers);
  }

  #writeZeroes(offset: number, length: number): void | Promise<void> {
    if (this.#disk.writeZeroes !== undefined) return this.#disk.writeZeroes(offset, length);
    return this.#writeInPieces(offset, length);
  }

  async #writeInPieces(offset: number, length: number): Promise<void> {
    const zeroes = new Uint8Array(Math.min(length, ZEROES_BYTES_MAX));
    for (let done = 0; done < length; done += zeroes.length) {
      await this.#disk.write?.(offset + done, [zeroes.subarray(0, length - done)]);
    }
  }

  /** The buffers are taken back first: from the completion on they are the guest's again. */
  #end(ring: ModuleRing, slot: number, views: MappingViews, error?: unknown): void {
    views.close();
    if (error !== undefined) {
      const type = TYPE_NAMES[ring.type[slot] as number] ?? '';
      const where = `${ring.lengthBytes[slot]} bytes at ${ring.offsetBytes[slot]}`;
      tell({ kind: 'fault', key: type, message: `${type} of ${where} failed: ${stackOf(error)}` });
    }
    ring.complete(slot, error === undefined);
    if (--this.#underWay === 0) this.#onIdle();
  }
}

/** In the user's file `ringhost` is this package, wherever the file is and whatever is installed there. */
function provideOwnPackage(): void {
  registerHooks({
    resolve: (specifier, context, next) =>
      specifier === 'ringhost' ? { url: OWN_PACKAGE, shortCircuit: true } : next(specifier, context),
  });
}

async function loadDefinition(): Promise<DiskDefinition> {
  provideOwnPackage();
  const { default: definition } = (await import(start.file)) as { default?: Partial<DiskDefinition> };
  if (typeof definition?.setUp !== 'function') {
    throw new Error('its default export is no disk: write "export default defineDisk(…)"');
  }
  return definition as DiskDefinition;
}

function geometryOf(disk: Disk): Geometry {
  const { size, blockSize = BLOCK_BYTES_DEFAULT } = disk;
  if (typeof disk.read !== 'function') throw new Error('a disk has a function "read"');
  if (!BLOCK_SIZES.includes(blockSize)) throw new Error(`blockSize is ${blockSize}: choose ${BLOCK_SIZES.join(', ')}`);
  if (!Number.isSafeInteger(size) || size <= 0 || size % blockSize !== 0) {
    throw new Error(`size is ${size}: give a multiple of the block size, ${blockSize} bytes`);
  }
  return {
    sizeBytes: size,
    blockSizeBytes: blockSize,
    isVolatile: disk.isVolatile === true,
    canWrite: disk.write !== undefined,
    canFlush: disk.flush !== undefined && disk.write !== undefined,
    canDiscard: disk.discard !== undefined && disk.write !== undefined,
    canResize: disk.resize !== undefined,
  };
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

async function main(): Promise<void> {
  nameThread('disk');
  // What is thrown outside of a request has no request to fail: the disk, and what it holds, goes on.
  process.on('uncaughtException', (error) => {
    tell({ kind: 'fault', key: 'uncaught', message: `thrown outside of a request: ${stackOf(error)}` });
  });
  let isFinal = true;
  try {
    const definition = await loadDefinition();
    isFinal = false;
    const { name, options } = start;
    const disk = await definition.setUp(options, { name, log: (message) => tell({ kind: 'log', message }) });
    isFinal = true;
    const geometry = geometryOf(disk);
    const thread = new DiskThread(disk, new ModuleRings(start.rings));
    port.on('message', (message: ToModule) => void thread.hear(message));
    tell({ kind: 'ready', geometry });
  } catch (error) {
    tell({ kind: 'failed', message: textOf(error), stack: stackOf(error), isFinal });
  }
}

await main();
