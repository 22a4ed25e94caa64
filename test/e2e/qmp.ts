/**
 * A client of QEMU's machine protocol (QMP), which qemu-storage-daemon speaks too. We listen and the process connects
 * to us, so that there is no moment at which its socket is not there yet.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { withLimit } from './wait.ts';

const CONNECT_MAX_MS = 60_000;
const COMMAND_MAX_MS = 60_000;

interface QmpMessage {
  readonly QMP?: unknown;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

interface Waiter {
  readonly what: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class QmpClient {
  readonly #server: Server;
  readonly #pending = new Map<number, Waiter>();
  readonly #eventWaiters = new Set<{ readonly name: string; readonly resolve: () => void }>();
  #socket: Socket | null = null;
  #nextId = 1;
  readonly #ready = Promise.withResolvers<void>();

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket) => this.#attach(socket));
    this.#ready.promise.catch(() => {}); // reported by whoever waits for it
  }

  /** Listens on `path`: start the process with a chardev that connects there, then wait for `ready()`. */
  static async listen(path: string): Promise<QmpClient> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return new QmpClient(server);
  }

  /** Resolves when the process has greeted us and capabilities are negotiated. */
  async ready(): Promise<void> {
    await withLimit(this.#ready.promise, CONNECT_MAX_MS, 'a QMP greeting');
  }

  /** Runs one command. @throws Error with QEMU's description when it is refused */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { what: command, resolve, reject });
    });
    this.#socket?.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      return await withLimit(answer, COMMAND_MAX_MS, `the answer to ${command}`);
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Resolves at the next event of this name. Call it before the command that causes the event. */
  async nextEvent(name: string, timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const waiter = { name, resolve };
    this.#eventWaiters.add(waiter);
    try {
      await withLimit(promise, timeoutMs, `the event ${name}`);
    } finally {
      this.#eventWaiters.delete(waiter);
    }
  }

  /** Drops the connection; what still waits is rejected with `reason`. */
  close(reason = new Error('QMP was closed')): void {
    this.#ready.reject(reason);
    for (const waiter of this.#pending.values()) waiter.reject(reason);
    this.#socket?.destroy();
    this.#server.close();
  }

  #attach(socket: Socket): void {
    this.#socket = socket;
    const lines = createInterface({ input: socket });
    lines.on('line', (line) => this.#receive(JSON.parse(line) as QmpMessage));
    // The process died: its exit is reported where it was started. The reader of lines passes the error on.
    for (const end of [socket, lines]) end.on('error', () => {});
  }

  #receive(message: QmpMessage): void {
    if (message.QMP !== undefined) {
      this.execute('qmp_capabilities').then(
        () => this.#ready.resolve(),
        (error: unknown) => this.#ready.reject(error),
      );
    }
    if (message.event !== undefined) {
      for (const waiter of this.#eventWaiters) if (waiter.name === message.event) waiter.resolve();
    }
    const waiter = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (waiter === undefined) return;
    if (message.error === undefined) waiter.resolve(message.return);
    else waiter.reject(new Error(`${waiter.what}: ${message.error.desc}`));
  }
}
