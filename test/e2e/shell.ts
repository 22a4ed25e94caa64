/** A shell that a test types into, one script after the other: variables, the directory and jobs stay. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { withLimit } from './wait.ts';

export interface ShellResult {
  readonly isOk: boolean;
  /** Both streams. */
  readonly output: string;
}

const STOP_MAX_MS = 20_000;

export class TestShell {
  readonly #script: string;
  readonly #output: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  #onAnswer: (isOk: boolean) => void = () => {};

  /** `directory` is for the shell's own files, `cwd` is where it begins. */
  constructor(directory: string, cwd: string, env: Readonly<Record<string, string>>) {
    this.#script = join(directory, 'typed.sh');
    this.#output = join(directory, 'printed');
    const command = ['--pdeathsig', 'KILL', 'bash', '--norc', '-eu', '-o', 'pipefail'];
    this.#child = spawn('setpriv', command, {
      cwd,
      env: { ...process.env, ...env },
      detached: true, // a group of its own, with which its jobs end
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#exited = once(this.#child, 'exit').then(() => this.#onAnswer(false));
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#onAnswer(text.trim() === '0'));
    for (const stream of [this.#child.stdin, this.#child.stdout]) stream?.on('error', () => {}); // it ended
  }

  /** Runs a script. The first command of it that fails ends the shell. */
  async run(script: string, timeoutMs: number): Promise<ShellResult> {
    return await this.#type(script, `. ${this.#script} > ${this.#output} 2>&1 < /dev/null; echo 0`, timeoutMs);
  }

  /** Runs a script in a shell of its own, so that it may fail. */
  async tryRun(script: string, timeoutMs: number): Promise<ShellResult> {
    const line = `set +e; (set -e; . ${this.#script}) > ${this.#output} 2>&1 < /dev/null; echo $?; set -e`;
    return await this.#type(script, line, timeoutMs);
  }

  /** Leaves a script running; what it prints goes to a file, and then its end. */
  async start(script: string, log: string, timeoutMs: number): Promise<void> {
    const inside = `(\n${script}\n)`;
    await this.run(`(${inside} > ${log} 2>&1 || true; echo 'it ended' >> ${log}) &`, timeoutMs);
  }

  /** Ends it and all that it started. */
  async close(): Promise<void> {
    try {
      process.kill(-(this.#child.pid ?? 0), 'SIGKILL');
    } catch {
      return; // nothing is left of it
    }
    await withLimit(this.#exited, STOP_MAX_MS, 'end of the shell');
  }

  async #type(script: string, line: string, timeoutMs: number): Promise<ShellResult> {
    writeFileSync(this.#script, script);
    writeFileSync(this.#output, '');
    const answer = Promise.withResolvers<boolean>();
    this.#onAnswer = answer.resolve;
    this.#child.stdin?.write(`${line}\n`);
    const isOk = await withLimit(answer.promise, timeoutMs, `end of a script in the shell:\n${script}`);
    return { isOk, output: readFileSync(this.#output, 'utf8') };
  }
}
