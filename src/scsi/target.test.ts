import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig } from '../../test/support/scsi-rig.ts';
import { ManagementResult, REPORT_LUNS_UNIT, TaskAttribute, TaskManagementFunction } from './task.ts';

const READY = '00 00 00 00 00 00';
const READ = '28 00 00 00 00 00 00 00 01 00';
const INQUIRY = '12 00 00 00 ff 00';

let rig: ScsiRig;
beforeEach(() => {
  rig = new ScsiRig({ nexusCount: 2 });
});
afterEach(() => rig.close());

/** Results of task management, as they come. */
function manage(name: keyof typeof TaskManagementFunction, tag = 0, lun = 0, nexus = 0): number[] {
  const results: number[] = [];
  const request = { function: TaskManagementFunction[name], lun, nexus, tagLow: tag, tagHigh: 0 };
  rig.target.manage(request, (result) => results.push(result));
  return results;
}

describe('a LUN that is not there', () => {
  it('has qualifier 3 and no commands', () => {
    const { data } = rig.run(INQUIRY, { in: 255, lun: 3 });
    expect([...data.subarray(0, 8)]).toEqual([0x7f, 0, 6, 0x12, 91, 0, 0, 2]);
    expect(data).toHaveLength(96);
    expect([...rig.run('12 01 00 00 ff 00', { in: 255, lun: 3 }).data]).toEqual([0x7f, 0, 0, 1, 0]);
    expect(rig.run('12 01 80 00 ff 00', { in: 255, lun: 3 }).sense).toBe('5/24/00');
    for (const cdb of [READY, READ, 'ff 00']) expect(rig.run(cdb, { in: 512, lun: 3 }).sense).toBe('5/25/00');
    const sense = rig.run('03 00 00 00 ff 00', { in: 255, lun: 3 });
    expect([sense.status, sense.data[2], sense.data[12]]).toEqual([0, 5, 0x25]);
  });

  it('knows no task', () => {
    expect(manage('queryTaskSet', 0, 3)).toEqual([ManagementResult.incorrectLun]);
  });

  it('is a well-known unit at C1h 01h', () => {
    expect(rig.run(INQUIRY, { in: 255, lun: REPORT_LUNS_UNIT }).data[0]).toBe(0x1e);
    expect(rig.run(READY, { lun: REPORT_LUNS_UNIT }).status).toBe(0);
    expect(rig.run(READ, { in: 512, lun: REPORT_LUNS_UNIT }).sense).toBe('5/20/00');
    expect(rig.run('03 00 00 00 ff 00', { in: 255, lun: REPORT_LUNS_UNIT }).data[2]).toBe(0);
  });
});

describe('unit attention', () => {
  it('is told once to each nexus, and to INQUIRY and REPORT LUNS never', () => {
    const fresh = new ScsiRig({ nexusCount: 2, keepsAttention: true });
    expect(fresh.run(INQUIRY, { in: 255 }).status).toBe(0);
    expect(fresh.run('a0 00 00 00 00 00 00 00 00 10 00 00', { in: 16 }).status).toBe(0);
    expect(fresh.run(READ, { in: 512 })).toMatchObject({ sense: '6/29/00', transferred: 0 });
    expect(fresh.run(READ, { in: 512 }).status).toBe(0);
    expect(fresh.run('ff 00', { nexus: 1 }).sense).toBe('6/29/00');
    expect(fresh.run('ff 00', { nexus: 1 }).sense).toBe('5/20/00');
    fresh.close();
  });

  it('comes with a session, instead of what the session before it had not heard', () => {
    rig.target.capacityChanged(0);
    rig.target.resetNexus(0);
    expect(rig.run(READY).sense).toBe('6/29/00');
    expect(rig.run(READY).status).toBe(0);
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('6/2A/09');
  });

  it('tells the other units of a LUN that comes or goes, until one told it or the list was asked for', () => {
    rig.target.addLun(1, rig.unitOptions());
    rig.target.addLun(2, rig.unitOptions());
    expect(rig.run(READY, { lun: 1 }).sense).toBe('6/29/00');
    expect(rig.run(READY, { lun: 0 }).sense).toBe('6/3F/0E');
    expect(rig.run(READY, { lun: 1 }).status).toBe(0);
    rig.target.removeLun(2, () => {});
    rig.run('a0 00 00 00 00 00 00 00 00 10 00 00', { in: 256 });
    expect(rig.run(READY, { lun: 0 }).sense).toBe('');
    expect(rig.run(READY, { lun: 0, nexus: 1 }).sense).toBe('6/3F/0E');
  });
});

describe('task attributes', () => {
  const start = (attribute: number) => rig.start(READ, { in: 512, attribute });
  const order = (...tasks: { endedAs: number }[]): number[] =>
    tasks.map(({ endedAs }) => endedAs - Math.min(...tasks.map((t) => t.endedAs)));

  it('let simple tasks run together', () => {
    rig.disk.isHolding = true;
    start(TaskAttribute.simple);
    start(TaskAttribute.simple);
    expect(rig.disk.log).toHaveLength(2);
    rig.disk.isHolding = false;
    rig.settle();
  });

  it('make an ordered task wait for the older ones, and the newer ones for it', () => {
    rig.disk.isHolding = true;
    const older = start(TaskAttribute.simple);
    const ordered = start(TaskAttribute.ordered);
    const newer = start(TaskAttribute.simple);
    const inquiry = rig.start(INQUIRY, { in: 255 });
    expect(rig.disk.log).toHaveLength(1);
    const head = start(TaskAttribute.headOfQueue);
    expect(rig.disk.log).toHaveLength(2);
    rig.disk.isHolding = false;
    rig.settle();
    expect(order(older, head, ordered, newer, inquiry)).toEqual([0, 1, 2, 4, 3]);
  });

  it('put the head of the queue before all that wait', () => {
    rig.disk.isHolding = true;
    const ordered = start(TaskAttribute.ordered);
    const simple = start(TaskAttribute.simple);
    const head = start(TaskAttribute.headOfQueue);
    rig.disk.isHolding = false;
    rig.settle();
    expect(order(ordered, head, simple)).toEqual([0, 1, 2]);
  });

  it('have no auto contingent allegiance', () => {
    expect(rig.run(READY, { attribute: TaskAttribute.aca }).sense).toBe('b/49/00');
  });

  it('do not recurse over thousands of tasks that wait', () => {
    rig.disk.isHolding = true;
    start(TaskAttribute.ordered);
    const tasks = Array.from({ length: 20_000 }, () => rig.start(READY));
    rig.disk.isHolding = false;
    rig.settle();
    expect(tasks.every(({ answer }) => answer?.status === 0)).toBe(true);
  });
});

describe('task management', () => {
  const hold = (tag: number, options: { nexus?: number; attribute?: number } = {}) => {
    rig.disk.isHolding = true;
    return rig.start(READ, { in: 512, tag, ...options });
  };
  const letGo = (): void => {
    rig.disk.isHolding = false;
    rig.settle();
  };

  it('aborts a task when its I/O has ended, and completes after it', () => {
    const [first, second] = [hold(1), hold(2)];
    const results = manage('abortTask', 2);
    expect(results).toEqual([]);
    expect(second.answer).toBeNull();
    letGo();
    expect(first.answer).toMatchObject({ response: 0, status: 0 });
    expect(second.answer).toMatchObject({ response: 2, status: 0, transferred: 0, residual: 512 });
    expect(results).toEqual([ManagementResult.complete]);
  });

  it('completes at once for a task that is not there, or belongs to another nexus', () => {
    const other = hold(1, { nexus: 1 });
    expect(manage('abortTask', 1)).toEqual([ManagementResult.complete]);
    expect(manage('abortTask', 9)).toEqual([ManagementResult.complete]);
    letGo();
    expect(other.answer?.status).toBe(0);
  });

  it('aborts a waiting task at once', () => {
    const running = hold(1);
    const waiting = hold(2, { attribute: TaskAttribute.ordered });
    const behind = hold(3);
    expect(manage('abortTask', 2)).toEqual([ManagementResult.complete]);
    expect(waiting.answer).toMatchObject({ response: 2 });
    expect(rig.disk.log).toHaveLength(2);
    letGo();
    expect([running.answer?.status, behind.answer?.status]).toEqual([0, 0]);
  });

  it('aborts the tasks of one nexus, or of all', () => {
    const [own, other] = [hold(1), hold(2, { nexus: 1 })];
    const set = manage('abortTaskSet');
    const all = manage('clearTaskSet');
    expect([set, all]).toEqual([[], []]);
    letGo();
    expect([own.answer?.response, other.answer?.response]).toEqual([2, 2]);
    expect([set, all]).toEqual([[0], [0]]);
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('6/2F/00');
    expect(rig.run(READY, { nexus: 0 }).status).toBe(0);
  });

  it('resets a unit: its tasks, its mode pages, and an attention for everybody', () => {
    const control = [0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    rig.run('15 10 00 00 10 00', { out: Uint8Array.from([0, 0, 0, 0, ...control]) });
    rig.clearAttention(2);
    const tasks = [hold(1), hold(2, { nexus: 1 }), hold(3, { attribute: TaskAttribute.ordered })];
    const results = manage('logicalUnitReset');
    expect(results).toEqual([]);
    letGo();
    expect(tasks.map(({ answer }) => answer?.response)).toEqual([4, 4, 4]);
    expect(results).toEqual([0]);
    for (const nexus of [0, 1]) {
      const answer = rig.run(READY, { nexus });
      expect([answer.sense, answer.senseBytes[0]]).toEqual(['6/29/03', 0x70]);
    }
  });

  it('resets a nexus in all units', () => {
    rig.target.addLun(1, rig.unitOptions());
    rig.clearAttention(2);
    const own = hold(1);
    const other = hold(2, { nexus: 1 });
    const results = manage('nexusReset');
    expect(results).toEqual([]);
    letGo();
    expect([own.answer?.response, other.answer?.response, results]).toEqual([4, 0, [0]]);
    expect(rig.run(READY).sense).toBe('6/29/07');
    expect(rig.run(READY, { lun: 1 }).sense).toBe('6/29/07');
    expect(rig.run(READY, { nexus: 1 }).status).toBe(0);
  });

  it('tells whether a task is there', () => {
    hold(1);
    expect(manage('queryTask', 1)).toEqual([ManagementResult.succeeded]);
    expect(manage('queryTask', 2)).toEqual([ManagementResult.complete]);
    expect(manage('queryTaskSet')).toEqual([ManagementResult.succeeded]);
    expect(manage('queryTaskSet', 0, 0, 1)).toEqual([ManagementResult.complete]);
    letGo();
    expect(manage('queryTaskSet')).toEqual([ManagementResult.complete]);
  });

  it('rejects what it does not do', () => {
    expect(manage('clearAca')).toEqual([ManagementResult.rejected]);
    const results: number[] = [];
    rig.target.manage({ function: 99, lun: 0, nexus: 0, tagLow: 0, tagHigh: 0 }, (result) => results.push(result));
    expect(results).toEqual([ManagementResult.rejected]);
  });

  it('ends a task once that is aborted and then reset', () => {
    const task = hold(1);
    const [first, second] = [manage('abortTask', 1), manage('logicalUnitReset')];
    letGo();
    expect(task.answer?.response).toBe(4);
    expect([first, second]).toEqual([[0], [0]]);
  });
});

describe('the removal of a LUN', () => {
  it('lets what runs end, and ends what waits', async () => {
    rig.target.addLun(1, rig.unitOptions());
    rig.clearAttention(2);
    rig.disk.isHolding = true;
    const running = rig.start(READ, { in: 512, lun: 1 });
    const waiting = rig.start(READ, { in: 512, lun: 1, attribute: TaskAttribute.ordered });
    const elsewhere = rig.start(READ, { in: 512 });
    let isGone = false;
    rig.target.removeLun(1, () => {
      isGone = true;
    });
    expect(waiting.answer?.sense).toBe('5/25/00');
    expect([isGone, rig.target.lunNumbers]).toEqual([false, [0]]);
    expect(rig.run(READ, { in: 512, lun: 1 }).sense).toBe('5/25/00');
    rig.disk.isHolding = false;
    rig.settle();
    expect([isGone, running.answer?.status, elsewhere.answer?.status]).toEqual([true, 0, 0]);
    expect(rig.run(READY).sense).toBe('6/3F/0E');
  });

  it('is over at once when nothing runs, and makes room for another', () => {
    let count = 0;
    rig.target.removeLun(0, () => count++);
    expect(count).toBe(1);
    expect(rig.run(INQUIRY, { in: 255 }).data[0]).toBe(0x7f);
    rig.target.addLun(0, rig.unitOptions());
    expect(rig.run(READY).sense).toBe('6/29/00');
    expect(count).toBe(1);
  });

  it('answers commands of a bdev that is gone as of a unit that is gone', async () => {
    await rig.channel.remove();
    expect(rig.run(READ, { in: 512 }).sense).toBe('5/25/00');
  });
});
