/**
 * Before guests wait: a session of nobody is taken over, and its rings start and stop in every reactor. JavaScript is
 * compiled when it first runs, which takes longer than what it does; what an upgrade runs while guests wait has run
 * once before by this.
 */
import { FdList } from '../base/fd-list.ts';
import { LimitedLog, SILENT } from '../base/log.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import { createStats } from '../bdev/bdev-stats.ts';
import { DAEMON_SHARER } from '../bdev/fair-shares.ts';
import { NullBdev } from '../bdev/modules/null/null.ts';
import { BdevEntry } from '../bdev/registry.ts';
import type { ReactorMode } from '../reactor/reactor.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { closeFd, createEventFd, type FdSet } from '../sys/events.ts';
import { createMemoryFile } from '../sys/mapping.ts';
import { socketPair } from '../sys/socket.ts';
import type { SessionDevice, VringStart } from '../vhost-user/device.ts';
import { Session } from '../vhost-user/session.ts';
import type { SessionRecord } from '../vhost-user/session-record.ts';
import { VirtioFeature } from '../virtio/features.ts';
import { PACKED_BASE_FIRST } from '../virtio/ring-shape.ts';
import { DEFAULT_COALESCING } from './call-coalescing.ts';
import { createQueueBlock } from './queue-counters.ts';
import { type StartCall, type StopCall, VringService } from './vring-service.ts';

const MEMORY_BYTES = 64 * 1024;
const RING_SIZE = 16;
const NO_PLACE = -1;
/** No other bdev or session has it. */
const NOBODYS_ID = -1;

export async function rehearse(reactors: readonly ReactorThread[], mode: ReactorMode, fdSet: FdSet): Promise<void> {
  const disk = new NullBdev({ name: '', blockCount: 1, blockSizeBytes: 512 });
  const bdev = new BdevEntry(NOBODYS_ID, disk, createStats(reactors.length)).describe();
  for (const isPacked of [false, true]) {
    const device = new Rehearsed(reactors, mode, bdev);
    const fds = new FdList();
    const [fd, peerFd] = socketPair();
    const { promise: ended, resolve: onEnd } = Promise.withResolvers<void>();
    const options = { device, log: SILENT, faults: new LimitedLog(SILENT), peerPid: 0, onEnd };
    const session = new Session(fd, fdSet, options);
    try {
      await session.load(recordOf(isPacked, reactors.length, fds), fds);
      await session.thaw();
    } finally {
      await session.close();
      await ended;
      closeFd(peerFd);
    }
  }
}

/** One queue in each reactor. */
class Rehearsed implements SessionDevice {
  readonly features = 0n;
  readonly queueCount: number;
  readonly config = null;
  readonly #reactors: readonly ReactorThread[];
  readonly #mode: ReactorMode;
  readonly #bdev: BdevDescription;

  constructor(reactors: readonly ReactorThread[], mode: ReactorMode, bdev: BdevDescription) {
    this.queueCount = reactors.length;
    this.#reactors = reactors;
    this.#mode = mode;
    this.#bdev = bdev;
  }

  setFeatures(): void {}

  async startVring(vring: VringStart): Promise<void> {
    const params = { isReadonly: false, hasRanges: true, isWriteThrough: false, serial: '' };
    const call: StartCall = {
      sessionId: NOBODYS_ID,
      controller: '',
      vring,
      device: { kind: 'blk', bdev: this.#bdev, isDetached: false, params },
      counters: createQueueBlock(),
      settings: { mode: this.#mode, coalescing: DEFAULT_COALESCING, weight: DAEMON_SHARER.weight },
      sharerNumber: DAEMON_SHARER.number,
      isHeld: false,
    };
    await this.#reactors[vring.index]?.call(VringService.start, call);
  }

  async stopVring(index: number): Promise<number> {
    const call: StopCall = { sessionId: NOBODYS_ID, index, withinMs: undefined, leaves: false };
    return (await this.#reactors[index]?.call(VringService.stop, call)) as number;
  }

  async setVringCall(): Promise<void> {}
  reset(): void {}
  ended(): void {}
}

/** A session as if it had been handed over: a page of zeroes for each ring, in which there is nothing to do. */
function recordOf(isPacked: boolean, rings: number, fds: FdList): SessionRecord {
  const memoryFd = createMemoryFile('rehearsal', MEMORY_BYTES);
  const features = [VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX, ...(isPacked ? [VirtioFeature.RING_PACKED] : [])];
  const region = { guestAddress: 0, sizeBytes: MEMORY_BYTES, userAddress: 0, mmapOffset: 0 };
  const indexes = Array.from({ length: rings }, (_, index) => index);
  return {
    connection: { fd: NO_PLACE, received: '', receivedFds: [], unsent: [] },
    peerPid: 0,
    features: `${features.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n)}`,
    protocolFeatures: '0',
    status: '0',
    memory: [{ ...region, fd: fds.put(memoryFd) }],
    inflight: null,
    dirtyLog: { place: null, fileFd: NO_PLACE, fd: NO_PLACE },
    requestsFd: NO_PLACE,
    vrings: indexes.map((index) => ({
      index,
      size: RING_SIZE,
      base: isPacked ? PACKED_BASE_FIRST : 0,
      placeBefore: null,
      addresses: { descriptor: 0, available: 4096, used: 8192 },
      usedLogAddress: null,
      isStarted: true,
      isEnabled: true,
      fds: { kickFd: fds.put(createEventFd()), callFd: fds.put(createEventFd()), errFd: NO_PLACE },
    })),
    running: indexes,
  };
}
