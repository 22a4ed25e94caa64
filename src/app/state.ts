/**
 * `--state-dir`: what RPC made is kept, so that a daemon that starts again makes it again. What is kept is always the
 * present configuration, as `save_config` has it, and the calls for what should be there and is not: those that failed
 * when the daemon started, and those for disks whose device went away. A call is answered after what it changed is
 * stable.
 */
import { TargetError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { BdevConfig } from '../bdev/bdev.ts';
import type { BdevEntry } from '../bdev/registry.ts';
import type { DaemonHandlers } from '../rpc/methods.ts';
import { controllerIdentity, identityOf, isController, nameOf } from './config-calls.ts';
import {
  type CallConfig,
  type ConfigCall,
  type ConfigFile,
  failureText,
  parseConfig,
  SUBSYSTEMS,
} from './config-file.ts';
import { type FileOwner, StateDirectory } from './state-directory.ts';

const VERSION = 1;
const NOT_TRIED = 'it has not been tried yet';

/** A call for something that should be there. */
export interface MissingCall extends ConfigCall {
  /** Unique while the daemon lives. */
  readonly id: number;
  readonly subsystem: string;
  /** Why it is not there. */
  reason: string;
  /** Bdevs that go for that reason: until they have gone it may still look as if it were there. */
  readonly going: Set<BdevEntry>;
}

export class State {
  readonly directory: StateDirectory;
  /** Nothing was ever kept. */
  readonly isNew: boolean;
  /** What there is now. */
  current: () => ConfigFile = () => ({ subsystems: [] });
  readonly #log: Logger;
  #missing: MissingCall[] = [];
  #lastId = 0;
  /** What is stable; null when that is not known. */
  #written: string | null;
  /** The last write failed: what there is now is not what is kept. */
  #isBehind = false;
  #isClosed = false;
  #writing: Promise<void> = Promise.resolve();
  #next: Promise<void> | null = null;
  /** Everything was brought back, as far as it could be. */
  readonly #restored = Promise.withResolvers<void>();

  private constructor(directory: StateDirectory, log: Logger) {
    this.directory = directory;
    this.#log = log;
    this.#written = directory.read();
    this.isNew = this.#written === null;
    if (this.#written === null) return;
    for (const { subsystem, config } of parseState(this.#written, directory.filePath).subsystems) {
      for (const call of config ?? []) this.#addMissing(subsystem, call, NOT_TRIED);
    }
  }

  /**
   * Throws `EBUSY` when another daemon has the directory, `EINVAL` when what is kept cannot be read; it is left as it
   * is.
   */
  static open(path: string, owner: FileOwner | null, log: Logger): State {
    return State.#of(StateDirectory.open(path, owner), log);
  }

  /** That of the daemon before, which still has it, and this lock. Nothing is written before `takeOver`. */
  static inherit(path: string, owner: FileOwner | null, log: Logger, lock: number): State {
    return State.#of(StateDirectory.inherit(path, owner, lock), log);
  }

  static #of(directory: StateDirectory, log: Logger): State {
    try {
      return new State(directory, log);
    } catch (error) {
      directory.close();
      throw error;
    }
  }

  /** The daemon before has let go, and everything that it had is there. What was missing there is tried again. */
  async takeOver(make: CallConfig): Promise<void> {
    this.directory.sign();
    await this.keep().catch(() => undefined);
    await this.restore(make);
  }

  get missing(): readonly MissingCall[] {
    return this.#missing;
  }

  /**
   * Makes the calls for what is missing, in order. Says what failed, and keeps it. Changes by RPC wait for
   * the first time.
   */
  async restore(make: CallConfig): Promise<void> {
    for (const entry of [...this.#missing]) {
      // Meanwhile an operator may have made or forgotten it.
      if (!this.#missing.includes(entry)) continue;
      const { method, params } = entry;
      const failure = await make({ method, ...(params === undefined ? {} : { params }) });
      if (failure === null) {
        this.#missing = this.#missing.filter((other) => other !== entry);
        continue;
      }
      entry.reason = failureText(failure);
      this.#log.error(`state: ${method} ${nameOf(entry)} could not be brought back, and is kept: ${entry.reason}`);
    }
    // A full disk does not keep guests from their disks.
    await this.keep().catch(() => undefined);
    this.#restored.resolve();
  }

  /** Forgets a call for what is missing. Throws `ENOENT`. */
  async forget(id: number): Promise<void> {
    const rest = this.#missing.filter((entry) => entry.id !== id);
    if (rest.length === this.#missing.length) {
      throw new TargetError('ENOENT', `nothing that is missing has the number ${id}: state_get_missing lists it`);
    }
    this.#missing = rest;
    await this.keep();
  }

  /** Bdevs are about to go that nobody asked to delete: they, and the LUNs that show them, should come back. */
  keepGone(entries: readonly BdevEntry[], calls: readonly BdevConfig[]): void {
    if (this.#isClosed) return;
    const names = new Set(entries.map(({ name }) => name));
    const reason = 'its device is gone';
    for (const { method, params } of calls)
      this.#addMissing('bdev', { method, params: { ...params } }, reason, entries);
    for (const { subsystem, config } of this.current().subsystems) {
      for (const call of config ?? []) {
        if (names.has(call.params?.['bdev_name'] as string)) this.#addMissing(subsystem, call, reason, entries);
      }
    }
  }

  bdevDeleted(entry: BdevEntry): void {
    for (const { going } of this.#missing) going.delete(entry);
  }

  /**
   * Resolves when what there is now is stable. Throws what the system says: then the change is in effect, and not kept.
   */
  keep(): Promise<void> {
    // One write at a time. It takes what there is when it begins, so all who come while one runs share the next.
    this.#next ??= this.#writing
      .catch(() => undefined)
      .then(() => {
        this.#next = null;
        this.#writing = this.#write();
        return this.#writing;
      });
    return this.#next;
  }

  /** Before something is changed. Throws when the last change could still not be kept. */
  async beReady(): Promise<void> {
    await this.#restored.promise;
    if (!this.#isBehind) return;
    try {
      await this.keep();
    } catch (error) {
      const { message, errno, code } = error as TargetError;
      const text = `an earlier change is not kept yet, so nothing is changed until it can be: ${message}`;
      throw new TargetError(code, text, { errno, cause: error });
    }
  }

  /** What the daemon does from now on, such as deleting everything, is not kept. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#next?.catch(() => undefined);
    await this.#writing.catch(() => undefined);
    this.directory.close();
  }

  async #write(): Promise<void> {
    if (this.#isClosed) throw new TargetError('ECANCELED', 'the daemon is stopping: the change is not kept');
    const text = this.#text();
    if (text === this.#written) return;
    this.#written = null;
    this.#isBehind = true;
    try {
      await this.directory.write(text);
    } catch (error) {
      const { message, errno, code } = error as TargetError;
      this.#log.error(`state: ${message}`);
      const fate = 'what was changed is in effect, but a restart brings back what was there before';
      throw new TargetError(code, `${message}; ${fate}`, { errno, cause: error });
    }
    this.#written = text;
    this.#isBehind = false;
  }

  #text(): string {
    const { subsystems } = this.current();
    const made = new Set(subsystems.flatMap(({ config }) => config ?? []).map(identityOf));
    this.#dropObsolete(made);
    // What is missing comes last: it may stand on what is there, never the other way round.
    const all = subsystems.map(({ subsystem, config }) => {
      const missing = this.#missing.filter((entry) => entry.subsystem === subsystem && !made.has(identityOf(entry)));
      return { subsystem, config: [...(config ?? []), ...missing.map(({ method, params }) => ({ method, params }))] };
    });
    return `${JSON.stringify({ version: VERSION, subsystems: all }, null, 2)}\n`;
  }

  /** What has been made again, whoever did it, is not missing; nor is what belongs to a controller that was deleted. */
  #dropObsolete(made: ReadonlySet<string>): void {
    const controllers = new Set(made);
    for (const entry of this.#missing) if (isController(entry)) controllers.add(identityOf(entry));
    this.#missing = this.#missing.filter((entry) => {
      if (entry.going.size > 0) return true;
      const ctrlr = entry.params?.['ctrlr'];
      return !made.has(identityOf(entry)) && (ctrlr === undefined || controllers.has(controllerIdentity(ctrlr)));
    });
  }

  #addMissing(subsystem: string, call: ConfigCall, reason: string, going: readonly BdevEntry[] = []): void {
    const identity = identityOf(call);
    if (this.#missing.some((entry) => identityOf(entry) === identity)) return;
    this.#missing.push({ id: ++this.#lastId, subsystem, ...call, reason, going: new Set(going) });
  }
}

/** Throws `EINVAL`. */
function parseState(text: string, path: string): ConfigFile {
  const advice = 'it was left as it is: mend it, or move it away to start with nothing';
  let config: ConfigFile;
  try {
    config = parseConfig(text, path);
  } catch (error) {
    throw new TargetError('EINVAL', `${(error as Error).message}; ${advice}`, { cause: error });
  }
  const { version } = JSON.parse(text) as { readonly version?: unknown };
  const strange = config.subsystems.find(({ subsystem }) => SUBSYSTEMS.every((own) => own.subsystem !== subsystem));
  if (version === VERSION && strange === undefined) return config;
  const what = strange === undefined ? `its version is ${String(version)}` : `it has a subsystem ${strange.subsystem}`;
  throw new TargetError('EINVAL', `${path} is not of this version of Ringhost: ${what}; ${advice}`);
}

/** Methods that may change what is kept, by what they are called. Others read, or are about the daemon itself. */
export const CHANGES = /^(?:accel_crypto_key_|bdev_(?!get_)|vhost_(?!get_)|delete_|load_|config_apply)/;

/** Handlers that answer when what they changed is kept. */
export function keepChanges(handlers: DaemonHandlers, state: State): DaemonHandlers {
  const kept = Object.entries(handlers).map(([name, handler]) => {
    const call = handler as (params: unknown, context: unknown) => unknown;
    if (!CHANGES.test(name)) return [name, handler];
    const keeping = async (params: unknown, context: unknown): Promise<unknown> => {
      await state.beReady();
      let result: unknown;
      try {
        result = await call(params, context);
      } catch (error) {
        // Something may have changed all the same; that the call failed is what the client must hear.
        await state.keep().catch(() => undefined);
        throw error;
      }
      await state.keep();
      return result;
    };
    return [name, keeping];
  });
  return Object.fromEntries(kept) as DaemonHandlers;
}
