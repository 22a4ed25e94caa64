/**
 * Our end of the guest's agent (guest/agent.sh): a virtio-serial port over a Unix socket, on which we listen and to
 * which QEMU connects. One line a request, one line an answer, texts in base64.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { withLimit } from './wait.ts';

export interface GuestResult {
  /** Exit status of the script. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Waiter {
  readonly resolve: (result: GuestResult) => void;
  readonly reject: (error: Error) => void;
}

export class GuestAgent {
  readonly #server: Server;
  readonly #pending = new Map<number, Waiter>();
  readonly #bootWaiters: (() => void)[] = [];
  #socket: Socket | null = null;
  #bootId = '';
  #nextId = 1;

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket) => {
      this.#socket = socket;
      const lines = createInterface({ input: socket }).on('line', (line) => this.#receive(line));
      for (const end of [socket, lines]) end.on('error', () => {}); // QEMU died: its exit is reported by Guest
    });
  }

  static async listen(path: string): Promise<GuestAgent> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return new GuestAgent(server);
  }

  /** The guest kernel's identity: changes with every boot, empty before the first. */
  get bootId(): string {
    return this.#bootId;
  }

  /** Resolves when the agent of the next boot says hello. */
  async nextBoot(timeoutMs: number): Promise<void> {
    const booted = new Promise<void>((resolve) => this.#bootWaiters.push(resolve));
    await withLimit(booted, timeoutMs, 'sign of life from the guest');
  }

  /** Runs a shell script (`bash -eu -o pipefail`) in the guest. */
  async run(script: string, timeoutMs: number): Promise<GuestResult> {
    const id = this.#nextId++;
    const answer = new Promise<GuestResult>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    this.#socket?.write(`${id} ${Buffer.from(script).toString('base64')}\n`);
    try {
      return await withLimit(answer, timeoutMs, `end of the guest's script`);
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Rejects everything that waits. */
  fail(error: Error): void {
    for (const waiter of this.#pending.values()) waiter.reject(error);
  }

  close(): void {
    this.fail(new Error('the guest was closed'));
    this.#socket?.destroy();
    this.#server.close();
  }

  #receive(line: string): void {
    const [first = '', ...fields] = line.split(' ');
    if (first === 'hello') {
      this.#bootId = fields[0] ?? '';
      this.fail(new Error('the guest was started anew'));
      for (const resolve of this.#bootWaiters.splice(0)) resolve();
      return;
    }
    const [status, stdout, stderr] = fields;
    this.#pending.get(Number(first))?.resolve({
      status: Number(status),
      stdout: decodeText(stdout),
      stderr: decodeText(stderr),
    });
  }
}

function decodeText(field = '-'): string {
  return field === '-' ? '' : Buffer.from(field, 'base64').toString('utf8');
}
