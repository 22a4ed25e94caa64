/** A program that serves a disk on a Unix socket in a directory of its own, and may be killed and started again. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestChild } from '../e2e/child.ts';
import { waitUntil } from '../e2e/wait.ts';

const START_MAX_MS = 30_000;

export abstract class DiskServer {
  readonly directory: string;
  readonly program: string;
  #child: TestChild | null = null;

  protected constructor(program: string, prefix: string) {
    this.program = program;
    this.directory = mkdtempSync(join(tmpdir(), prefix));
  }

  /** The file behind it, if it has one. */
  get filePath(): string {
    return join(this.directory, 'disk');
  }

  get socketPath(): string {
    return join(this.directory, 'socket');
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  protected abstract args(): readonly string[];
  /** Front-ends may connect. */
  protected abstract isReady(): boolean;

  protected makeFile(sizeBytes: number): void {
    writeFileSync(this.filePath, '');
    truncateSync(this.filePath, sizeBytes);
  }

  /** Starts it, also again after `kill`. */
  async start(): Promise<void> {
    const { program } = this;
    const child = new TestChild(program, program, this.args());
    this.#child = child;
    await waitUntil(() => !child.isRunning || this.isReady(), START_MAX_MS, `${program}'s socket`);
    if (!child.isRunning) throw new Error(`${program} ended:\n${child.tail()}`);
  }

  /** Resolves when it has ended by itself. */
  async ended(): Promise<void> {
    await this.#child?.exited;
  }

  async kill(): Promise<void> {
    await this.#child?.stop('SIGKILL');
    this.#child = null;
    rmSync(this.socketPath, { force: true });
  }

  async close(): Promise<void> {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
