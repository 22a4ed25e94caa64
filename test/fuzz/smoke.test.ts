/** Every fuzzer for seconds, with the corpus; the canaries for as long as it takes them to fail. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { COMMANDS } from '../../src/scsi/command-table.ts';
import { FUZZERS } from './all.ts';
import { cdbRuns, tryCdbs } from './fuzzers/cdb.ts';

const SECONDS = 4;
const CANARY_SECONDS = 240;
/** Another one each day: a failure says which it was. */
const SEED = Math.floor(Date.now() / 86_400_000) * 100_000;

describe('the fuzzer', () => {
  it.each(FUZZERS.filter(({ isCanary }) => !isCanary).map((fuzzer) => [fuzzer.name, fuzzer] as const))(
    '%s finds nothing in some seconds',
    async (name, fuzzer) => {
      const { cases, failure } = await fuzzer.run({ seed: SEED, seconds: SECONDS });
      expect(failure, `npm run fuzz ${name} ${failure?.seed} 0`).toBeNull();
      expect(cases).toBeGreaterThan(0);
    },
  );

  it.each(FUZZERS.filter(({ isCanary }) => isCanary).map((fuzzer) => [fuzzer.name, fuzzer] as const))(
    '%s finds the fault that was planted for it',
    async (_name, fuzzer) => {
      const { failure } = await fuzzer.run({ seed: SEED, seconds: CANARY_SECONDS });
      expect(failure?.error).toMatch(/left the table|changed after its check/);
    },
  );

  it('canary finds the same small case again with the seed that it gave', async () => {
    const canary = FUZZERS.find(({ name }) => name === 'canary');
    const first = await canary?.run({ seed: SEED, seconds: CANARY_SECONDS });
    const again = await canary?.run({ seed: first?.failure?.seed ?? 0, seconds: 0 });
    expect(first?.failure?.smallest).toMatch(/^\{"ring":/);
    expect(again?.failure?.smallest).toBe(first?.failure?.smallest);
  });
});

describe('the cases of the fuzzer cdb', () => {
  it('bring every command to a good end and to every kind of bad one', () => {
    const outcomes = new Set<string>();
    for (const list of fc.sample(cdbRuns, { seed: 3, numRuns: 2500 })) {
      for (const outcome of tryCdbs(list)) outcomes.add(outcome);
    }
    const isGood = ({ opcode }: { opcode: number }): boolean => outcomes.has(`${opcode} 0 `);
    expect(COMMANDS.filter((row) => !isGood(row)).map(({ name }) => name)).toEqual([]);
    const senses = new Set([...outcomes].map((outcome) => outcome.split(' ')[2]));
    for (const sense of ['5/21/00', '5/24/00', '5/26/00', '5/1A/00', 'e/1D/00', '3/0C/00', '3/11/00', '2/3A/00']) {
      expect(senses).toContain(sense);
    }
  });
});
