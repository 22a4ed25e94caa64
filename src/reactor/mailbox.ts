/**
 * Control messages between the main thread and a reactor: calls with an answer, over the worker's message port. A
 * sleeping reactor is woken by them, a polling one handles them at its next turn of the event loop.
 */
import type { MessagePort } from 'node:worker_threads';
import { TargetError } from '../base/errors.ts';

interface Call {
  readonly id: number;
  readonly name: string;
  readonly payload: unknown;
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly errno: number };
}

/** What both ends of a channel between threads have. */
type Port = Pick<MessagePort, 'postMessage'> & { on(event: 'message', listener: (value: unknown) => void): unknown };

/** The calling side. */
export class MailboxCaller {
  readonly #port: Port;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #nextId = 1;
  #closedBy: Error | null = null;

  constructor(port: Port) {
    this.#port = port;
    port.on('message', (value) => this.#answered(value as Answer));
  }

  /** `payload` is cloned to the other thread. Rejects with the handler's error, or when the thread ends. */
  call(name: string, payload: unknown): Promise<unknown> {
    if (this.#closedBy !== null) return Promise.reject(this.#closedBy);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#port.postMessage({ id, name, payload } satisfies Call);
    });
  }

  /** The other thread is gone: every call fails with `error`. */
  close(error: Error): void {
    this.#closedBy = error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  #answered(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id);
    if (waiting === undefined) return;
    this.#waiting.delete(answer.id);
    if (answer.error === undefined) waiting.resolve(answer.result);
    else waiting.reject(new TargetError(answer.error.code, answer.error.message, { errno: answer.error.errno }));
  }
}

export type MailboxHandler = (payload: never) => unknown;

/** The answering side. */
export function serveMailbox(port: Port, handlers: Readonly<Record<string, MailboxHandler>>): void {
  port.on('message', async (value) => {
    const { id, name, payload } = value as Call;
    try {
      const handler = handlers[name] as ((payload: unknown) => unknown) | undefined;
      if (handler === undefined) throw new TargetError('ENOSYS', `a reactor has no call "${name}"`);
      port.postMessage({ id, result: await handler(payload) } satisfies Answer);
    } catch (error) {
      const code = error instanceof TargetError ? error.code : 'EIO';
      const errno = error instanceof TargetError ? error.errno : -5;
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
      const text = error instanceof TargetError ? error.message : message;
      port.postMessage({ id, error: { code, message: text, errno } } satisfies Answer);
    }
  });
}
