/**
 * `npm run fuzz NAME [SEED] [SECONDS]`: runs one fuzzer, or `all` of them one after another. Prints the seed first, and
 * the smallest failing case, which belongs into `test/fuzz/corpus/NAME/` once the fault is mended. Without arguments:
 * what there is. `canary` must fail.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { FUZZERS } from './all.ts';
import type { Fuzzer } from './fuzzer.ts';

const DEFAULT_SECONDS = 60;
const FOUND = join(dirname(dirname(import.meta.dirname)), 'build', 'fuzz');

async function runOne(fuzzer: Fuzzer, seed: number, seconds: number): Promise<boolean> {
  console.log(`${fuzzer.name}: seed ${seed}, ${seconds} s`);
  const { cases, corpusCases, counts, failure } = await fuzzer.run({ seed, seconds });
  const details = Object.entries(counts).map(([name, count]) => `, ${count} ${name}`);
  console.log(`${fuzzer.name}: ${cases} cases, ${corpusCases} of the corpus${details.join('')}`);
  if (failure === null) return true;
  mkdirSync(FOUND, { recursive: true });
  const path = join(FOUND, `${fuzzer.name}-${failure.seed}.json`);
  writeFileSync(path, `${failure.smallest}\n`);
  console.log(`${fuzzer.name}: FAILED with seed ${failure.seed}\n${failure.error}\nsmallest case, in ${path}:`);
  console.log(failure.smallest);
  return false;
}

async function main([name, seedText, secondsText]: readonly string[]): Promise<number> {
  const chosen = FUZZERS.filter((fuzzer) => (name === 'all' ? !fuzzer.isCanary : fuzzer.name === name));
  const seed = seedText === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(seedText);
  const seconds = secondsText === undefined ? DEFAULT_SECONDS : Number(secondsText);
  if (chosen.length === 0 || !Number.isSafeInteger(seed) || !(seconds >= 0)) {
    console.log('npm run fuzz NAME|all [SEED] [SECONDS]\n');
    for (const fuzzer of FUZZERS) console.log(`  ${fuzzer.name.padEnd(18)} ${fuzzer.purpose}`);
    return 2;
  }
  let isGood = true;
  for (const fuzzer of chosen) isGood = (await runOne(fuzzer, seed, seconds)) && isGood;
  return isGood ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
