/**
 * The limit as a process of its own: sessions by Ringhost's own protocol code, rings by the native loop that does
 * nothing but the ring and the copy (native/bench/limit.c). Serves a RAM disk and a null disk as vhost-user-blk until
 * its input ends.
 *
 *   node bench/limit-main.ts --core N --disk-mib N --ram SOCKET --null SOCKET [--way N]
 *
 * Without a way to copy it takes the quickest of this machine.
 */
import { parseArgs } from 'node:util';
import { checkErrno } from '../src/base/errors.ts';
import { LimitedLog, SILENT } from '../src/base/log.ts';
import { FdSet } from '../src/sys/events.ts';
import { acceptUnix, listenUnix } from '../src/sys/socket.ts';
import { pinToCore } from '../src/sys/thread.ts';
import type { SessionConfig, SessionDevice, VringStart } from '../src/vhost-user/device.ts';
import { maskOf } from '../src/vhost-user/messages.ts';
import { Session } from '../src/vhost-user/session.ts';
import { BlkConfig, BlkFeature, SECTOR_BYTES } from '../src/virtio/blk.ts';
import { VirtioFeature } from '../src/virtio/features.ts';
import { benchNative, pack, quickestWay, VRING } from './native.ts';

const QUEUES_MAX = 4;
const MIB = 2 ** 20;
const FEATURES = maskOf(
  BlkFeature.MQ,
  BlkFeature.BLK_SIZE,
  VirtioFeature.VERSION_1,
  VirtioFeature.INDIRECT_DESC,
  VirtioFeature.EVENT_IDX,
);

class LimitDevice implements SessionDevice {
  readonly features = FEATURES;
  readonly queueCount = QUEUES_MAX;
  readonly config: SessionConfig;
  /** Its first place among the native loop's queues. */
  readonly #placeFirst: number;
  readonly #disk: number;
  readonly #way: number;

  constructor(placeFirst: number, disk: number, diskBytes: number, way: number) {
    this.#placeFirst = placeFirst;
    this.#disk = disk;
    this.#way = way;
    const none = Object.fromEntries(Object.keys(BlkConfig.decode(new Uint8Array(BlkConfig.size))).map((f) => [f, 0]));
    const bytes = BlkConfig.encode({
      ...(none as ReturnType<typeof BlkConfig.decode>),
      capacitySectors: diskBytes / SECTOR_BYTES,
      blockSizeBytes: SECTOR_BYTES,
      queueCount: QUEUES_MAX,
    });
    this.config = { read: () => bytes, write: async () => {} };
  }

  setFeatures(): void {}

  async startVring(vring: VringStart): Promise<void> {
    const fields = pack(VRING, {
      descriptors: vring.descriptorAddress,
      available: vring.availableAddress,
      used: vring.usedAddress,
      size: vring.size,
      nextAvail: vring.base,
      hasEventIdx: vring.hasEventIdx ? 1 : 0,
      callFd: vring.callFd,
      disk: this.#disk,
      way: this.#way,
    });
    const regions = Float64Array.from(
      vring.regions.flatMap(({ guestAddress, sizeBytes, hostAddress }) => [guestAddress, sizeBytes, hostAddress]),
    );
    benchNative.limitAdd(this.#placeFirst + vring.index, fields, regions, vring.regions.length);
  }

  async stopVring(index: number): Promise<number> {
    return benchNative.limitRemove(this.#placeFirst + index);
  }

  async setVringCall(index: number, callFd: number): Promise<void> {
    benchNative.limitCall(this.#placeFirst + index, callFd);
  }

  reset(): void {}

  ended(): void {}
}

const { values: options } = parseArgs({
  options: {
    core: { type: 'string', default: '0' },
    'disk-mib': { type: 'string', default: '256' },
    ram: { type: 'string', default: '' },
    null: { type: 'string', default: '' },
    way: { type: 'string' },
  },
});

pinToCore(Number(options.core));
const diskBytes = Number(options['disk-mib']) * MIB;
const way = options.way === undefined ? quickestWay(diskBytes) : Number(options.way);
const disk = checkErrno(benchNative.limitDisk(diskBytes), 'no memory for the disk');
checkErrno(benchNative.limitStart(), 'cannot start the thread');
const fdSet = new FdSet();
const sessions = new Set<Session>();
const devices = [
  { path: options.ram, device: new LimitDevice(0, disk, diskBytes, way) },
  { path: options.null, device: new LimitDevice(QUEUES_MAX, 0, diskBytes, way) },
];
for (const { path, device } of devices) {
  const listener = listenUnix(path);
  fdSet.add(listener, () => {
    for (let fd = acceptUnix(listener); fd >= 0; fd = acceptUnix(listener)) {
      const faults = new LimitedLog(SILENT);
      const onEnd = (): void => void sessions.delete(session);
      const session = new Session(fd, fdSet, { device, log: SILENT, faults, peerPid: 0, onEnd });
      sessions.add(session);
    }
  });
}
process.stdin.on('end', () => process.exit()).resume();
