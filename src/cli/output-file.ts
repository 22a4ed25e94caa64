/** A file that a command fills: made, or emptied, only once the daemon has not refused what is to be in it. */
import { closeSync, constants, existsSync, fstatSync, ftruncateSync, openSync, unlinkSync, writeSync } from 'node:fs';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';

const { O_WRONLY, O_CREAT } = constants;
const MODE = 0o666;

export class OutputFile {
  readonly #path: string;
  readonly #fd: number;
  readonly #wasThere: boolean;
  #isBegun = false;

  /** @throws TargetError when it cannot be written */
  constructor(path: string) {
    this.#path = path;
    this.#wasThere = existsSync(path);
    try {
      this.#fd = openSync(path, O_WRONLY | O_CREAT, MODE);
    } catch (error) {
      const { code = 'EIO' } = error as NodeJS.ErrnoException;
      throw new TargetError(code, `-o: ${fileProblem(path, error)}`);
    }
  }

  /** What was in it goes. */
  begin(): void {
    this.#isBegun = true;
    if (fstatSync(this.#fd).isFile()) ftruncateSync(this.#fd);
  }

  write(data: Uint8Array | string): void {
    writeSync(this.#fd, data as Uint8Array);
  }

  close(): void {
    closeSync(this.#fd);
    if (!this.#isBegun && !this.#wasThere) unlinkSync(this.#path);
  }
}
