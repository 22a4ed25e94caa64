/** Keeps changes by RPC and an upgrade apart: while a daemon hands over what there is, nothing is changed. */
import { TargetError } from '../base/errors.ts';
import type { DaemonHandlers } from '../rpc/methods.ts';
import { CHANGES } from './state.ts';

export class ChangeGate {
  #running = 0;
  #isClosed = false;
  #onIdle: () => void = () => {};

  /** Handlers that do not change anything while the gate is closed: they throw `EBUSY`. */
  guard(handlers: DaemonHandlers): DaemonHandlers {
    const guarded = Object.entries(handlers).map(([name, handler]) => {
      const call = handler as (params: unknown, context: unknown) => unknown;
      if (!CHANGES.test(name) && !/^state_(?!get_)/.test(name)) return [name, handler];
      return [name, async (params: unknown, context: unknown) => this.#pass(() => call(params, context))];
    });
    return Object.fromEntries(guarded) as DaemonHandlers;
  }

  /** Resolves when no change is being made. Throws `EBUSY` when it is closed already. */
  async close(): Promise<void> {
    this.#check();
    this.#isClosed = true;
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
  }

  open(): void {
    this.#isClosed = false;
  }

  async #pass(change: () => unknown): Promise<unknown> {
    this.#check();
    this.#running++;
    try {
      return await change();
    } finally {
      if (--this.#running === 0) this.#onIdle();
    }
  }

  #check(): void {
    if (this.#isClosed) throw new TargetError('EBUSY', 'the daemon is being upgraded: try again in a moment');
  }
}
