/**
 * A file or block device of the host as a disk: its bytes as they are, no format is looked for. `bdev_aio_create` and
 * `bdev_uring_create` make the same thing; what differs is what SPDK's clients see of it.
 *
 * The file is opened with O_DIRECT where it takes transfers of the disk's block size; otherwise it goes through the
 * page cache, and flushes make it stable. docs/file-disks.md says what follows from that.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { errnoName, strerror, TargetError } from '../../../base/errors.ts';
import { type DiskInfo, diskInfo } from '../../../sys/disk-file.ts';
import { closeFd } from '../../../sys/events.ts';
import { lockFile, lockFileShared } from '../../../sys/file-lock.ts';
import type { Bdev, BdevConfig, Handover } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import type { FileChannelParams } from './file-channel.ts';

const { O_DIRECT, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;

const BLOCK_BYTES_MIN = 512;
const BLOCK_BYTES_MAX = 4096;

/** Whose name and look the bdev has. */
export type FileFlavor = 'aio' | 'uring';

export interface FileParams {
  readonly flavor: FileFlavor;
  readonly name: string;
  readonly filename: string;
  /** Default: the device's logical block size, 512 for a file. */
  readonly blockSizeBytes?: number | undefined;
  readonly isReadonly?: boolean | undefined;
  /** Discard and write zeroes are offered. Default true. */
  readonly hasRanges?: boolean | undefined;
  /** Default: made of the path, so that it stays the same. */
  readonly uuid?: string | undefined;
  /** O_DIRECT. Default: where the file takes it. */
  readonly isDirect?: boolean | undefined;
  /** Others may have the file too. Default false. */
  readonly isUnlocked?: boolean | undefined;
  /** Completions are polled from the device. */
  readonly isPolled?: boolean | undefined;
  /** A kernel thread on this core submits. */
  readonly sqPollCore?: number | undefined;
  /** The file as the daemon before has it open, with its lock. */
  readonly inheritedFd?: number | undefined;
}

const PRODUCT_NAMES: Readonly<Record<FileFlavor, string>> = { aio: 'AIO disk', uring: 'URING bdev' };

export class FileBdev implements Bdev {
  readonly kind = 'file';
  readonly flavor: FileFlavor;
  readonly productName: string;
  readonly name: string;
  readonly filename: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  readonly isDirect: boolean;
  blockCount: number;
  readonly #params: FileParams;
  readonly #channel: FileChannelParams;

  /**
   * Opens the file. Throws what open(2) says, `EBUSY` when another has it, and `EINVAL` for what cannot be a disk or
   * cannot be served as asked.
   */
  constructor(params: FileParams) {
    this.#params = params;
    this.flavor = params.flavor;
    this.productName = PRODUCT_NAMES[params.flavor];
    this.name = params.name;
    this.filename = params.filename;
    this.uuid = params.uuid?.toLowerCase() ?? uuidOfPath(params.filename);
    this.ioTypes =
      params.isReadonly === true
        ? [IoType.read, IoType.flush]
        : params.hasRanges === false
          ? [IoType.read, IoType.write, IoType.flush]
          : [IoType.read, IoType.write, IoType.flush, IoType.unmap, IoType.writeZeroes];
    const { inheritedFd } = params;
    const open = inheritedFd === undefined ? openDisk(params) : inheritDisk(params, inheritedFd);
    const { fd, stat, info, isDirect, blockSizeBytes } = open;
    this.isDirect = isDirect;
    this.blockSizeBytes = blockSizeBytes;
    this.physicalBlockSizeBytes = Math.max(blockSizeBytes, physicalBlockBytes(stat, info));
    this.blockCount = Math.floor(info.sizeBytes / blockSizeBytes);
    this.hasWriteCache = !info.isInMemory;
    this.#channel = {
      fd,
      isDirect,
      memoryAlignment: isDirect ? info.memoryAlignment : 1,
      offsetAlignment: isDirect ? info.offsetAlignment : 1,
      isBlockDevice: stat.isBlockDevice(),
      isAtHand: info.isInMemory && !hasSwap(),
      isPolled: params.isPolled ?? false,
      sqPollCore: params.sqPollCore ?? -1,
    };
  }

  /** What the file's size is now, in blocks. A part of a block at its end is not used. */
  measure(): number {
    return Math.floor(diskInfo(this.#channel.fd).sizeBytes / this.blockSizeBytes);
  }

  params(): FileChannelParams {
    return this.#channel;
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { filename, isDirect } = this;
    const additions = { direct: isDirect, iopoll: this.#channel.isPolled };
    if (this.flavor === 'uring') return { uring: { filename, ...additions } };
    return {
      aio: {
        filename,
        block_size_override: this.#params.blockSizeBytes !== undefined,
        readonly: this.#params.isReadonly ?? false,
        fallocate: this.#params.hasRanges ?? true,
        ...additions,
      },
    };
  }

  toConfig(): BdevConfig {
    const { name, filename, blockSizeBytes, uuid } = this;
    const { isReadonly, hasRanges, isDirect, isUnlocked, isPolled, sqPollCore } = this.#params;
    const params = {
      name,
      filename,
      block_size: blockSizeBytes,
      uuid,
      ...(isReadonly === undefined ? {} : { readonly: isReadonly }),
      ...(hasRanges === undefined ? {} : { fallocate: hasRanges }),
      ...(isDirect === undefined ? {} : { direct: isDirect }),
      ...(isUnlocked === undefined ? {} : { unlocked: isUnlocked }),
      ...(isPolled === undefined ? {} : { iopoll: isPolled }),
      ...(sqPollCore === undefined ? {} : { sqpoll_core: sqPollCore }),
    };
    return { method: `bdev_${this.flavor}_create`, params };
  }

  handOver(): Handover {
    return { fds: [this.#channel.fd] };
  }

  async destruct(): Promise<void> {
    closeFd(this.#channel.fd);
  }
}

interface OpenDisk {
  readonly fd: number;
  readonly stat: Stats;
  readonly info: DiskInfo;
  readonly isDirect: boolean;
  readonly blockSizeBytes: number;
}

function openDisk(params: FileParams): OpenDisk {
  const { filename, isReadonly = false } = params;
  const access = isReadonly ? O_RDONLY : O_RDWR;
  // Looked at first: opening a tape rewinds it. O_NONBLOCK: should it become a FIFO, we do not wait for its other end.
  checkKind(
    filename,
    callOnFile(filename, () => statSync(filename)),
  );
  const first = callOnFile(filename, () => openSync(filename, access | O_NONBLOCK));
  try {
    const stat = fstatSync(first);
    checkKind(filename, stat);
    const info = alignmentOf(diskInfo(first));
    const blockSizeBytes = blockSizeOf(params, info);
    const isDirect = isDirectOf(params, info, blockSizeBytes);
    if (info.sizeBytes < blockSizeBytes) {
      throw new TargetError('EINVAL', `${filename} is smaller than a block: make it as large as the disk shall be`);
    }
    if (params.isPolled === true) checkPolling(filename, stat, isDirect);
    // A device that somebody else has for himself, such as a mounted file system, is not opened for writing.
    const exclusive = stat.isBlockDevice() && !isReadonly ? O_EXCL : 0;
    const flags = access | exclusive | (isDirect ? O_DIRECT : 0);
    // The same file once more, whatever its name means now; without O_NONBLOCK, which io_uring takes at its word.
    const fd = callOnFile(filename, () => openSync(`/proc/self/fd/${first}`, flags));
    if (params.isUnlocked !== true) lock(fd, filename, isReadonly);
    return { fd, stat, info, isDirect, blockSizeBytes };
  } finally {
    closeSync(first);
  }
}

/** One that was open already was checked when it was opened. */
function inheritDisk(params: FileParams, fd: number): OpenDisk {
  const info = alignmentOf(diskInfo(fd));
  // proc(5): the flags of open(2), octal.
  const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(readText(`/proc/self/fdinfo/${fd}`))?.[1] ?? '0', 8);
  const isDirect = (flags & O_DIRECT) !== 0;
  return { fd, stat: fstatSync(fd), info, isDirect, blockSizeBytes: blockSizeOf(params, info) };
}

/** Closes the descriptor when it cannot be locked. */
function lock(fd: number, filename: string, isReadonly: boolean): void {
  try {
    if (!(isReadonly ? lockFileShared(fd) : lockFile(fd))) throw new TargetError('EBUSY', `${filename} is in use`);
  } catch (error) {
    closeSync(fd);
    if ((error as TargetError).code === 'EBUSY') throw error;
    throw new TargetError('EINVAL', `${filename}: ${(error as Error).message} (with "unlocked" it need not be)`);
  }
}

function checkKind(filename: string, stat: Stats): void {
  if (!stat.isFile() && !stat.isBlockDevice()) {
    throw new TargetError('EINVAL', `${filename} is neither a file nor a block device`);
  }
}

/** A block device's own sizes where the kernel does not say what O_DIRECT wants. */
function alignmentOf(info: DiskInfo): DiskInfo {
  const { logicalBlockBytes: logical } = info;
  if (info.offsetAlignment > 0 || logical === 0) return info;
  return { ...info, memoryAlignment: logical, offsetAlignment: logical };
}

function blockSizeOf({ filename, blockSizeBytes }: FileParams, { logicalBlockBytes: logical }: DiskInfo): number {
  const size = blockSizeBytes ?? Math.max(logical, BLOCK_BYTES_MIN);
  if (size < logical) {
    throw new TargetError('EINVAL', `block_size ${size} is below the ${logical} bytes of ${filename}`);
  }
  if (size > BLOCK_BYTES_MAX) {
    throw new TargetError('EINVAL', `${filename} has blocks of ${size} bytes: ${BLOCK_BYTES_MAX} is the most here`);
  }
  return size;
}

function isDirectOf({ filename, isDirect }: FileParams, { offsetAlignment }: DiskInfo, blockBytes: number): boolean {
  const can = offsetAlignment > 0 && blockBytes % offsetAlignment === 0;
  if (isDirect === true && !can) {
    const reason = offsetAlignment > 0 ? `needs blocks of ${offsetAlignment} bytes` : 'is not possible there';
    throw new TargetError('EINVAL', `direct I/O on ${filename} ${reason}`);
  }
  return isDirect ?? can;
}

/** What a guest had best align to. Shown, not enforced. */
function physicalBlockBytes(stat: Stats, info: DiskInfo): number {
  return info.physicalBlockBytes > 0 ? info.physicalBlockBytes : Math.min(stat.blksize, BLOCK_BYTES_MAX);
}

/**
 * Whether the device has queues for polled completions is read, never tried: on a device without them a polled read may
 * work once and never end the next time.
 */
function checkPolling(filename: string, stat: Stats, isDirect: boolean): void {
  const device = stat.isBlockDevice() ? stat.rdev : stat.dev;
  const major = ((device >>> 8) & 0xfff) | 0;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  const sysfs = `/sys/dev/block/${major}:${minor}`;
  // A partition's queue is that of its disk.
  const hasQueues = [`${sysfs}/queue/io_poll`, `${sysfs}/../queue/io_poll`].some((path) => readText(path) === '1');
  if (!isDirect || !hasQueues) {
    const reason = isDirect ? 'its device has no polled queues (queue/io_poll is 0)' : 'it needs direct I/O';
    throw new TargetError('EINVAL', `iopoll on ${filename}: ${reason}`);
  }
}

/** With swap, memory may have to be read from a disk. The first line of the list is its heading. */
function hasSwap(): boolean {
  return readText('/proc/swaps').split('\n').length > 1;
}

/** Without the blanks around it; empty when it cannot be read. */
function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

function callOnFile<T>(filename: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).errno;
    if (errno === undefined) throw error;
    throw new TargetError(errnoName(errno), `cannot open ${filename}: ${strerror(errno)}`, { errno, cause: error });
  }
}

/** The same for the same path, relative ones from where the daemon runs. */
export function uuidOfPath(filename: string): string {
  return uuidOfText(resolve(filename));
}
