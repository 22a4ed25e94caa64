/**
 * A file in /dev/shm that a RAM disk's bytes are in, so that they outlive the daemon. Its pages are there before they
 * are used: a page that could not be had later would end the process that touches it.
 */
import { closeSync, constants, fstatSync, openSync, unlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoName, TargetError } from '../../../base/errors.ts';
import { lockFile } from '../../../sys/file-lock.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR } = constants;

const DIRECTORY = '/dev/shm';
const FILE_MODE = 0o600;
const ROOT = 0;
const ZEROES = new Uint8Array(4 * 2 ** 20);

export class SharedMemory {
  readonly name: string;
  readonly path: string;
  readonly fd: number;
  #sizeBytes: number;
  #growing: Promise<void> = Promise.resolve();

  private constructor(name: string, fd: number, sizeBytes: number) {
    this.name = name;
    this.path = pathOf(name);
    this.fd = fd;
    this.#sizeBytes = sizeBytes;
  }

  /**
   * Opens the memory of a name, and makes it when there is none. One that is there keeps its content; it is at least of
   * this size afterwards, and zeroes are what is new. Throws `EBUSY` when another disk has it, `EACCES` when it belongs
   * to somebody else, `ENOSPC`. `inheritedFd`: the file as the daemon before has it open, with its lock.
   */
  static async open(name: string, sizeBytes: number, inheritedFd?: number): Promise<SharedMemory> {
    const { fd, isNew } = inheritedFd === undefined ? openFile(pathOf(name)) : { fd: inheritedFd, isNew: false };
    const memory = new SharedMemory(name, fd, fstatSync(fd).size);
    try {
      memory.#check();
      await memory.grow(sizeBytes);
      return memory;
    } catch (error) {
      memory.close();
      if (isNew) memory.remove();
      throw error;
    }
  }

  /** Resolves when there are so many bytes. Throws `ENOSPC` when there is no room. */
  grow(sizeBytes: number): Promise<void> {
    this.#growing = this.#growing.catch(() => undefined).then(() => this.#append(sizeBytes));
    return this.#growing;
  }

  close(): void {
    closeSync(this.fd);
  }

  /** The memory is given back when nobody has it open any more. */
  remove(): void {
    try {
      unlinkSync(this.path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw fileError(this.path, error);
    }
  }

  #check(): void {
    const stat = fstatSync(this.fd);
    const own = process.geteuid?.();
    if (!stat.isFile() || (stat.uid !== own && own !== ROOT)) {
      throw new TargetError('EACCES', `${this.path} is not a file of this user: choose another shm_name`);
    }
    if ((stat.mode & 0o077) !== 0) {
      throw new TargetError('EACCES', `${this.path} is open to others: chmod 600 it, or choose another shm_name`);
    }
    if (!lockFile(this.fd)) {
      throw new TargetError('EBUSY', `${this.path} is in use by another disk: choose another shm_name`);
    }
  }

  /** Written, not only made longer: then the pages are there. */
  async #append(sizeBytes: number): Promise<void> {
    if (sizeBytes <= this.#sizeBytes) return;
    // Another open file of the same: this one's lock and its descriptor are not a stream's to close.
    const file = await open(this.path, O_RDWR | O_NOFOLLOW);
    try {
      while (this.#sizeBytes < sizeBytes) {
        const length = Math.min(ZEROES.length, sizeBytes - this.#sizeBytes);
        const { bytesWritten } = await file.write(ZEROES, 0, length, this.#sizeBytes);
        this.#sizeBytes += bytesWritten;
      }
    } catch (error) {
      throw fileError(this.path, error);
    } finally {
      await file.close();
    }
  }
}

function pathOf(name: string): string {
  return join(DIRECTORY, `ringhost.${name}`);
}

/** Not with O_CREAT alone: the kernel refuses that for a file of another user in a directory like this one. */
function openFile(path: string): { readonly fd: number; readonly isNew: boolean } {
  try {
    return { fd: openSync(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, FILE_MODE), isNew: true };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw fileError(path, error);
  }
  try {
    return { fd: openSync(path, O_RDWR | O_NOFOLLOW), isNew: false };
  } catch (error) {
    throw fileError(path, error);
  }
}

function fileError(path: string, error: unknown): TargetError {
  const { errno = 0, message } = error as NodeJS.ErrnoException;
  return new TargetError(errnoName(errno), `cannot use the memory ${path}: ${message}`, { errno, cause: error });
}
