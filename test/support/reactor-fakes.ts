/** Reactors, with sources and drives that only record. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach } from 'vitest';
import {
  type Drive,
  REACTOR_COUNTERS,
  Reactor,
  ReactorCounter,
  type ReactorMode,
  type Source,
  SPIN_NS,
} from '../../src/reactor/reactor.ts';
import { closeFd, createEventFd, readEventFd } from '../../src/sys/events.ts';

const opened: Reactor[] = [];
const fds: number[] = [];
afterEach(() => {
  for (const fd of fds.splice(0)) closeFd(fd);
  for (const reactor of opened.splice(0)) reactor.close();
});

export function reactorOf(mode: ReactorMode = 'adaptive'): Reactor {
  const reactor = new Reactor(mode, new Float64Array(REACTOR_COUNTERS));
  opened.push(reactor);
  return reactor;
}

export function eventFd(): number {
  fds.push(createEventFd());
  return fds.at(-1) as number;
}

export const counterOf = (reactor: Reactor, counter: number): number => reactor.counters[counter] as number;
export const isSleeping = (reactor: Reactor): boolean => counterOf(reactor, ReactorCounter.sleeping) === 1;

export class FakeSource implements Source {
  isAwake = false;
  wake: () => void = () => {};
  isBusy = false;
  inFlight = 0;
  /** What `arm` answers, and then false. */
  readonly armAnswers: boolean[] = [];
  /** Work there is. */
  waiting = 0;
  takes = 0;
  publishes = 0;
  arms = 0;
  disarms = 0;
  onTake: () => void = () => {};
  readonly #name: string;
  readonly #events: string[];

  constructor(name = 'source', events: string[] = []) {
    this.#name = name;
    this.#events = events;
  }

  take(): number {
    this.takes++;
    this.#events.push(`take ${this.#name}`);
    this.onTake();
    const taken = this.waiting;
    this.waiting = 0;
    return taken;
  }

  publish(): void {
    this.publishes++;
    this.#events.push(`publish ${this.#name}`);
  }

  arm(): boolean {
    this.arms++;
    return this.armAnswers.shift() ?? false;
  }

  disarm(): void {
    this.disarms++;
  }
}

/** A disk that completes when it is told to, and can say so. */
export class FakeDrive implements Drive {
  isAwake = false;
  wake: () => void = () => {};
  inFlight = 0;
  wakeFd = -1;
  /** What `arm` answers, and then false. */
  readonly armAnswers: boolean[] = [];
  arms = 0;
  disarms = 0;
  polls = 0;
  onPoll: () => number = () => 0;

  poll(): number {
    this.polls++;
    return this.onPoll();
  }

  arm(): boolean {
    this.arms++;
    return this.armAnswers.shift() ?? false;
  }

  disarm(): void {
    this.disarms++;
    if (this.wakeFd >= 0) readEventFd(this.wakeFd);
  }

  submit(): void {
    this.inFlight++;
    if (!this.isAwake) this.wake();
  }

  /** A request ends, which its queue must publish. */
  complete(source: FakeSource): number {
    this.inFlight--;
    if (!source.isAwake) source.wake();
    return 1;
  }

  static signalling(): FakeDrive {
    const drive = new FakeDrive();
    drive.wakeFd = eventFd();
    return drive;
  }
}

/** Longer than a silent source is polled. */
export const silence = (): Promise<void> => delay((3 * SPIN_NS) / 1e6);
