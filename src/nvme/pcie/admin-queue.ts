/** The admin queue: commands with an answer to wait for. Main thread; polled by a timer while commands are out. */
import { TargetError } from '../../base/errors.ts';
import { type MappingInfo, MappingViews } from '../../sys/mapping.ts';
import type { AdminPort } from '../admin.ts';
import { type AdminCommand, DATA_WORD, encodeCommand } from '../command.ts';
import { AdminOpcode } from '../spec.ts';
import { PAGE_BYTES, QueueState } from './queue-memory.ts';
import { NO_SLOT, QueuePair, type QueuePairOptions } from './queue-pair.ts';

export const ADMIN_ENTRIES = 32;
const POLL_MS = 1;

interface Pending {
  readonly readBytes: number;
  resolve(result: { status: number; dword0: number; data: Buffer }): void;
  reject(error: Error): void;
}

export interface AdminQueueOptions extends QueuePairOptions {
  /** A page for each slot. */
  readonly data: MappingInfo;
  readonly dataIova: number;
}

export class AdminQueue implements AdminPort {
  /** Why commands are refused, or null. */
  #refusal: TargetError | null = null;
  readonly #queue: QueuePair;
  readonly #data: Buffer;
  readonly #dataIova: number;
  readonly #pending: (Pending | null)[];
  readonly #waiting: (() => void)[] = [];
  readonly #views = new MappingViews();
  #timer: NodeJS.Timeout | null = null;
  /** Commands whose answer is waited for by a timer: all but patient ones. */
  #awaited = 0;

  constructor(options: AdminQueueOptions) {
    this.#queue = new QueuePair(options);
    this.#data = Buffer.from(this.#views.view(options.data, 0, options.data.lengthBytes));
    this.#dataIova = options.dataIova;
    this.#pending = Array.from({ length: options.entries }, () => null);
  }

  /** After a reset: the queue is empty, and takes commands. */
  begin(): void {
    this.#queue.begin(QueueState.down);
    this.#refusal = null;
  }

  async execute(command: AdminCommand, readBytes = 0): Promise<{ status: number; dword0: number; data: Buffer }> {
    if (readBytes > PAGE_BYTES) throw new TargetError('EINVAL', 'an admin command reads at most a page');
    while (this.#refusal === null && this.#queue.freeSlots === 0) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    return await this.#start(command, readBytes);
  }

  /** An Asynchronous Event Request: it ends when something happens. */
  async awaitEvent(): Promise<{ status: number; dword0: number }> {
    return await this.#start({ opcode: AdminOpcode.asyncEventRequest }, 0, true);
  }

  /** Looks for completions. */
  poll(): void {
    for (let slot = this.#queue.reap(); slot !== NO_SLOT; slot = this.#queue.reap()) {
      const pending = this.#pending[slot];
      this.#pending[slot] = null;
      const data = Buffer.from(this.#data.subarray(slot * PAGE_BYTES, slot * PAGE_BYTES + (pending?.readBytes ?? 0)));
      this.#queue.release(slot);
      pending?.resolve({ status: this.#queue.status, dword0: this.#queue.dword0 >>> 0, data });
      this.#waiting.shift()?.();
    }
    this.#queue.ring();
  }

  /** Every command fails, now and until `begin`. */
  fail(error: TargetError): void {
    this.#refusal = error;
    for (const [slot, pending] of this.#pending.entries()) {
      if (pending === null) continue;
      this.#pending[slot] = null;
      this.#queue.release(slot);
      pending.reject(error);
    }
    for (const resume of this.#waiting.splice(0)) resume();
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#queue.close();
    this.#views.close();
  }

  #start(
    command: AdminCommand,
    readBytes: number,
    isPatient = false,
  ): Promise<{ status: number; dword0: number; data: Buffer }> {
    if (this.#refusal !== null) return Promise.reject(this.#refusal);
    const queue = this.#queue;
    const slot = queue.take();
    const { entries, entryAt } = queue;
    encodeCommand(command, entries, entryAt);
    const commandId = queue.identify(slot);
    entries[entryAt] = ((commandId << 16) | command.opcode) >>> 0;
    if (readBytes > 0) {
      this.#data.fill(0, slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
      this.#setAddress(entryAt + DATA_WORD, this.#dataIova + slot * PAGE_BYTES);
    } else if (command.address !== undefined) {
      this.#setAddress(entryAt + DATA_WORD, command.address);
    }
    queue.push(slot, commandId);
    if (isPatient) queue.setPatient(slot);
    queue.ring();
    const answer = new Promise<{ status: number; dword0: number; data: Buffer }>((resolve, reject) => {
      this.#pending[slot] = { readBytes, resolve, reject };
    });
    return isPatient ? answer : this.#polled(answer);
  }

  async #polled<T>(answer: Promise<T>): Promise<T> {
    this.#awaited++;
    this.#timer ??= setInterval(() => this.poll(), POLL_MS);
    try {
      return await answer;
    } finally {
      if (--this.#awaited === 0 && this.#timer !== null) {
        clearInterval(this.#timer);
        this.#timer = null;
      }
    }
  }

  #setAddress(word: number, address: number): void {
    this.#queue.entries[word] = address % 2 ** 32;
    this.#queue.entries[word + 1] = Math.floor(address / 2 ** 32);
  }
}
