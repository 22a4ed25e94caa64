/** When a reactor lets the kernel have its core for requests that end in threads of its own. */
import { describe, expect, it } from 'vitest';
import {
  counterOf,
  eventFd,
  FakeDrive,
  FakeSource,
  isSleeping,
  reactorOf,
  silence,
} from '../../test/support/reactor-fakes.ts';
import { until } from '../../test/support/waiting.ts';
import { clockNs } from '../sys/thread.ts';
import { REST_NS, ReactorCounter } from './reactor.ts';

describe('a drive whose requests end in threads of the kernel', () => {
  /** A reactor, its source with one request in flight, and the drive that rests with it. */
  function resting() {
    const reactor = reactorOf('poll');
    const source = new FakeSource();
    const drive = new FakeDrive();
    const rests: number[] = [];
    const rest = (timeoutNs: number): number => {
      rests.push(timeoutNs);
      const start = clockNs();
      while (clockNs() < start + timeoutNs);
      return clockNs() - start;
    };
    Object.assign(drive, { rest });
    source.onTake = () => {
      if (source.waiting === 0) return;
      source.inFlight += source.waiting;
      drive.submit();
    };
    source.waiting = 1;
    reactor.add(source);
    reactor.addDrive(drive);
    return { reactor, source, drive, rests };
  }

  it('rests in each round without work, and its time counts as idle', async () => {
    const { reactor, drive, source, rests } = resting();
    await until(() => rests.length > 100, 'rests');
    const idle = counterOf(reactor, ReactorCounter.idleNs);
    expect(idle).toBeGreaterThanOrEqual(99 * REST_NS);
    expect(new Set(rests)).toEqual(new Set([REST_NS]));
    // The round of the request, and as many without work as rests: nobody spins.
    expect(drive.polls).toBeLessThanOrEqual(rests.length + 2);
    drive.onPoll = () => {
      source.inFlight--;
      drive.onPoll = () => 0;
      return drive.complete(source);
    };
    await until(() => drive.inFlight === 0, 'completion');
    const { length } = rests;
    await silence();
    expect(rests.length).toBe(length);
  });

  it('does not keep a neighbour waiting that brings a request every now and then', async () => {
    const { reactor, rests } = resting();
    await until(() => rests.length > 0, 'rests');
    const neighbour = new FakeSource();
    let takes = 0;
    reactor.add(neighbour);
    await silence();
    // Its requests are answered in the round, as those of a RAM disk are, and the next comes at once.
    neighbour.onTake = () => {
      neighbour.waiting = takes++ % 2;
    };
    await until(() => takes > 10, 'rounds');
    const { length } = rests;
    await until(() => takes > 1000, 'rounds');
    expect(rests.length).toBe(length);
  });

  it('does not rest in a reactor that sleeps as soon as it can', async () => {
    const { reactor, source, drive, rests } = resting();
    drive.wakeFd = eventFd();
    reactor.setMode(source, 'interrupt');
    await until(() => isSleeping(reactor), 'sleep');
    const { length } = rests;
    drive.wake();
    await until(() => isSleeping(reactor), 'sleep again');
    expect(rests.length).toBe(length);
  });
});
