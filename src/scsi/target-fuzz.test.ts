import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ALL_IO_TYPES } from '../../test/support/bdev-rig.ts';
import { ScsiRig, zeros } from '../../test/support/scsi-rig.ts';
import { COMMANDS } from './command-table.ts';
import { ScsiStatus, ServiceResponse } from './task.ts';

const BUFFER_BYTES = 16_384;
const BLOCK_BYTES = 512;
const BLOCKS = 300;

/** A CDB with buffers: data-out when there is some, else `dataIn` bytes of data-in. Short to print. */
interface Request {
  readonly cdb: Uint8Array;
  readonly dataIn: number;
  /** What data-out starts with; then it goes on with `fill` up to `size` bytes. */
  readonly dataOut: { readonly head: readonly number[]; readonly fill: number; readonly size: number } | undefined;
}

const noise: fc.Arbitrary<Request> = fc.record({
  cdb: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  dataIn: fc.integer({ min: 0, max: BUFFER_BYTES }),
  dataOut: fc.option(
    fc.record({
      head: fc.array(fc.nat(255), { maxLength: 40 }),
      fill: fc.nat(255),
      size: fc.integer({ min: 40, max: 5000 }),
    }),
    { nil: undefined },
  ),
});

/** Known commands with noise in the bits that they look at. */
const noisyCommands: fc.Arbitrary<Request> = fc
  .record({ row: fc.constantFrom(...COMMANDS), request: noise, keep: fc.uint8Array({ minLength: 32, maxLength: 32 }) })
  .map(({ row, request, keep }) => {
    const cdb = request.cdb.map((byte, i) => byte & (row.usage[i] ?? 0) & (keep[i] as number) & (i < 6 ? 0x03 : 0xff));
    cdb[0] = row.opcode;
    if (row.serviceAction >= 0) cdb[1] = row.serviceAction;
    return { ...request, cdb };
  });

/** Medium commands that name blocks of the disk, or just beyond it, with buffers of about the right size. */
const mediumCommands: fc.Arbitrary<Request> = fc
  .record({
    row: fc.constantFrom(...COMMANDS.filter(({ needsMedium }) => needsMedium)),
    flags: fc.constantFrom(0, 0, 0x02, 0x06, 0x08, 0x10, 0x18, 0x01, 0x09, 0xff),
    lba: fc.integer({ min: 0, max: BLOCKS + 1 }),
    blocks: fc.integer({ min: 0, max: 8 }),
    fill: fc.constantFrom(0, 0, 0x5a),
    excess: fc.constantFrom(0, 0, 0, -1, 1, BLOCK_BYTES),
    factor: fc.constantFrom(0, 1, 1, 2, 'one' as const),
  })
  .map(({ row, flags, lba, blocks, fill, excess, factor }) => {
    const cdb = new Uint8Array(32);
    cdb[0] = row.opcode;
    cdb[1] = row.serviceAction >= 0 ? row.serviceAction : flags;
    const length = row.usage.length;
    const [lbaAt, lengthAt] = length === 6 ? [2, 4] : length === 16 ? [8, 13] : [4, length === 12 ? 9 : 8];
    cdb[lbaAt] = lba >>> 8;
    cdb[lbaAt + 1] = lba;
    cdb[lengthAt] = blocks;
    const size = Math.max(0, (factor === 'one' ? 1 : factor * blocks) * BLOCK_BYTES + excess);
    const isOut = factor !== 0 && (row.usage[0] as number) !== 0x28;
    return { cdb, dataIn: size, dataOut: isOut && size > 0 ? { head: [], fill, size } : undefined };
  });

/** Commands with parameter lists: what they start with is plausible. */
const parameterCommands: fc.Arbitrary<Request> = fc
  .record({
    cdb: fc.constantFrom(
      ...[
        [0x15, 0x10, 0, 0],
        [0x55, 0x10, 0, 0, 0, 0, 0, 0],
        [0x42, 0, 0, 0, 0, 0, 0, 0],
        [0x1b, 0, 0, 0, 0x02],
        [0x1b, 0, 0, 0, 0x02],
      ],
      ...[0, 1, 2, 3, 4, 5, 6, 7].map((action) => [0x5f, action, 5, 0, 0, 0, 0, 0]),
    ),
    list: fc.oneof(
      fc.array(fc.nat(255), { maxLength: 80 }),
      fc.constantFrom<number[]>(
        [0, 0, 0, 0, 0x08, 0x12, 0x04, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 24, 6, 0, 0, 0, 0x30, ...zeros(19)],
      ),
    ),
    excess: fc.constantFrom(0, 0, 0, -1, 1, 100),
  })
  .map(({ cdb, list, excess }) => {
    const bytes = new Uint8Array(32);
    bytes.set(cdb);
    bytes[cdb[0] === 0x15 ? 4 : 8] = Math.max(0, list.length + excess);
    return {
      cdb: bytes,
      dataIn: 0,
      dataOut: list.length === 0 ? undefined : { head: list, fill: 0, size: list.length },
    };
  });

interface Run {
  readonly request: Request;
  readonly lun: number;
  readonly nexus: number;
  readonly attribute: number;
  readonly isImmediate: boolean;
  readonly isFailing: boolean;
}

const runs: fc.Arbitrary<Run[]> = fc.array(
  fc.record({
    request: fc.oneof(noise, noisyCommands, mediumCommands, parameterCommands),
    lun: fc.constantFrom(0, 0, 0, 0, 1, 5, 0xc101),
    nexus: fc.constantFrom(0, 0, 1),
    attribute: fc.constantFrom(0, 0, 0, 0, 1, 2, 3, 255),
    isImmediate: fc.boolean(),
    isFailing: fc.constantFrom(false, false, false, true),
  }),
  { minLength: 1, maxLength: 20 },
);

describe('any CDB with any buffers', () => {
  it('ends once, inside its buffers, with counts that add up', { timeout: 300_000 }, () => {
    const report = fc.check(
      fc.property(runs, (list) => tryAll(list, new Set())),
      { numRuns: 1000 },
    );
    expect(fc.defaultReportMessage(report)).toBeUndefined();
  });

  it('is tried for every command, to a good end and to every kind of bad one', { timeout: 300_000 }, () => {
    const outcomes = new Set<string>();
    for (const list of fc.sample(runs, { seed: 3, numRuns: 2500 })) tryAll(list, outcomes);
    const isGood = ({ opcode }: { opcode: number }): boolean => outcomes.has(`${opcode} 0 `);
    expect(COMMANDS.filter((row) => !isGood(row)).map(({ name }) => name)).toEqual([]);
    const senses = new Set([...outcomes].map((outcome) => outcome.split(' ')[2]));
    for (const sense of ['5/21/00', '5/24/00', '5/26/00', '5/1A/00', 'e/1D/00', '3/0C/00', '3/11/00', '2/3A/00']) {
      expect(senses).toContain(sense);
    }
  });
});

function tryAll(list: readonly Run[], outcomes: Set<string>): void {
  const rig = new ScsiRig({ nexusCount: 2, dataBytes: BUFFER_BYTES, hasWriteCache: true, blockCount: BLOCKS });
  rig.target.addLun(1, rig.unitOptions({ isRemovable: true, ioTypes: [0, 1, 2] }));
  rig.clearAttention(2);
  for (const { request, lun, nexus, attribute, isImmediate, isFailing } of list) {
    rig.disk.isImmediate = isImmediate;
    rig.disk.failing.clear();
    if (isFailing) for (const type of ALL_IO_TYPES) rig.disk.failing.add(type);
    const dataOut = request.dataOut === undefined ? undefined : bytesOf(request.dataOut);
    const inBytes = dataOut === undefined ? request.dataIn : 0;
    const out = dataOut === undefined ? {} : { out: dataOut };
    const answer = rig.run(request.cdb, { in: inBytes, lun, nexus, attribute, ...out });
    rig.checkGuards(inBytes, dataOut);
    expect(answer.transferred + answer.residual).toBe(inBytes + (dataOut?.length ?? 0));
    expect(Math.min(answer.transferred, answer.residual)).toBeGreaterThanOrEqual(0);
    expect(Object.values(ServiceResponse)).toContain(answer.response);
    expect(answer.status === ScsiStatus.checkCondition).toBe(answer.sense !== '');
    outcomes.add(`${request.cdb[0]} ${answer.status} ${answer.sense}`);
  }
  rig.close();
}

function bytesOf({ head, fill, size }: NonNullable<Request['dataOut']>): Uint8Array {
  const bytes = new Uint8Array(size).fill(fill);
  bytes.set(head);
  return bytes;
}
