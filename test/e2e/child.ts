/** Processes that a test starts: what they print is kept, and none outlives the test, however it ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { withLimit } from './wait.ts';

const STOP_MAX_MS = 20_000;
const TAIL_CHARACTERS = 8_000;

export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class TestChild {
  readonly name: string;
  readonly exited: Promise<ChildExit>;
  readonly #child: ChildProcess;
  #output = '';
  #isRunning = true;
  /** A process that it started and that does its work now, with the same output. When we die by SIGKILL it does not. */
  #successor: number | null = null;

  /** `onOutput` gets stdout as it comes; both streams are kept for `tail()`. */
  constructor(name: string, command: string, args: readonly string[], onOutput: (text: string) => void = () => {}) {
    this.name = name;
    // The kernel kills it when we die, even by SIGKILL. setpriv replaces itself by the command: the pid stays.
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', command, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#keep(text);
      onOutput(text);
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => this.#keep(text));
    this.exited = new Promise((resolve) => {
      const finish = (code: number | null, signal: NodeJS.Signals | null): void => {
        this.#isRunning = false;
        resolve({ code, signal });
      };
      this.#child.once('close', finish);
      this.#child.once('error', (error) => {
        this.#keep(`${error.message}\n`);
        finish(null, null);
      });
    });
  }

  get pid(): number {
    return this.#successor ?? this.#child.pid ?? 0;
  }

  replacedBy(pid: number): void {
    this.#successor = pid;
  }

  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** The last part of what it printed. */
  tail(): string {
    return this.#output.slice(-TAIL_CHARACTERS);
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    if (this.#successor === null) {
      this.#child.kill(signal);
      return;
    }
    try {
      process.kill(this.#successor, signal);
    } catch {
      // It has ended by itself.
    }
  }

  /** Sends `signal` and waits for the end; kills it when it does not obey. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<ChildExit> {
    if (this.#isRunning) this.kill(signal);
    try {
      return await withLimit(this.exited, STOP_MAX_MS, `end of ${this.name} after ${signal}`);
    } finally {
      if (this.#isRunning) this.kill('SIGKILL');
    }
  }

  #keep(text: string): void {
    this.#output = (this.#output + text).slice(-2 * TAIL_CHARACTERS);
  }
}
