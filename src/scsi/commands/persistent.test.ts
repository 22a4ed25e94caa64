import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RunOptions, ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';

const NEXUSES = 4;
const READY = '00 00 00 00 00 00';
const READ = '28 00 00 00 00 00 00 00 01 00';
const WRITE = '2a 00 00 00 00 00 00 00 01 00';
const CONFLICT = 0x18;
const Action = { register: 0, reserve: 1, release: 2, clear: 3, preempt: 4, abort: 5, ignore: 6, move: 7 } as const;
const TYPES = [1, 3, 5, 6, 7, 8] as const;

let rig: ScsiRig;
beforeEach(() => {
  rig = new ScsiRig({ nexusCount: NEXUSES });
});
afterEach(() => rig.close());

/** PERSISTENT RESERVE OUT of a nexus. */
function out(nexus: number, action: number, key: number, newKey = 0, type = 0, flags = 0) {
  const list = new Uint8Array(24);
  new DataView(list.buffer).setUint32(4, key);
  new DataView(list.buffer).setUint32(12, newKey);
  list[20] = flags;
  return rig.run([0x5f, action, type, 0, 0, 0, 0, 0, 24, 0], { out: list, nexus });
}

function statusOf(nexus: number, cdb: string): number {
  const data: RunOptions = cdb === WRITE ? { out: new Uint8Array(512) } : cdb === READ ? { in: 512 } : {};
  return rig.run(cdb, { nexus, ...data }).status;
}

/** Asked by a nexus that takes no part, so that its attentions are not in the way. */
const persistentIn = (action: number, nexus = 3, length = 255): number[] => [
  ...rig.run([0x5e, action, 0, 0, 0, 0, 0, length >>> 8, length & 0xff, 0], { in: length, nexus }).data,
];
const generation = (): number => persistentIn(0)[3] as number;
const keys = (): number[] =>
  persistentIn(0)
    .slice(8)
    .filter((_, i) => i % 8 === 7);
/** Type of the reservation and the last byte of its key, or nothing. */
const reservation = (): number[] =>
  persistentIn(1)
    .slice(8)
    .filter((_, i) => i === 7 || i === 13);

describe('PERSISTENT RESERVE OUT, registrations', () => {
  it('REGISTER wants the right key, and 0 unregisters', () => {
    expect(out(0, Action.register, 5, 9).status).toBe(CONFLICT);
    expect(out(0, Action.register, 0, 9)).toMatchObject({ status: 0, transferred: 24, residual: 0 });
    expect(out(0, Action.register, 0, 10).status).toBe(CONFLICT);
    expect(keys()).toEqual([9]);
    expect(out(0, Action.register, 9, 10).status).toBe(0);
    expect(out(1, Action.ignore, 77, 11).status).toBe(0);
    expect(keys()).toEqual([10, 11]);
    expect(generation()).toBe(3);
    expect(out(0, Action.register, 10, 0).status).toBe(0);
    expect(out(2, Action.register, 0, 0).status).toBe(0);
    expect(keys()).toEqual([11]);
    expect(generation()).toBe(4);
  });

  it('refuses to outlive the power, and to register others', () => {
    for (const flags of [0x01, 0x08]) {
      const answer = out(0, Action.register, 0, 9, 0, flags);
      expect([answer.sense, answer.senseBytes[17]]).toEqual(['5/26/00', 20]);
    }
    expect(out(0, Action.register, 0, 9, 0, 0x04).status).toBe(0);
  });

  it('wants 24 bytes of parameters', () => {
    const short = rig.run('5f 00 00 00 00 00 00 00 17 00', { out: new Uint8Array(23) });
    expect(short.sense).toBe('5/1A/00');
    expect(rig.run('5f 06 00 00 00 00 01 00 18 00', { out: new Uint8Array(24) }).sense).toBe('5/1A/00');
    expect(rig.run('5f 06 00 00 00 00 00 00 18 00', { out: new Uint8Array(20) }).response).toBe(1);
    expect(rig.run('5f 08 00 00 00 00 00 00 18 00', { out: new Uint8Array(24) }).sense).toBe('5/24/00');
  });

  it('REGISTER AND MOVE gives the reservation to another nexus', () => {
    const move = (newKey: number, to: number, flags = 0, port = 1) => {
      const list = new Uint8Array(48);
      list[7] = 1;
      list[15] = newKey;
      list[17] = flags;
      list[19] = port;
      list[23] = 24;
      list[24] = 0x06;
      list.set([0x30, 0, 0, 0, 0, 0, 0, to], 28);
      return rig.run('5f 07 00 00 00 00 00 00 30 00', { out: list });
    };
    out(0, Action.register, 0, 1);
    expect(move(7, 2).status).toBe(CONFLICT);
    out(0, Action.reserve, 1, 0, 3);
    expect(move(0, 2).sense).toBe('5/26/00');
    expect(move(7, 0).sense).toBe('5/26/00');
    expect(move(7, 9).sense).toBe('5/26/00');
    expect(move(7, 2, 0, 2).sense).toBe('5/26/00');
    expect(move(7, 2, 1).sense).toBe('5/26/00');
    expect(move(7, 2, 2).status).toBe(0);
    expect(keys()).toEqual([7]);
    expect(reservation()).toEqual([7, 3]);
    expect(statusOf(2, WRITE)).toBe(0);
    expect(statusOf(0, READ)).toBe(CONFLICT);
  });
});

describe('PERSISTENT RESERVE OUT, the reservation', () => {
  it.each(TYPES)('of type %i lets in whom it should', (type) => {
    const readers = { 1: 'all', 3: 'holder', 5: 'all', 6: 'registrants', 7: 'all', 8: 'registrants' }[type];
    const writers = type < 5 ? 'holder' : 'registrants';
    const may = (who: string, nexus: number): number => {
      const isIn = who === 'all' || nexus === 0 || (who === 'registrants' && nexus === 1);
      return isIn ? 0 : CONFLICT;
    };
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    expect(out(2, Action.reserve, 0, 0, type).status).toBe(CONFLICT);
    expect(out(0, Action.reserve, 2, 0, type).status).toBe(CONFLICT);
    expect(out(0, Action.reserve, 1, 0, type).status).toBe(0);
    expect(out(0, Action.reserve, 1, 0, type).status).toBe(0);
    expect(reservation()).toEqual([type >= 7 ? 0 : 1, type]);
    for (const nexus of [0, 1, 2]) {
      expect(statusOf(nexus, READ), `read of ${nexus}`).toBe(may(readers, nexus));
      expect(statusOf(nexus, WRITE), `write of ${nexus}`).toBe(may(writers, nexus));
      for (const free of [READY, '25 00 00 00 00 00 00 00 00 00']) {
        expect(rig.run(free, { in: 8, nexus }).status).toBe(0);
      }
    }
    expect(out(1, Action.reserve, 2, 0, type).status).toBe(type >= 7 ? 0 : CONFLICT);
    expect(out(0, Action.reserve, 1, 0, type === 1 ? 3 : 1).status).toBe(CONFLICT);
    expect(out(0, Action.release, 1, 0, type).status).toBe(0);
    expect(reservation()).toEqual([]);
    // Who could not know of it is told.
    expect(rig.run(READY, { nexus: 1 }).sense).toBe(type < 5 ? '' : '6/2A/04');
    expect(statusOf(2, WRITE)).toBe(0);
  });

  it('has no other types or scopes', () => {
    out(0, Action.register, 0, 1);
    for (const type of [0, 2, 4, 9, 15, 0x11, 0x23]) expect(out(0, Action.reserve, 1, 0, type).sense).toBe('5/24/00');
  });

  it('is released as what it is, by who holds it', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    expect(out(0, Action.release, 1, 0, 1).status).toBe(0);
    out(0, Action.reserve, 1, 0, 1);
    expect(out(0, Action.release, 1, 0, 3).sense).toBe('5/26/04');
    expect(out(0, Action.release, 2, 0, 1).status).toBe(CONFLICT);
    expect(out(1, Action.release, 2, 0, 1).status).toBe(0);
    expect(reservation()).toEqual([1, 1]);
  });

  it('ends with the registration of its holder, or of the last registrant', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    out(0, Action.reserve, 1, 0, 5);
    out(0, Action.register, 1, 0);
    expect(reservation()).toEqual([]);
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('6/2A/04');
    out(0, Action.register, 0, 1);
    out(0, Action.reserve, 1, 0, 8);
    out(0, Action.register, 1, 0);
    expect(reservation()).toEqual([0, 8]);
    expect(out(1, Action.release, 2, 0, 8).status).toBe(0);
    expect(reservation()).toEqual([]);
  });

  it('survives a session and a reset of the unit', () => {
    out(0, Action.register, 0, 1);
    out(0, Action.reserve, 1, 0, 3);
    rig.target.resetNexus(0);
    rig.target.manage({ function: 5, lun: 0, nexus: 0, tagLow: 0, tagHigh: 0 }, () => {});
    rig.clearAttention(NEXUSES);
    expect(reservation()).toEqual([1, 3]);
  });

  it('CLEAR takes everything, and tells the registrants', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    out(0, Action.reserve, 1, 0, 3);
    expect(out(2, Action.clear, 0).status).toBe(CONFLICT);
    expect(out(1, Action.clear, 2).status).toBe(0);
    expect([keys(), reservation(), generation()]).toEqual([[], [], 3]);
    expect(rig.run(READY, { nexus: 0 }).sense).toBe('6/2A/03');
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('');
  });

  it('does not mix with RESERVE, but lets the registrants believe in it', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    expect(rig.run('16 00 00 00 00 00').status).toBe(CONFLICT);
    out(0, Action.reserve, 1, 0, 3);
    expect(rig.run('16 00 00 00 00 00').status).toBe(0);
    expect(rig.run('17 00 00 00 00 00').status).toBe(0);
    expect(rig.run('16 00 00 00 00 00', { nexus: 1 }).status).toBe(CONFLICT);
    expect(rig.run('16 00 00 00 00 00', { nexus: 2 }).status).toBe(CONFLICT);
    expect(reservation()).toEqual([1, 3]);
  });
});

describe('PERSISTENT RESERVE OUT, PREEMPT', () => {
  it('takes registrations away when nothing is reserved', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    out(2, Action.register, 0, 2);
    expect(out(0, Action.preempt, 1, 9, 1).status).toBe(CONFLICT);
    expect(out(0, Action.preempt, 1, 0, 1).sense).toBe('5/26/00');
    expect(out(3, Action.preempt, 0, 2, 1).status).toBe(CONFLICT);
    expect(out(0, Action.preempt, 1, 2, 1).status).toBe(0);
    expect([keys(), reservation(), generation()]).toEqual([[1], [], 4]);
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('6/2A/05');
    expect(rig.run(READY, { nexus: 2 }).sense).toBe('6/2A/05');
  });

  it('takes the reservation over from its holder', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    out(2, Action.register, 0, 3);
    out(0, Action.reserve, 1, 0, 1);
    expect(out(1, Action.preempt, 2, 1, 6).status).toBe(0);
    expect([keys(), reservation()]).toEqual([
      [2, 3],
      [2, 6],
    ]);
    expect(rig.run(READY, { nexus: 0 }).sense).toBe('6/2A/05');
    expect(rig.run(READY, { nexus: 2 }).sense).toBe('6/2A/04');
    expect(statusOf(0, READ)).toBe(CONFLICT);
    expect(out(1, Action.preempt, 2, 2, 1).status).toBe(0);
    expect([keys(), reservation()]).toEqual([
      [2, 3],
      [2, 1],
    ]);
  });

  it('leaves the reservation alone when it names others', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    out(2, Action.register, 0, 3);
    out(0, Action.reserve, 1, 0, 1);
    expect(out(1, Action.preempt, 2, 3, 3).status).toBe(0);
    expect([keys(), reservation()]).toEqual([
      [1, 2],
      [1, 1],
    ]);
    expect(out(1, Action.preempt, 2, 1, 2).sense).toBe('5/24/00');
  });

  it('of a reservation for all names everybody with 0', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    out(2, Action.register, 0, 3);
    out(0, Action.reserve, 1, 0, 8);
    expect(out(1, Action.preempt, 2, 3, 8).status).toBe(0);
    expect([keys(), reservation()]).toEqual([
      [1, 2],
      [0, 8],
    ]);
    expect(out(1, Action.preempt, 2, 0, 3).status).toBe(0);
    expect([keys(), reservation()]).toEqual([[2], [2, 3]]);
  });

  it('AND ABORT ends after the tasks of those that it removes', () => {
    out(0, Action.register, 0, 1);
    out(1, Action.register, 0, 2);
    rig.disk.isHolding = true;
    const victim = rig.start(READ, { in: 512, nexus: 1 });
    const waiting = rig.start(READ, { in: 512, nexus: 1, attribute: 1 });
    const list = new Uint8Array(24);
    list[7] = 1;
    list[15] = 2;
    const preempt = rig.start('5f 05 01 00 00 00 00 00 18 00', { out: list, attribute: 2 });
    expect(waiting.answer).toMatchObject({ response: 2 });
    expect([victim.answer, preempt.answer]).toEqual([null, null]);
    rig.disk.isHolding = false;
    rig.settle();
    expect(victim.answer).toMatchObject({ response: 2, transferred: 0 });
    expect(preempt.answer).toMatchObject({ response: 0, status: 0 });
    expect(preempt.endedAs).toBe(victim.endedAs + 1);
    expect(out(0, Action.abort, 1, 1, 1).status).toBe(0);
  });
});

describe('PERSISTENT RESERVE IN', () => {
  it('READ KEYS tells how many there are when they do not fit', () => {
    out(0, Action.register, 0, 0x01020304);
    out(1, Action.register, 0, 2);
    expect(persistentIn(0)).toEqual([0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 2]);
    expect(persistentIn(0, 3, 8)).toEqual([0, 0, 0, 2, 0, 0, 0, 16]);
  });

  it('READ RESERVATION is empty or has one descriptor', () => {
    expect(persistentIn(1)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
    out(0, Action.register, 0, 9);
    out(0, Action.reserve, 9, 0, 6);
    expect(persistentIn(1, 2)).toEqual([0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 6, 0, 0]);
  });

  it('REPORT CAPABILITIES promises no persistence through power loss', () => {
    expect(persistentIn(2)).toEqual([0, 8, 0x14, 0x80, 0xea, 0x01, 0, 0]);
  });

  it('READ FULL STATUS names the initiator ports', () => {
    out(0, Action.register, 0, 9);
    out(1, Action.register, 0, 8);
    out(1, Action.reserve, 8, 0, 3);
    const id = (nexus: number) => [0x06, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0, nexus, ...zeros(12)];
    const status = (key: number, flags: number, type: number) => [
      ...[0, 0, 0, 0, 0, 0, 0, key, 0, 0, 0, 0, flags, type, 0, 0, 0, 0, 0, 1, 0, 0, 0, 24],
    ];
    expect(persistentIn(3)).toEqual([
      ...[0, 0, 0, 2, 0, 0, 0, 96],
      ...status(9, 2, 0),
      ...id(0),
      ...status(8, 3, 3),
      ...id(1),
    ]);
  });

  it('has four service actions', () => {
    for (let action = 4; action < 32; action++) {
      expect(rig.run([0x5e, action, 0, 0, 0, 0, 0, 0, 255, 0], { in: 255 }).sense).toBe('5/24/00');
    }
  });
});
