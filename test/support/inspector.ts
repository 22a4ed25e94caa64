/** A debugger's connection to a worker thread of a process that listens with `--inspect` (Chrome DevTools Protocol). */
import { waitUntil } from '../e2e/wait.ts';

const LIMIT_MS = 60_000;

interface Message {
  readonly method?: string;
  readonly params?: {
    readonly sessionId?: string;
    /** A message of the worker, as text. */
    readonly message?: string;
    readonly workerInfo?: { readonly title: string };
  };
}

export class WorkerDebugger {
  readonly #socket: WebSocket;
  readonly #session: string;
  /** Events of the worker, by name. */
  readonly #seen: string[] = [];
  #lastId = 0;

  private constructor(socket: WebSocket, session: string) {
    this.#socket = socket;
    this.#session = session;
    socket.addEventListener('message', ({ data }) => {
      const { method, params } = JSON.parse(String(data)) as Message;
      if (method !== 'NodeWorker.receivedMessageFromWorker' || params?.sessionId !== session) return;
      this.#seen.push((JSON.parse(params.message ?? '{}') as Message).method ?? '');
    });
    this.#send('Debugger.enable');
  }

  /** @param url what the process printed behind "Debugger listening on"; @param name of the worker */
  static async attach(url: string, name: string): Promise<WorkerDebugger> {
    const socket = new WebSocket(url);
    const titles = new Map<string, string>();
    socket.addEventListener('message', ({ data }) => {
      const { method, params } = JSON.parse(String(data)) as Message;
      const { workerInfo, sessionId } = params ?? {};
      if (method !== 'NodeWorker.attachedToWorker' || workerInfo === undefined) return;
      titles.set(workerInfo.title, sessionId ?? '');
    });
    socket.addEventListener('open', () => {
      socket.send(JSON.stringify({ id: 1, method: 'NodeWorker.enable', params: { waitForDebuggerOnStart: false } }));
    });
    const find = (): string | undefined => [...titles.keys()].find((title) => title.includes(name));
    await waitUntil(() => find() !== undefined, LIMIT_MS, `worker ${name}`);
    return new WorkerDebugger(socket, titles.get(find() ?? '') ?? '');
  }

  /** Stops the worker at the next line that it runs: `wake` gives it something to do. */
  async pause(wake: () => unknown): Promise<void> {
    this.#send('Debugger.pause');
    const before = this.#count('Debugger.paused');
    await waitUntil(
      async () => {
        await wake();
        return this.#count('Debugger.paused') > before;
      },
      LIMIT_MS,
      'stop of the worker',
    );
  }

  /** Lets it go on. */
  async resume(): Promise<void> {
    const before = this.#count('Debugger.resumed');
    this.#send('Debugger.resume');
    await waitUntil(() => this.#count('Debugger.resumed') > before, LIMIT_MS, 'worker that goes on');
  }

  close(): void {
    this.#socket.close();
  }

  #count(event: string): number {
    return this.#seen.filter((name) => name === event).length;
  }

  #send(method: string): void {
    const message = JSON.stringify({ id: ++this.#lastId, method });
    const params = { sessionId: this.#session, message };
    this.#socket.send(JSON.stringify({ id: 100 + this.#lastId, method: 'NodeWorker.sendMessageToWorker', params }));
  }
}
