/**
 * One client of the RPC server. Requests are started in the order in which they came, each when the one before it has
 * ended, except that those which `waits` in the table do not hold up what follows. Answers go out as they are ready.
 *
 * The client is not trusted to read: its input is paused while its answers pile up, and it is disconnected when they
 * reach a limit or when it reads nothing for too long.
 */
import type { Socket } from 'node:net';
import type { Logger } from '../base/log.ts';
import type { AnswerValue, Caller, Dispatcher } from './dispatch.ts';
import { RpcCode, standardError } from './errors.ts';
import { encodeJson, type FramingError, JsonStreamParser } from './framing.ts';
import { QUEUE_MAX, WAITING_MAX } from './limits.ts';

export interface ConnectionLimits {
  readonly requestMaxBytes: number;
  readonly outputPauseBytes: number;
  readonly outputMaxBytes: number;
  readonly outputStallMs: number;
  readonly halfClosedMs: number;
}

export interface ConnectionOptions {
  /** 1-based, never used twice. */
  readonly number: number;
  readonly dispatcher: Dispatcher;
  readonly log: Logger;
  readonly limits: ConnectionLimits;
}

const NOT_READING = 'it does not read its answers';

export class Connection {
  readonly #socket: Socket;
  readonly #options: ConnectionOptions;
  readonly #limits: ConnectionLimits;
  readonly #parser: JsonStreamParser;
  readonly #abort = new AbortController();
  readonly #caller: Caller;
  /** Values that have not been started. */
  readonly #queue: unknown[] = [];
  /** Whether a request that holds the turn is running. */
  #isBusy = false;
  #waiting = 0;
  /** Started and not yet answered, in whatever way. */
  #unanswered = 0;
  /** No more input is taken: the client has ended its side, sent rubbish, or the server closes. */
  #inputEnded = false;
  #framingError: FramingError | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#limits = options.limits;
    this.#parser = new JsonStreamParser({ maxBytes: options.limits.requestMaxBytes });
    this.#caller = {
      connection: options.number,
      signal: this.#abort.signal,
      beginWait: () => this.#beginWait(),
    };
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('end', () => this.#onEnd());
    // A client may vanish at any time; 'close' follows.
    socket.on('error', (error) => options.log.debug(`RPC client ${options.number} is lost`, { error: error.message }));
    socket.on('close', () => {
      this.#setTimer(null, 0);
      this.#inputEnded = true;
      this.#queue.length = 0;
      this.#abort.abort();
    });
  }

  /** Takes no more requests, lets what runs finish, and disconnects. `force` cuts off what has not finished. */
  close(force: boolean): void {
    this.#inputEnded = true;
    this.#setTimer(null, 0);
    this.#queue.length = 0;
    this.#abort.abort();
    if (force) this.#socket.destroy();
    else this.#closeWhenDone();
  }

  #beginWait(): (() => void) | null {
    if (this.#waiting === WAITING_MAX) return null;
    this.#waiting++;
    return () => this.#waiting--;
  }

  #onData(chunk: Buffer): void {
    if (this.#inputEnded) return;
    this.#enqueue(this.#parser.push(chunk));
  }

  #onEnd(): void {
    if (this.#inputEnded) return;
    this.#enqueue(this.#parser.end());
    this.#endInput();
    this.#closeWhenDone();
  }

  /** What has been asked is still answered, but not for ever: nobody may be there to read it. */
  #endInput(): void {
    this.#inputEnded = true;
    this.#setTimer(() => this.#disconnect('it has ended its requests and its time is up'), this.#limits.halfClosedMs);
  }

  #enqueue(input: ReturnType<JsonStreamParser['push']>): void {
    this.#queue.push(...input.values);
    if (input.error !== null) {
      this.#framingError = input.error;
      this.#endInput();
    }
    this.#startNext();
    this.#pauseOrResume();
  }

  #startNext(): void {
    while (!this.#isBusy && this.#queue.length > 0 && !this.#isOutputFull() && !this.#socket.destroyed) {
      const started = this.#options.dispatcher.start(this.#queue.shift(), this.#caller);
      this.#unanswered++;
      if (started.turn !== null) {
        this.#isBusy = true;
        void started.turn.then(() => this.#endTurn());
      }
      if (started.answer instanceof Promise) void started.answer.then((answer) => this.#answer(answer));
      else this.#answer(started.answer);
    }
    this.#closeWhenDone();
  }

  #endTurn(): void {
    this.#isBusy = false;
    this.#startNext();
    this.#pauseOrResume();
  }

  #answer(answer: AnswerValue): void {
    this.#unanswered--;
    if (answer !== null) this.#send(answer);
    this.#closeWhenDone();
  }

  #send(answer: Exclude<AnswerValue, null>): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return;
    let text: string;
    try {
      text = encodeJson(answer);
    } catch (error) {
      this.#options.log.error('an RPC answer cannot be written as JSON', { error: String(error) });
      const id = 'id' in answer ? answer.id : null;
      text = encodeJson({ jsonrpc: '2.0', id, error: standardError(RpcCode.internalError) });
    }
    this.#socket.write(`${text}\n`, () => this.#onWritten());
    if (this.#socket.writableLength > this.#limits.outputMaxBytes) {
      this.#disconnect(NOT_READING);
    } else this.#pauseOrResume();
  }

  #isOutputFull(): boolean {
    return this.#socket.writableLength > this.#limits.outputPauseBytes;
  }

  /** An answer has gone to the kernel. Not 'drain': that comes only when Node's own mark was passed. */
  #onWritten(): void {
    if (this.#socket.destroyed || this.#isOutputFull()) return;
    if (!this.#inputEnded) this.#setTimer(null, 0);
    this.#startNext();
    this.#pauseOrResume();
  }

  #pauseOrResume(): void {
    if (this.#inputEnded) return;
    const isFull = this.#isOutputFull();
    if (isFull && this.#timer === null) this.#watchOutput();
    if (isFull || this.#queue.length >= QUEUE_MAX) this.#socket.pause();
    else if (this.#socket.isPaused()) this.#socket.resume();
  }

  /** Disconnects when the client has not read a whole answer within the time. */
  #watchOutput(): void {
    const before = this.#socket.writableLength;
    const look = (): void => {
      if (this.#socket.writableLength < before) this.#watchOutput();
      else this.#disconnect(NOT_READING);
    };
    this.#setTimer(look, this.#limits.outputStallMs);
  }

  #setTimer(look: (() => void) | null, delayMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = look === null ? null : setTimeout(look, delayMs).unref();
  }

  #disconnect(reason: string): void {
    const { log, number } = this.#options;
    const fields = { unreadBytes: this.#socket.writableLength, unanswered: this.#unanswered };
    log.warn(`RPC client ${number} is disconnected: ${reason}`, fields);
    this.#socket.destroy();
  }

  #closeWhenDone(): void {
    if (!this.#inputEnded || this.#unanswered > 0 || this.#queue.length > 0) return;
    if (this.#socket.destroyed || this.#socket.writableEnded) return;
    if (this.#framingError !== null) {
      const error = standardError(RpcCode.parseError, this.#framingError.detail);
      this.#socket.write(`${encodeJson({ jsonrpc: '2.0', id: null, error })}\n`);
    }
    // What the client still sends is read and dropped, so that closing does not take the last answer from it.
    this.#socket.resume();
    this.#socket.end();
    this.#socket.once('finish', () => this.#socket.destroy());
  }
}
