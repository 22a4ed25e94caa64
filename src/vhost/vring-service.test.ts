/**
 * The reactor's side of a controller: queues that start, run by their kicks and stop, with nothing left of those that
 * fail.
 */
import { closeSync, openSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeBdev } from '../../test/support/bdev-rig.ts';
import { blkHeader, DATA, RIG_REGIONS, UNTOUCHED } from '../../test/support/blk-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { SILENT } from '../base/log.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import { IoType } from '../bdev/bdev-io.ts';
import type { MailboxHandler } from '../reactor/mailbox.ts';
import { REACTOR_COUNTERS, Reactor, ReactorCounter } from '../reactor/reactor.ts';
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../sys/events.ts';
import { NO_FD } from '../vhost-user/device.ts';
import { BlkRequestType, BlkStatus } from '../virtio/blk.ts';
import { DEFAULT_COALESCING } from './call-coalescing.ts';
import { countersOf, createQueueBlock, QueueCounter } from './queue-counters.ts';
import { createVringService, type StartCall, VringService } from './vring-service.ts';

const { IN, OUT, FLUSH } = BlkRequestType;
const { OK, IOERR } = BlkStatus;

let reactor: Reactor;
let service: Readonly<Record<string, MailboxHandler>>;
const rings: RingRig[] = [];
const fds: number[] = [];

beforeEach(() => {
  reactor = new Reactor('adaptive', new Float64Array(REACTOR_COUNTERS));
  service = createVringService(reactor, 0, SILENT);
});

afterEach(() => {
  reactor.close();
  for (const ring of rings.splice(0)) ring.close();
  for (const fd of fds.splice(0)) closeFd(fd);
});

function call(name: keyof typeof VringService, payload: unknown): unknown {
  const handler = service[VringService[name]] as (payload: unknown) => unknown;
  return handler(payload);
}

const isAsleep = (): boolean => reactor.counters[ReactorCounter.sleeping] === 1;

/** A queue as the main thread describes it, and the driver in front of it. */
class Guest {
  readonly ring = new RingRig({ size: 16, regions: RIG_REGIONS });
  readonly kickFd = createEventFd();
  readonly callFd = createEventFd();
  readonly counters = createQueueBlock();
  readonly sessionId: number;
  readonly index: number;
  #next = DATA;

  constructor(sessionId = 1, index = 0) {
    this.sessionId = sessionId;
    this.index = index;
    rings.push(this.ring);
    fds.push(this.kickFd, this.callFd);
  }

  startCall(
    parts: {
      bdev?: Partial<BdevDescription>;
      kickFd?: number;
      isWriteThrough?: boolean;
      isDetached?: boolean;
      base?: number;
    } = {},
  ): StartCall {
    const { memory, driver } = this.ring;
    return {
      sessionId: this.sessionId,
      controller: 'vhost.0',
      vring: {
        index: this.index,
        size: 16,
        descriptorAddress: memory.userAddressOf(driver.descriptorAddress),
        availableAddress: memory.userAddressOf(driver.availableAddress),
        usedAddress: memory.userAddressOf(driver.usedAddress),
        base: parts.base ?? 0,
        inflight: null,
        hasEventIdx: false,
        isPacked: false,
        isInOrder: false,
        kickFd: parts.kickFd ?? this.kickFd,
        callFd: this.callFd,
        errFd: NO_FD,
        log: null,
        regions: memory.regions.map(({ guestAddress, sizeBytes, userAddress }) => ({
          guestAddress,
          sizeBytes,
          userAddress,
          hostAddress: userAddress,
        })),
      },
      device: {
        kind: 'blk',
        bdev: describeBdev({ kind: 'null', ...parts.bdev }),
        isDetached: parts.isDetached ?? false,
        params: { isReadonly: false, hasRanges: true, isWriteThrough: parts.isWriteThrough ?? false, serial: 'S' },
      },
      counters: this.counters,
      sharerNumber: 1,
      isHeld: false,
      settings: { mode: 'adaptive', coalescing: DEFAULT_COALESCING, weight: 100 },
    };
  }

  start(parts?: Parameters<Guest['startCall']>[0]): void {
    call('start', this.startCall(parts));
  }

  async stop(): Promise<number> {
    return (await call('stop', { sessionId: this.sessionId, index: this.index })) as number;
  }

  /** Makes a request available, with a kick where the device wants one. Returns where its status byte will be. */
  submit(type: number, sector = 0): number {
    const { memory, driver } = this.ring;
    const at = this.#next;
    this.#next += 1024;
    memory.write(at, blkHeader(type, sector));
    memory.write(at + 16, new Uint8Array(600).fill(UNTOUCHED));
    const data = { gpa: at + 16, lengthBytes: 512, isWritable: type === IN };
    const status = { gpa: at + 528, lengthBytes: 1, isWritable: true };
    const hasData = type === IN || type === OUT;
    driver.expose(
      driver.addChain([{ gpa: at, lengthBytes: 16, isWritable: false }, ...(hasData ? [data] : []), status]),
    );
    if (driver.publish()) signalEventFd(this.kickFd);
    return at + 528;
  }

  statusAt(at: number): number {
    return this.ring.memory.bytes(at, 1)[0] as number;
  }

  async perform(type: number, sector = 0): Promise<number> {
    const at = this.submit(type, sector);
    await until(() => this.statusAt(at) !== UNTOUCHED, 'status');
    return this.statusAt(at);
  }
}

describe('a queue that is held', () => {
  it('touches nothing before it is released, however often the driver kicks', async () => {
    const guest = new Guest();
    call('start', { ...guest.startCall(), isHeld: true });
    const at = guest.submit(FLUSH);
    await turns();
    expect(guest.statusAt(at)).toBe(UNTOUCHED);
    call('release', null);
    await until(() => guest.statusAt(at) === OK, 'status');
    expect(await guest.perform(IN)).toBe(OK);
    expect(await guest.stop()).toBe(2);
  });

  it('can be stopped where it was to start', async () => {
    const guest = new Guest();
    call('start', { ...guest.startCall(), isHeld: true });
    expect(await guest.stop()).toBe(0);
    call('release', null);
  });
});

describe('a queue', () => {
  it('works off requests, sleeps, is woken by a kick, and stops where it is', async () => {
    const guest = new Guest();
    guest.start();
    expect(await guest.perform(FLUSH)).toBe(OK);
    for (let i = 0; i < 3; i++) {
      await until(isAsleep, 'sleep');
      expect(await guest.perform(IN)).toBe(OK);
    }
    expect(await guest.stop()).toBe(4);
    const counters = countersOf(guest.counters);
    expect([counters[QueueCounter.requests], counters[QueueCounter.kicks]]).toEqual([4, 3]);
    expect(readEventFd(guest.callFd)).toBeGreaterThan(0);
    // Nobody reads the kick descriptor: it is the driver's too.
    expect(readEventFd(guest.kickFd)).toBe(3);
  });

  it('without a kick descriptor is always polled', async () => {
    const guest = new Guest();
    guest.start({ kickFd: NO_FD });
    await turns(20);
    expect(isAsleep()).toBe(false);
    expect(await guest.perform(FLUSH)).toBe(OK);
    await guest.stop();
    await until(isAsleep, 'sleep');
  });

  it('is not looked at any more when it has stopped, and may start again', async () => {
    const guest = new Guest();
    guest.start();
    await guest.perform(FLUSH);
    expect(await guest.stop()).toBe(1);
    const at = guest.submit(FLUSH);
    signalEventFd(guest.kickFd);
    await turns(20);
    expect(guest.statusAt(at)).toBe(UNTOUCHED);
    guest.start({ base: 1 });
    await until(() => guest.statusAt(at) === OK, 'status');
    expect(await guest.stop()).toBe(2);
  });

  it('is started and stopped once', async () => {
    const guest = new Guest();
    guest.start();
    expect(() => guest.start()).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    await guest.stop();
    await expect(guest.stop()).rejects.toMatchObject({ code: 'ENODEV' });
  });

  it('runs beside others, of its session and of another', async () => {
    const guests = [new Guest(1, 0), new Guest(1, 1), new Guest(11, 0)];
    for (const guest of guests) guest.start();
    expect(await Promise.all(guests.map((guest) => guest.perform(IN)))).toEqual([OK, OK, OK]);
    await guests[0]?.stop();
    expect(await Promise.all(guests.slice(1).map((guest) => guest.perform(OUT)))).toEqual([OK, OK]);
    await Promise.all(guests.slice(1).map((guest) => guest.stop()));
  });
});

describe('a queue that cannot start', () => {
  it('because its kick descriptor cannot be watched leaves nothing behind that would look at its memory', async () => {
    const guest = new Guest();
    const file = openSync(import.meta.filename, 'r');
    expect(() => guest.start({ kickFd: file })).toThrow(expect.objectContaining({ name: 'TargetError' }));
    expect(() => guest.start({ kickFd: 99_999 })).toThrow(expect.objectContaining({ name: 'TargetError' }));
    closeSync(file);
    const at = guest.submit(FLUSH);
    await turns(50);
    expect([guest.statusAt(at), guest.ring.driver.usedIdx()]).toEqual([UNTOUCHED, 0]);
    // And it may start with a better one.
    guest.start();
    await until(() => guest.statusAt(at) === OK, 'status');
    expect(await guest.stop()).toBe(1);
  });

  it('because nobody knows its kind of bdev says so, and may start with another', async () => {
    const guest = new Guest();
    expect(() => guest.start({ bdev: { kind: 'floppy' } })).toThrow(expect.objectContaining({ code: 'ENOSYS' }));
    guest.start();
    expect(await guest.perform(FLUSH)).toBe(OK);
    await guest.stop();
  });
});

describe('a running queue', () => {
  it('gets another call descriptor', async () => {
    const guest = new Guest();
    guest.start();
    await guest.perform(FLUSH);
    readEventFd(guest.callFd);
    const other = createEventFd();
    fds.push(other);
    call('setCall', { sessionId: 1, index: 0, callFd: other });
    call('setCall', { sessionId: 1, index: 9, callFd: other });
    await guest.perform(FLUSH);
    await until(() => readEventFd(other) > 0, 'call');
    expect(readEventFd(guest.callFd)).toBe(-11);
    await guest.stop();
  });

  it('fails its requests once its session is detached; other sessions do not notice', async () => {
    const [guest, other] = [new Guest(1), new Guest(11)];
    guest.start();
    other.start();
    call('detach', 1);
    expect([await guest.perform(FLUSH), await other.perform(FLUSH)]).toEqual([IOERR, OK]);
    await guest.stop();
    await other.stop();
  });

  it('that is started for a controller without a disk fails its requests, and nobody else’s on the bdev', async () => {
    const [guest, other] = [new Guest(1), new Guest(11)];
    guest.start({ isDetached: true });
    other.start();
    expect([await guest.perform(FLUSH), await other.perform(FLUSH)]).toEqual([IOERR, OK]);
    await guest.stop();
    await other.stop();
  });

  it('changes its mode while it runs, and the others of its reactor do not', async () => {
    const [guest, other] = [new Guest(1), new Guest(11)];
    guest.start();
    other.start();
    await until(isAsleep, 'sleep');
    call('tune', { sessionId: 1, settings: { mode: 'poll', coalescing: DEFAULT_COALESCING, weight: 100 } });
    await turns(20);
    expect(isAsleep()).toBe(false);
    // It is polled: no kick is needed.
    expect(await guest.perform(FLUSH)).toBe(OK);
    call('tune', { sessionId: 1, settings: { mode: 'adaptive', coalescing: DEFAULT_COALESCING, weight: 100 } });
    await until(isAsleep, 'sleep');
    await guest.stop();
    await other.stop();
  });

  it('sees its bdev grow, and go', async () => {
    const guest = new Guest();
    guest.start({ bdev: { blockCount: 8 } });
    expect(await guest.perform(IN, 8)).toBe(IOERR);
    call('bdevChanged', describeBdev({ kind: 'null', blockCount: 9 }));
    expect(await guest.perform(IN, 8)).toBe(OK);
    await call('bdevRemoved', 1);
    expect(await guest.perform(IN, 0)).toBe(IOERR);
    await call('bdevRemoved', 77);
    await guest.stop();
  });

  it('shares its bdev with others: it is gone for all of them at once', async () => {
    const guests = [new Guest(1, 0), new Guest(1, 1), new Guest(2, 0)];
    for (const guest of guests) guest.start();
    await Promise.all([call('bdevRemoved', 1), call('bdevRemoved', 1)]);
    expect(await Promise.all(guests.map((guest) => guest.perform(IN)))).toEqual([IOERR, IOERR, IOERR]);
    await Promise.all(guests.map((guest) => guest.stop()));
    const late = new Guest(3);
    late.start({ bdev: { isRemoved: true } });
    expect(await late.perform(IN)).toBe(IOERR);
    await late.stop();
  });

  it('becomes write-through with its session', async () => {
    const guest = new Guest();
    const bdev = { hasWriteCache: true, ioTypes: [IoType.read, IoType.write, IoType.flush] };
    guest.start({ bdev });
    call('setWriteThrough', { sessionId: 1, isWriteThrough: true });
    call('setWriteThrough', { sessionId: 99, isWriteThrough: true });
    expect(await guest.perform(OUT)).toBe(OK);
    await guest.stop();
  });
});
