/**
 * A directory that belongs to one daemon at a time, with one file that is only ever replaced as a whole: written under
 * another name, made stable, renamed, and the directory made stable. Whatever ends the process or the machine, the file
 * is the old one or the new one.
 */
import {
  chownSync,
  closeSync,
  existsSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoName, TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import { lockFile } from '../sys/file-lock.ts';

const FILE = 'state.json';
/** Without a daemon it is what one left that was killed while it wrote. */
const NEW_FILE = 'state.json.new';
const LOCK = 'lock';
/** Its owner's alone: calls may carry secrets. */
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const ROOT = 0;

/** Whom the files are given to; root keeps its own. */
export interface FileOwner {
  readonly uid: number;
  readonly gid: number;
}

/** Makes it, for its owner, when its parent is there and it is not. */
export function makeStateDirectory(path: string, owner: FileOwner | null): void {
  try {
    if (existsSync(path)) return;
    mkdirSync(path, DIRECTORY_MODE);
    if (owner !== null && isRoot()) chownSync(path, owner.uid, owner.gid);
  } catch (error) {
    throw fileError(`--state-dir ${path} cannot be used`, error);
  }
}

const isRoot = (): boolean => process.geteuid?.() === ROOT;

export class StateDirectory {
  readonly path: string;
  readonly filePath: string;
  readonly #lock: number;
  readonly #owner: FileOwner | null;

  private constructor(path: string, lock: number, owner: FileOwner | null) {
    this.path = path;
    this.filePath = join(path, FILE);
    this.#lock = lock;
    this.#owner = owner;
  }

  /** The lock for the daemon that has the directory next; it stays this one's. */
  get lockFd(): number {
    return this.#lock;
  }

  /** As another daemon has it, whose lock this is. Throws `EINVAL` when the lock is of another directory. */
  static inherit(path: string, owner: FileOwner | null, lock: number): StateDirectory {
    const [own, found] = [fstatSync(lock), statSync(join(path, LOCK), { throwIfNoEntry: false })];
    if (own.ino !== found?.ino || own.dev !== found.dev) {
      throw new TargetError('EINVAL', `--state-dir ${path} is not that of the daemon before: an upgrade keeps it`);
    }
    return new StateDirectory(path, lock, owner);
  }

  /** Writes down who has the lock. */
  sign(): void {
    ftruncateSync(this.#lock);
    writeSync(this.#lock, `${process.pid}\n`);
  }

  /** Makes the directory when its parent is there. Throws `EBUSY` when another daemon has it. */
  static open(path: string, owner: FileOwner | null): StateDirectory {
    let lock: number;
    makeStateDirectory(path, owner);
    try {
      lock = openSync(join(path, LOCK), 'a+', FILE_MODE);
      if (owner !== null && isRoot()) fchownSync(lock, owner.uid, owner.gid);
    } catch (error) {
      throw fileError(`--state-dir ${path} cannot be used`, error);
    }
    if (!lockFile(lock)) {
      closeSync(lock);
      const holder = readFileSync(join(path, LOCK), 'utf8').trim();
      throw new TargetError('EBUSY', `--state-dir ${path} is in use by another daemon, process ${holder}`);
    }
    const directory = new StateDirectory(path, lock, owner);
    directory.sign();
    return directory;
  }

  /** Null when nothing was ever written. */
  read(): string | null {
    try {
      return readFileSync(this.filePath, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw fileError(`${this.filePath} cannot be read`, error);
    }
  }

  /** Resolves when it is stable. Throws what the system says: the file is as it was, or new and not stable yet. */
  async write(text: string): Promise<void> {
    const newPath = join(this.path, NEW_FILE);
    try {
      const file = await open(newPath, 'w', FILE_MODE);
      try {
        if (this.#owner !== null && process.geteuid?.() === ROOT) await file.chown(this.#owner.uid, this.#owner.gid);
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(newPath, this.filePath);
      const directory = await open(this.path);
      try {
        await directory.sync();
      } finally {
        await directory.close();
      }
    } catch (error) {
      rmSync(newPath, { force: true });
      throw fileError(`cannot write ${this.filePath}`, error);
    }
  }

  close(): void {
    closeSync(this.#lock);
  }
}

function fileError(what: string, error: unknown): TargetError {
  const { errno = 0, path, message } = error as NodeJS.ErrnoException;
  const problem = path === undefined ? message : fileProblem(path, error);
  return new TargetError(errnoName(errno), `${what}: ${problem}`, { errno, cause: error });
}
