/** The loop of one core, with sources and drives that only record. */
import { setTimeout as delay } from 'node:timers/promises';
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
import { turns, until } from '../../test/support/waiting.ts';
import { readEventFd, signalEventFd } from '../sys/events.ts';
import { REACTOR_COUNTERS, Reactor, ReactorCounter } from './reactor.ts';

describe('a round', () => {
  it('takes from every source, then drives, then publishes', () => {
    const reactor = reactorOf();
    const events: string[] = [];
    const [a, b] = [new FakeSource('a', events), new FakeSource('b', events)];
    const drive = new FakeDrive();
    drive.onPoll = () => events.push('drive');
    reactor.add(a);
    reactor.add(b);
    reactor.addDrive(drive);
    drive.submit();
    reactor.round();
    expect(events).toEqual(['take a', 'take b', 'drive', 'publish a', 'publish b']);
  });

  it('counts what was taken and what completed', () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    reactor.add(source);
    const drive = new FakeDrive();
    drive.onPoll = () => 5;
    reactor.addDrive(drive);
    drive.submit();
    source.waiting = 3;
    expect(reactor.round()).toBe(8);
    expect(reactor.round()).toBe(5);
  });

  it('leaves out what was removed', () => {
    const reactor = reactorOf();
    const [kept, removed] = [new FakeSource(), new FakeSource()];
    const drive = new FakeDrive();
    reactor.add(kept);
    reactor.add(removed);
    reactor.addDrive(drive);
    drive.submit();
    reactor.remove(removed);
    reactor.remove(removed);
    reactor.removeDrive(drive);
    reactor.removeDrive(drive);
    reactor.round();
    expect([kept.takes, removed.takes, drive.polls]).toEqual([1, 0, 0]);
  });

  it('goes on with the others when a source removes itself, or is added, in the middle', () => {
    const reactor = reactorOf();
    const [first, second, late] = [new FakeSource(), new FakeSource(), new FakeSource()];
    first.onTake = () => {
      reactor.remove(first);
      reactor.add(late);
    };
    reactor.add(first);
    reactor.add(second);
    reactor.round();
    first.onTake = () => {};
    reactor.round();
    expect([first.takes, second.takes]).toEqual([1, 2]);
    expect(late.takes).toBeGreaterThanOrEqual(1);
  });

  it('of nothing is nothing', () => {
    expect(reactorOf().round()).toBe(0);
  });
});

describe('an adaptive reactor', () => {
  it('sleeps from the start, and does not turn while it sleeps', async () => {
    const reactor = reactorOf();
    await turns();
    expect(isSleeping(reactor)).toBe(true);
    expect(counterOf(reactor, ReactorCounter.turns)).toBe(0);
  });

  it('polls a new source without kicks until it was silent for a while, then asks for one and sleeps', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    reactor.add(source);
    expect([isSleeping(reactor), source.disarms]).toEqual([false, 1]);
    await until(() => isSleeping(reactor), 'sleep');
    expect([source.arms, source.disarms]).toEqual([1, 1]);
    expect(source.takes).toBeGreaterThan(0);
    const takes = source.takes;
    const turned = counterOf(reactor, ReactorCounter.turns);
    await turns();
    expect([source.takes, counterOf(reactor, ReactorCounter.turns)]).toEqual([takes, turned]);
  });

  it('that an event woke goes on in the turn of that event', async () => {
    const [reactor, source, kick] = [reactorOf(), new FakeSource(), eventFd()];
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    const takes = source.takes;
    const takesAfterEvent = await new Promise((resolve) => {
      const onKick = (): void => {
        reactor.wake(source);
        queueMicrotask(() => resolve(source.takes));
      };
      reactor.fdSet.add(kick, onKick, { edge: true });
      signalEventFd(kick);
    });
    expect(takesAfterEvent).toBeGreaterThan(takes);
  });

  it('looks after those that sleep in the middle of a burst of others', async () => {
    const reactor = reactorOf();
    const [busy, sleeper] = [new FakeSource(), new FakeSource()];
    const kick = eventFd();
    reactor.fdSet.add(kick, () => reactor.wake(sleeper), { edge: true });
    reactor.add(sleeper);
    let kickedIn = 0;
    const wokenIn = await new Promise((resolve) => {
      // One kick a burst. A busy machine may end a burst before there was a look.
      busy.onTake = () => {
        busy.waiting = 1;
        const now = counterOf(reactor, ReactorCounter.turns);
        if (sleeper.isAwake && now === kickedIn) resolve(now);
        if (sleeper.isAwake || now === kickedIn) return;
        kickedIn = now;
        signalEventFd(kick);
      };
      reactor.add(busy);
    });
    expect(wokenIn).toBe(kickedIn);
  });

  it('stays awake when work came while it asked', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    source.armAnswers.push(true, true);
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    // Twice it stayed, and said again that it needs no kick.
    expect([source.arms, source.disarms]).toEqual([3, 3]);
  });

  it('never asks for a kick while the source is busy', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    source.isBusy = true;
    reactor.add(source);
    await silence();
    await turns();
    expect([source.arms, isSleeping(reactor)]).toEqual([0, false]);
    source.isBusy = false;
    await until(() => isSleeping(reactor), 'sleep');
    expect(source.arms).toBe(1);
  });

  it('stays awake as long as there is work', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    source.onTake = () => {
      source.waiting = 1;
    };
    reactor.add(source);
    await silence();
    await turns();
    expect([source.arms, isSleeping(reactor)]).toEqual([0, false]);
  });

  it('lets a silent source wait for its kick while another is busy', async () => {
    const reactor = reactorOf();
    const [busy, silent] = [new FakeSource(), new FakeSource()];
    busy.isBusy = true;
    reactor.add(busy);
    reactor.add(silent);
    await until(() => silent.arms === 1, 'silent source');
    const takes = silent.takes;
    const before = busy.takes;
    await until(() => busy.takes > before + 100, 'rounds of the busy one');
    expect([silent.takes, silent.arms]).toEqual([takes, 1]);
  });

  it('is woken by a kick', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    const takes = source.takes;
    source.waiting = 1;
    reactor.wake(source);
    expect([isSleeping(reactor), source.disarms]).toEqual([false, 2]);
    await until(() => source.takes > takes, 'work taken');
    await until(() => isSleeping(reactor), 'sleep');
    expect(source.arms).toBe(2);
  });

  it('does not mind a kick for a source that is awake, or that it does not know', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    reactor.add(source);
    for (let i = 0; i < 3; i++) reactor.wake(source);
    reactor.wake(new FakeSource());
    expect(source.disarms).toBe(1);
    reactor.round();
    expect(source.takes).toBe(1);
    reactor.remove(source);
    reactor.wake(source);
    await until(() => isSleeping(reactor), 'sleep');
    expect([source.takes, source.arms]).toEqual([1, 0]);
  });

  it('wakes one source, and the other sleeps on', async () => {
    const reactor = reactorOf();
    const [a, b] = [new FakeSource(), new FakeSource()];
    reactor.add(a);
    reactor.add(b);
    await until(() => isSleeping(reactor), 'sleep');
    const takes = b.takes;
    reactor.wake(a);
    await until(() => isSleeping(reactor), 'sleep');
    expect([b.takes, a.arms, b.arms]).toEqual([takes, 2, 1]);
  });

  it('removes a source while it sleeps', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    reactor.remove(source);
    reactor.wake(source);
    expect(isSleeping(reactor)).toBe(true);
  });

  it('accounts for its time: busy, idle or asleep', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    const times = () => [counterOf(reactor, ReactorCounter.busyNs), counterOf(reactor, ReactorCounter.idleNs)] as const;
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    const [busyBefore, idleBefore] = times();
    expect([busyBefore, idleBefore > 0]).toEqual([0, true]);
    const end = source.takes + 5000;
    source.onTake = () => {
      source.waiting = source.takes < end ? 1 : 0;
    };
    reactor.wake(source);
    await until(() => isSleeping(reactor) && source.takes >= end, 'sleep after work');
    const [busy, idle] = times();
    expect(busy).toBeGreaterThan(0);
    expect(idle).toBeGreaterThan(idleBefore);
  });

  it('leaves the loop to others while it turns', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    source.isBusy = true;
    reactor.add(source);
    let timers = 0;
    for (let i = 0; i < 5; i++) {
      await delay(1);
      timers++;
    }
    expect([timers, isSleeping(reactor)]).toEqual([5, false]);
  });

  it('does nothing once it was closed', async () => {
    const reactor = new Reactor('adaptive', new Float64Array(REACTOR_COUNTERS));
    const source = new FakeSource();
    source.isBusy = true;
    reactor.add(source);
    await turns(2);
    reactor.close();
    const takes = source.takes;
    await turns();
    expect(source.takes).toBe(takes);
  });
});

describe('a drive', () => {
  it('is polled only while it has something in flight', async () => {
    const reactor = reactorOf();
    const [source, drive] = [new FakeSource(), new FakeDrive()];
    source.isBusy = true;
    reactor.add(source);
    reactor.addDrive(drive);
    reactor.round();
    expect(drive.polls).toBe(0);
    drive.submit();
    reactor.round();
    expect(drive.polls).toBe(1);
    drive.complete(source);
    await until(() => !drive.isAwake, 'the drive to leave');
    const { polls } = drive;
    const { takes } = source;
    await until(() => source.takes > takes + 100, 'rounds without it');
    expect([drive.polls, drive.arms]).toEqual([polls, 0]);
  });

  it('that cannot say when something completes keeps the reactor awake, but not its queue', async () => {
    const reactor = reactorOf();
    const [source, drive] = [new FakeSource(), new FakeDrive()];
    reactor.add(source);
    reactor.addDrive(drive);
    drive.submit();
    await until(() => !source.isAwake, 'the queue to wait for its kick');
    await silence();
    await turns();
    expect([isSleeping(reactor), source.arms, drive.arms]).toEqual([false, 1, 0]);
    const { publishes } = source;
    drive.onPoll = () => (drive.inFlight > 0 ? drive.complete(source) : 0);
    await until(() => source.publishes > publishes, 'publishing of what completed');
    await until(() => isSleeping(reactor), 'sleep');
  });

  it('that hears of completions from another drive lets the reactor sleep with requests in flight', async () => {
    const reactor = reactorOf();
    const drive = new FakeDrive();
    drive.wakeFd = -2;
    reactor.addDrive(drive);
    drive.submit();
    await until(() => isSleeping(reactor), 'sleep');
    expect([drive.isAwake, drive.inFlight, drive.arms]).toEqual([false, 1, 0]);
    drive.submit();
    expect(drive.isAwake).toBe(true);
    await until(() => isSleeping(reactor), 'sleep again');
  });

  it('that can say so lets the reactor sleep with requests in flight, and is woken by what completes', async () => {
    const reactor = reactorOf();
    const [source, drive] = [new FakeSource(), FakeDrive.signalling()];
    reactor.add(source);
    reactor.addDrive(drive);
    for (let i = 1; i <= 3; i++) {
      drive.onPoll = () => 0;
      drive.submit();
      await until(() => isSleeping(reactor), 'sleep');
      const turned = counterOf(reactor, ReactorCounter.turns);
      await turns();
      expect([drive.arms, drive.isAwake, counterOf(reactor, ReactorCounter.turns)]).toEqual([i, false, turned]);
      const { publishes } = source;
      drive.onPoll = () => (drive.inFlight > 0 ? drive.complete(source) : 0);
      signalEventFd(drive.wakeFd);
      await until(() => source.publishes > publishes, 'publishing of what completed');
      expect(drive.disarms).toBe(i);
      await until(() => isSleeping(reactor), 'sleep');
    }
  });

  it('that has something to poll for when it is asked stays', async () => {
    const reactor = reactorOf();
    const drive = FakeDrive.signalling();
    drive.armAnswers.push(true, true);
    reactor.addDrive(drive);
    drive.submit();
    await until(() => isSleeping(reactor), 'sleep');
    expect([drive.arms, drive.disarms]).toEqual([3, 2]);
  });

  it('is woken by a new request while it waits for an old one', async () => {
    const reactor = reactorOf();
    const drive = FakeDrive.signalling();
    reactor.addDrive(drive);
    drive.submit();
    await until(() => isSleeping(reactor), 'sleep');
    const { polls } = drive;
    drive.submit();
    await until(() => drive.polls > polls, 'poll');
    await until(() => isSleeping(reactor), 'sleep');
    expect([drive.arms, drive.disarms]).toEqual([2, 1]);
  });

  it('is polled rather than waited for while a queue is awake', async () => {
    const reactor = reactorOf();
    const [source, drive] = [new FakeSource(), FakeDrive.signalling()];
    source.isBusy = true;
    reactor.add(source);
    reactor.addDrive(drive);
    drive.submit();
    await silence();
    await turns();
    expect([drive.isAwake, drive.arms]).toEqual([true, 0]);
  });

  it('is not watched any more once it was removed', async () => {
    const reactor = reactorOf();
    const drive = FakeDrive.signalling();
    reactor.addDrive(drive);
    drive.submit();
    await until(() => isSleeping(reactor), 'sleep');
    reactor.removeDrive(drive);
    signalEventFd(drive.wakeFd);
    drive.submit();
    await turns();
    expect([isSleeping(reactor), drive.disarms]).toEqual([true, 1]);
  });
});

describe('a source in poll mode', () => {
  it('is never asked to wait for a kick, and keeps the reactor awake until it is removed', async () => {
    const reactor = reactorOf('poll');
    const source = new FakeSource();
    expect(isSleeping(reactor)).toBe(true);
    reactor.add(source);
    await silence();
    await until(() => counterOf(reactor, ReactorCounter.turns) > 5, 'turns');
    expect([isSleeping(reactor), source.arms]).toEqual([false, 0]);
    reactor.remove(source);
    await until(() => isSleeping(reactor), 'sleep');
  });

  it('may have neighbours in other modes', async () => {
    const reactor = reactorOf('adaptive');
    const [polled, silent] = [new FakeSource(), new FakeSource()];
    reactor.add(polled, 'poll');
    reactor.add(silent);
    await until(() => !silent.isAwake, 'the silent one to leave');
    expect([polled.arms, isSleeping(reactor)]).toEqual([0, false]);
  });
});

describe('a source whose mode changes', () => {
  it('to poll comes back, and to another may leave again', async () => {
    const reactor = reactorOf();
    const source = new FakeSource();
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    reactor.setMode(source, 'poll');
    const { takes } = source;
    await silence();
    await until(() => source.takes > takes, 'rounds');
    expect([isSleeping(reactor), source.arms]).toEqual([false, 1]);
    reactor.setMode(source, 'interrupt');
    await until(() => isSleeping(reactor), 'sleep');
    expect(source.arms).toBe(2);
    reactor.setMode(new FakeSource(), 'poll');
    expect(isSleeping(reactor)).toBe(true);
  });
});

describe('a drive whose threads want the core', () => {
  // A single request: as many offers of the core as between two looks at the clock, though the mode is to spin.
  it.each([1, 3])('is waited for, not polled, when it has %i requests', async (requests) => {
    const reactor = reactorOf();
    const source = new FakeSource();
    const drive = FakeDrive.signalling();
    Object.assign(drive, { sharesCores: true });
    reactor.add(source);
    reactor.addDrive(drive);
    source.onTake = () => {
      for (let i = 0; i < source.waiting; i++) drive.submit();
    };
    source.waiting = requests;
    drive.onPoll = () => (readEventFd(drive.wakeFd) > 0 ? drive.complete(source) : 0);
    await until(() => isSleeping(reactor), 'sleep with requests in flight');
    expect(drive.inFlight).toBe(requests);
    expect(drive.polls).toBeLessThan(requests === 1 ? 200 : 3);
    drive.disarm = () => {};
    signalEventFd(drive.wakeFd);
    await until(() => drive.inFlight === requests - 1, 'completion');
  });
});

describe('a source in interrupt mode', () => {
  it('asks for a kick as soon as there is no work', async () => {
    const reactor = reactorOf('interrupt');
    const source = new FakeSource();
    source.waiting = 1;
    reactor.add(source);
    await until(() => isSleeping(reactor), 'sleep');
    expect(source.arms).toBe(1);
    // One look at the clock is enough for it: it does not spin.
    expect(source.takes).toBeLessThan(200);
    reactor.wake(source);
    await until(() => isSleeping(reactor) && source.arms === 2, 'sleep again');
    expect(source.arms).toBe(2);
  });
});
