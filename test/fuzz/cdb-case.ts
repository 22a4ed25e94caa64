/** SCSI commands as cases: noise, known commands with noise, and commands that nearly make sense. */
import * as fc from 'fast-check';
import { COMMANDS } from '../../src/scsi/command-table.ts';
import { zeros } from '../support/scsi-rig.ts';

/** Data-in and data-out have at most so many bytes. */
export const BUFFER_BYTES = 16_384;
const BLOCK_BYTES = 512;
export const BLOCKS = 300;

/** A CDB with buffers: data-out when there is some, else `dataIn` bytes of data-in. Short to print. */
export interface CdbRequest {
  readonly cdb: readonly number[];
  readonly dataIn: number;
  /** What data-out starts with; then it goes on with `fill` up to `size` bytes. */
  readonly dataOut: { readonly head: readonly number[]; readonly fill: number; readonly size: number } | null;
}

const noise: fc.Arbitrary<CdbRequest> = fc.record({
  cdb: fc.array(fc.nat(255), { minLength: 32, maxLength: 32 }),
  dataIn: fc.integer({ min: 0, max: BUFFER_BYTES }),
  dataOut: fc.option(
    fc.record({
      head: fc.array(fc.nat(255), { maxLength: 40 }),
      fill: fc.nat(255),
      size: fc.integer({ min: 40, max: 5000 }),
    }),
    { nil: null },
  ),
});

/** Known commands with noise in the bits that they look at. */
const noisyCommands: fc.Arbitrary<CdbRequest> = fc
  .record({ row: fc.constantFrom(...COMMANDS), request: noise, keep: fc.uint8Array({ minLength: 32, maxLength: 32 }) })
  .map(({ row, request, keep }) => {
    const cdb = request.cdb.map((byte, i) => byte & (row.usage[i] ?? 0) & (keep[i] as number) & (i < 6 ? 0x03 : 0xff));
    cdb[0] = row.opcode;
    if (row.serviceAction >= 0) cdb[1] = row.serviceAction;
    return { ...request, cdb };
  });

/** Medium commands that name blocks of the disk, or just beyond it, with buffers of about the right size. */
const mediumCommands: fc.Arbitrary<CdbRequest> = fc
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
    return { cdb: [...cdb], dataIn: size, dataOut: isOut && size > 0 ? { head: [], fill, size } : null };
  });

/** Commands with parameter lists: what they start with is plausible. */
const parameterCommands: fc.Arbitrary<CdbRequest> = fc
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
      cdb: [...bytes],
      dataIn: 0,
      dataOut: list.length === 0 ? null : { head: list, fill: 0, size: list.length },
    };
  });

export const cdbRequests: fc.Arbitrary<CdbRequest> = fc.oneof(noise, noisyCommands, mediumCommands, parameterCommands);
