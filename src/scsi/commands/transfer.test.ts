/** READ and WRITE have a short way beside that of all commands: nobody can tell which of them a task took. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ALL_IO_TYPES } from '../../../test/support/bdev-rig.ts';
import { type Answer, ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';
import { TaskAttribute } from '../task.ts';

const BLOCK_BYTES = 512;
const BLOCKS = 64;
const GROUP_LAYOUT = {
  1: { lba: [2, 4], blocks: [7, 2], bytes: 10 },
  5: { lba: [2, 4], blocks: [6, 4], bytes: 12 },
  4: { lba: [2, 8], blocks: [10, 4], bytes: 16 },
} as const;

const mostly = <T>(usual: T, ...others: T[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 12, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...others) });

const transfers = fc
  .record({
    opcode: fc.constantFrom(0x28, 0x2a, 0xa8, 0xaa, 0x88, 0x8a),
    flags: mostly(0, 0x08, 0x10, 0x20, 0xff, 0x01),
    control: mostly(0, 0x04, 0x40, 0xff),
    group: mostly(0, 0xff),
    lba: mostly<number | null>(null, BLOCKS - 1, BLOCKS, BLOCKS + 1, 2 ** 31, 2 ** 32 - 1),
    high: mostly(0, 1, 2 ** 31, 2 ** 32 - 1),
    place: fc.nat(BLOCKS - 8),
    blocks: mostly<number | null>(null, 0, BLOCKS, 255, 65_535, 65_536, 65_537, 2 ** 32 - 1),
    few: fc.integer({ min: 1, max: 8 }),
    excess: mostly(0, -1, 1, 512, -512),
    isSwapped: mostly(false, true),
    fill: fc.nat(255),
    nexus: mostly(0, 1),
    isFailing: mostly(false, true),
    isImmediate: fc.boolean(),
  })
  .map((given) => {
    const group = given.opcode >>> 5;
    const layout = GROUP_LAYOUT[group as keyof typeof GROUP_LAYOUT];
    const cdb = zeros(32);
    const put = ([at, size]: readonly [number, number], value: number): void => {
      for (let i = 0; i < size; i++) cdb[at + i] = Math.floor(value / 2 ** (8 * (size - 1 - i))) % 256;
    };
    const blocks = given.blocks ?? given.few;
    const lba = (given.lba ?? given.place) + (group === 4 ? given.high * 2 ** 32 : 0);
    put(layout.lba, lba);
    put(layout.blocks, blocks);
    cdb[0] = given.opcode;
    cdb[1] = given.flags;
    if (group === 1) cdb[6] = given.group;
    if (group === 5) cdb[10] = given.group;
    if (group === 4) cdb[14] = given.group;
    cdb[layout.bytes - 1] = given.control;
    const bytes = Math.max(0, Math.min(blocks, BLOCKS) * BLOCK_BYTES + given.excess);
    const isWrite = (given.opcode & 0x02) !== 0;
    const { nexus, isFailing, isImmediate, fill } = given;
    return { cdb, bytes, isOut: isWrite !== given.isSwapped, nexus, isFailing, isImmediate, fill };
  });

/** What the unit is like meanwhile. */
const states = fc.record({
  hasWriteCache: fc.boolean(),
  isReadonly: mostly(false, true),
  before: mostly<string | null>(
    null,
    // START STOP UNIT that ejects, RESERVE(6), TEST UNIT READY.
    '1b 00 00 00 02 00',
    '16 00 00 00 00 00',
    '00 00 00 00 00 00',
  ),
  keepsAttention: mostly(false, true),
  /** MODE SELECT(6): the write cache off, the unit protected from writes by software. */
  pages: mostly<number[]>(
    [],
    [0x08, 0x12, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
    [0x0a, 0x0a, 0, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0],
  ),
});

type State = typeof states extends fc.Arbitrary<infer S> ? S : never;

function createRig({ hasWriteCache, isReadonly, before, keepsAttention, pages }: State) {
  const unit = { isReadonly, isRemovable: true };
  const rig = new ScsiRig({
    hasWriteCache,
    blockCount: BLOCKS,
    nexusCount: 2,
    keepsAttention,
    unit,
    dataBytes: 34_000,
  });
  rig.disk.bytes.forEach((_, i) => {
    rig.disk.bytes[i] = (i * 7 + (i >>> 9)) & 0xff;
  });
  if (pages.length > 0)
    rig.run(`15 10 00 00 ${(pages.length + 4).toString(16)} 00`, { out: Uint8Array.of(0, 0, 0, 0, ...pages) });
  if (before !== null) rig.run(before);
  return rig;
}

/** Bytes as text, which compares and prints quickly. */
function printable(answer: Answer | undefined) {
  return (
    answer && { ...answer, data: Buffer.from(answer.data).toString('hex'), senseBytes: answer.senseBytes.join(' ') }
  );
}

it('a transfer ends as it would at the head of the queue, where the long way is taken', { timeout: 300_000 }, () => {
  let good = 0;
  const property = fc.property(states, fc.array(transfers, { minLength: 1, maxLength: 12 }), (state, list) => {
    const [short, long] = [createRig(state), createRig(state)];
    for (const { cdb, bytes, isOut, nexus, isFailing, isImmediate, fill } of list) {
      const data = isOut ? { out: new Uint8Array(bytes).fill(fill) } : { in: bytes };
      const answers = [TaskAttribute.simple, TaskAttribute.headOfQueue].map((attribute) => {
        const rig = attribute === TaskAttribute.simple ? short : long;
        rig.disk.isImmediate = isImmediate;
        rig.disk.failing.clear();
        if (isFailing) for (const type of ALL_IO_TYPES) rig.disk.failing.add(type);
        const answer = rig.run(cdb, { ...data, nexus, attribute });
        rig.checkGuards(isOut ? 0 : bytes, data.out);
        return answer;
      });
      expect(printable(answers[0])).toEqual(printable(answers[1]));
      if (answers[0]?.status === 0 && answers[0].transferred > 0) good++;
    }
    expect(short.disk.log).toEqual(long.disk.log);
    expect(Buffer.compare(short.disk.bytes, long.disk.bytes)).toBe(0);
    short.close();
    long.close();
  });
  fc.assert(property, { numRuns: 150 });
  expect(good).toBeGreaterThan(100);
});
