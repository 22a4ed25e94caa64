import * as fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { cutAt, QueueRig, UNTOUCHED } from '../../test/support/queue-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../test/support/ring-rig.ts';
import { BdevIo } from '../bdev/bdev-io.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { createScsiBuffers, decodeResult, encodeTmf, type ScsiCommand, senseText } from '../initiator/scsi-request.ts';
import type { ScsiTask } from '../scsi/task.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { SCSI_REQUEST_BYTES, SCSI_RESPONSE_BYTES, ScsiResponse } from '../virtio/scsi.ts';
import { ScsiQueue, type TaskTarget } from './scsi-queue.ts';

/** Keeps the tasks that it is given, for the test to answer. */
class HeldTarget implements TaskTarget {
  readonly tasks: ScsiTask[] = [];
  onTask: (task: ScsiTask) => void = () => {};

  execute(task: ScsiTask): void {
    task.response = 0;
    task.status = 0;
    task.senseLength = 0;
    task.transferredBytes = 0;
    task.residualBytes = 0;
    this.tasks.push(task);
    this.onTask(task);
  }
}

const rigs: { close(): void }[] = [];
function closeRigs(): void {
  for (const rig of rigs.splice(0)) rig.close();
}
afterEach(closeRigs);

/** A queue whose only target is number 4. */
function createRig(arena?: IovArena): { rig: QueueRig<ScsiQueue>; target: HeldTarget } {
  const target = new HeldTarget();
  const device = { target: (number: number) => (number === 4 ? target : null), withdraw: () => {} };
  const rig = new QueueRig((options) => new ScsiQueue({ ...options, device }), arena === undefined ? {} : { arena });
  rigs.push(rig);
  return { rig, target };
}

const scratch = OwnedMemory.single(1 << 20);

/** The 51 bytes of a request. */
function header(command: Partial<ScsiCommand> = {}, tag = 1n): Uint8Array {
  const buffers = createScsiBuffers(scratch, { target: 4, cdb: [0], ...command }, tag);
  const bytes = scratch.read((buffers.segments[0] as { gpa: number }).gpa, SCSI_REQUEST_BYTES);
  buffers.release();
  return bytes;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const whole = new Uint8Array(a.length + b.length);
  whole.set(a);
  whole.set(b, a.length);
  return whole;
}

const COMPLETION = { usedLen: 0, order: 0 };

describe('a request queue', () => {
  test('gives the target what the request carries, however it is cut', () => {
    const places = fc.array(fc.nat(), { maxLength: 5 });
    const property = fc.property(places, places, fc.uint8Array({ maxLength: 300 }), (readCuts, writeCuts, out) => {
      const { rig, target } = createRig();
      const bytes = concat(header({ lun: 9, attribute: 2, cdb: [1, 2, 3, 4, 5, 6, 7] }, 0x1_2345_6789n), out);
      rig.send(bytes, cutAt(bytes.length, readCuts), cutAt(SCSI_RESPONSE_BYTES, writeCuts));
      rig.poll();
      const [task] = target.tasks;
      expect(task).toMatchObject({ lun: 9, attribute: 2, tagLow: 0x2345_6789, tagHigh: 1, dataInBytes: 0 });
      task?.unpackCdb();
      expect([...(task as ScsiTask).cdb.subarray(0, 8)]).toEqual([1, 2, 3, 4, 5, 6, 7, 0]);
      const read = new Uint8Array(out.length + 8);
      const found = (task as ScsiTask).transport.readDataOut(task as ScsiTask, read, 0, read.length);
      expect(found).toBe(out.length);
      expect(read.subarray(0, found)).toEqual(out);
      closeRigs();
    });
    fc.assert(property, { numRuns: 200 });
  });

  test('puts response and data-in where they belong, however the buffers are cut', () => {
    const places = fc.array(fc.nat(), { maxLength: 6 });
    const property = fc.property(
      places,
      fc.uint8Array({ minLength: 1, maxLength: 400 }),
      fc.nat(50),
      (cuts, data, spare) => {
        const { rig, target } = createRig();
        target.onTask = (task) => {
          expect(task.transport.writeDataIn(task, data, 0, data.length)).toBe(data.length);
          task.transferredBytes = data.length;
          task.residualBytes = spare;
          task.transport.taskDone(task);
        };
        const total = SCSI_RESPONSE_BYTES + data.length + spare;
        rig.send(header(), [SCSI_REQUEST_BYTES], cutAt(total, cuts));
        rig.poll();
        const answer = rig.receive();
        expect(answer?.usedLen).toBe(SCSI_RESPONSE_BYTES + data.length);
        const result = decodeResult({ ...COMPLETION, usedLen: answer?.usedLen ?? 0 }, answer?.writable ?? data);
        expect(result).toMatchObject({ response: ScsiResponse.OK, status: 0, residual: spare });
        expect(result.data).toEqual(data);
        expect(answer?.writable.subarray(SCSI_RESPONSE_BYTES + data.length).every((byte) => byte === UNTOUCHED)).toBe(
          true,
        );
        closeRigs();
      },
    );
    fc.assert(property, { numRuns: 200 });
  });

  test('makes segment lists of exactly the bytes that are asked for', () => {
    const { rig, target } = createRig();
    const offsets: number[][] = [];
    target.onTask = (task) => {
      const io = new BdevIo({ ioDone: () => undefined });
      expect(task.transport.mapData(task, io, true, 10, 30)).toBe(0);
      for (let i = 0; i < io.iovCount; i++) offsets.push([rig.arena.lengthOf(io.iovFirst + i)]);
      expect(task.transport.mapData(task, io, true, 0, 51)).toBe(-1);
      expect(task.transport.mapData(task, io, false, 0, 1)).toBe(-1);
      task.transport.taskDone(task);
    };
    rig.send(header(), [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES + 15, 20, 15]);
    rig.poll();
    expect(offsets).toEqual([[5], [20], [5]]);
    expect(rig.receive()?.usedLen).toBe(SCSI_RESPONSE_BYTES);
  });

  test('carries sense', () => {
    const { rig, target } = createRig();
    target.onTask = (task) => {
      task.status = 2;
      task.sense.set([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0]);
      task.senseLength = 18;
      task.transport.taskDone(task);
    };
    rig.send(header(), [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES]);
    rig.poll();
    const { writable } = rig.receive() ?? { writable: new Uint8Array(0) };
    const result = decodeResult(COMPLETION, writable);
    expect([result.status, result.sense.length, senseText(result.sense)]).toEqual([2, 18, '5/24/00']);
  });

  test.each([
    ['a target that is not there', { target: 5 }, ScsiResponse.BAD_TARGET],
    ['a LUN field that does not begin with 1', { lunField: new Uint8Array(8) }, ScsiResponse.BAD_TARGET],
  ])('answers %s at once', (_what, command, response) => {
    const { rig } = createRig();
    rig.send(header(command), [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES]);
    rig.poll();
    expect(rig.receive()?.writable[11]).toBe(response);
  });

  test('answers a request that is too short, or has data in both directions, with FAILURE', () => {
    const { rig, target } = createRig();
    rig.send(header(), [SCSI_REQUEST_BYTES - 1], [SCSI_RESPONSE_BYTES]);
    rig.send(new Uint8Array(0), [], [SCSI_RESPONSE_BYTES]);
    rig.send(concat(header(), Uint8Array.of(1)), [SCSI_REQUEST_BYTES + 1], [SCSI_RESPONSE_BYTES + 1]);
    rig.poll();
    for (let i = 0; i < 3; i++) expect(rig.receive()?.writable[11]).toBe(ScsiResponse.FAILURE);
    expect(target.tasks).toEqual([]);
  });

  test('gives a chain back empty that has no room for the response', () => {
    const { rig, target } = createRig();
    rig.send(header(), [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES - 1]);
    rig.send(header(), [SCSI_REQUEST_BYTES], []);
    rig.poll();
    expect([rig.receive()?.usedLen, rig.receive()?.usedLen]).toEqual([0, 0]);
    expect(target.tasks).toEqual([]);
    expect(rig.warnings[0]).toContain('no room for the response');
  });

  test('answers with FAILURE when data lies outside the memory', () => {
    const { rig, target } = createRig();
    target.onTask = (task) => {
      task.transport.writeDataIn(task, Uint8Array.of(1, 2, 3), 0, 3);
      task.transport.taskDone(task);
    };
    const gpa = RIG_GUEST_ADDRESS + (2 << 20);
    rig.ring.memory.write(gpa, header());
    rig.sendSegments([
      { gpa, lengthBytes: SCSI_REQUEST_BYTES, isWritable: false },
      { gpa: gpa + 4096, lengthBytes: SCSI_RESPONSE_BYTES, isWritable: true },
    ]);
    const response = gpa + 8192;
    rig.ring.memory.write(gpa, header());
    const bad = rig.ring.submit([
      { gpa, lengthBytes: SCSI_REQUEST_BYTES, isWritable: false },
      { gpa: response, lengthBytes: SCSI_RESPONSE_BYTES, isWritable: true },
      { gpa: 4096, lengthBytes: 64, isWritable: true },
    ]);
    rig.poll();
    expect(rig.receive()?.writable[11]).toBe(ScsiResponse.OK);
    expect(rig.ring.driver.popUsed()).toBe(bad);
    expect(rig.ring.memory.read(response, SCSI_RESPONSE_BYTES)[11]).toBe(ScsiResponse.FAILURE);
  });

  test('brings a task again when the arena has a list for it, and takes no others before', () => {
    const arena = new IovArena(1, 1);
    const { rig, target } = createRig(arena);
    const results: number[] = [];
    target.onTask = (task) => {
      results.push(task.transport.mapData(task, new BdevIo({ ioDone: () => undefined }), true, 0, 8));
    };
    for (let i = 0; i < 3; i++) rig.send(header({}, BigInt(i)), [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES + 8]);
    rig.poll();
    expect(results).toEqual([0, -2]);
    rig.poll();
    expect(results).toEqual([0, -2, -2]);
    const [first] = target.tasks;
    first?.transport.taskDone(first);
    rig.poll();
    expect(results).toEqual([0, -2, -2, 0, -2]);
    rig.queue.dropRetries(4);
    rig.queue.publish();
    expect(rig.receive()?.writable[11]).toBe(ScsiResponse.OK);
    expect(rig.receive()?.writable[11]).toBe(ScsiResponse.BUSY);
  });

  test('answers everything with BAD_TARGET once its controller is deleted', () => {
    const { rig } = createRig();
    rig.queue.isDetached = true;
    rig.send(header(), [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES]);
    rig.poll();
    expect(rig.receive()?.writable[11]).toBe(ScsiResponse.BAD_TARGET);
  });

  test('a task management request is laid out as the specification has it', () => {
    const bytes = encodeTmf(5, { target: 4, lun: 1 }, 7n);
    expect([...bytes]).toEqual([0, 0, 0, 0, 5, 0, 0, 0, 1, 4, 0, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
  });
});
