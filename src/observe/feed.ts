/**
 * One frame a second of what the daemon does, for whoever subscribes. While nobody does, nothing is measured: an idle
 * daemon stays idle.
 */
import type { Call } from '../rpc/methods.ts';
import type { LogEvent } from './event-log.ts';
import type { Frame } from './frame.ts';
import { ratesBetween } from './rates.ts';
import type { Sample } from './sample.ts';
import { takeSample } from './take-sample.ts';

export interface FeedSource {
  readonly call: Call;
  eventsSince(id: number): readonly LogEvent[];
}

export type FrameListener = (frame: Frame) => void;

const INTERVAL_MS = 1000;
/** Frames that a new subscriber is given at once: five minutes. */
const HISTORY_MAX = 300;

export class Feed {
  readonly #source: FeedSource;
  readonly #onError: (error: Error) => void;
  readonly #listeners = new Set<FrameListener>();
  readonly #history: Frame[] = [];
  #last: Sample | null = null;
  #lastEventId = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(source: FeedSource, onError: (error: Error) => void) {
    this.#source = source;
    this.#onError = onError;
  }

  /** Calls with the frames of the last minutes, if somebody looked, then with every new one. Returns what ends it. */
  subscribe(listener: FrameListener): () => void {
    for (const frame of this.#history) listener(frame);
    this.#listeners.add(listener);
    if (this.#timer === null) this.#start();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.close();
    };
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    // The next frame is not the average of a time in which nobody looked.
    this.#last = null;
  }

  #start(): void {
    const tick = (): void => {
      this.#tick().catch(this.#onError);
    };
    tick();
    this.#timer = setInterval(tick, INTERVAL_MS);
  }

  async #tick(): Promise<void> {
    const now = await takeSample(this.#source.call);
    const before = this.#last;
    if (this.#timer === null) return;
    this.#last = now;
    if (before === null) return;
    const events = this.#source.eventsSince(this.#lastEventId);
    this.#lastEventId = events.at(-1)?.id ?? this.#lastEventId;
    const frame = { timeMs: Date.now(), rates: ratesBetween(before, now), events };
    this.#history.push(frame);
    if (this.#history.length > HISTORY_MAX) this.#history.shift();
    for (const listener of this.#listeners) listener(frame);
  }
}
