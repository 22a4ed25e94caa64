/**
 * What a fuzzer is, and how one is run: cases from a seeded generator (fast-check), the corpus first, and the smallest
 * failing case that shrinking finds. A case is plain JSON, so that it can be kept as a file of the corpus.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';

const CORPUS = join(import.meta.dirname, 'corpus');
/** Cases between two looks at the clock. */
const CASES_PER_ROUND = 25;

export interface FuzzTarget<Case> {
  /** Throws when what must hold does not. Leaves nothing behind for the next case. */
  attempt(one: Case): void | Promise<void>;
  /** What was tried so far, besides cases: requests, messages, chains. */
  readonly counts: Record<string, number>;
  close(): void | Promise<void>;
}

interface FuzzFailure {
  /** With this seed the failing case is found in the first round. */
  readonly seed: number;
  /** The smallest that was found, as JSON. */
  readonly smallest: string;
  readonly error: string;
}

interface FuzzReport {
  readonly cases: number;
  readonly corpusCases: number;
  readonly counts: Readonly<Record<string, number>>;
  readonly failure: FuzzFailure | null;
}

interface FuzzOptions {
  readonly seed: number;
  readonly seconds: number;
}

export interface Fuzzer {
  readonly name: string;
  readonly purpose: string;
  /** Must fail: it shows that the method finds what is there to find. */
  readonly isCanary: boolean;
  run(options: FuzzOptions): Promise<FuzzReport>;
}

export interface FuzzerDefinition<Case> {
  readonly name: string;
  readonly purpose: string;
  readonly isCanary?: boolean;
  readonly cases: fc.Arbitrary<Case>;
  open(): FuzzTarget<Case> | Promise<FuzzTarget<Case>>;
}

export function defineFuzzer<Case>(definition: FuzzerDefinition<Case>): Fuzzer {
  const { name, purpose, isCanary = false } = definition;
  return { name, purpose, isCanary, run: (options) => run(definition, options) };
}

async function run<Case>(definition: FuzzerDefinition<Case>, { seed, seconds }: FuzzOptions): Promise<FuzzReport> {
  const target = await definition.open();
  const deadlineMs = Date.now() + seconds * 1000;
  const corpus = readCorpus(definition.name);
  let cases = 0;
  let failure: FuzzFailure | null = null;
  // A case goes through JSON, as it would through the corpus.
  const attempt = async (one: Case): Promise<void> => {
    cases++;
    await target.attempt(JSON.parse(JSON.stringify(one)) as Case);
  };
  try {
    for (const { file, text } of corpus) {
      try {
        await target.attempt(JSON.parse(text) as Case);
      } catch (error) {
        return {
          cases,
          corpusCases: corpus.length,
          counts: target.counts,
          failure: failureOf(seed, text, error, file),
        };
      }
    }
    const property = fc.asyncProperty(definition.cases, attempt);
    for (let round = seed; failure === null && (round === seed || Date.now() < deadlineMs); round++) {
      const report = await fc.check(property, { seed: round, numRuns: CASES_PER_ROUND });
      if (report.failed) failure = failureOf(round, JSON.stringify(report.counterexample?.[0]), report.errorInstance);
    }
    return { cases, corpusCases: corpus.length, counts: target.counts, failure };
  } finally {
    await target.close();
  }
}

function failureOf(seed: number, smallest: string, error: unknown, file = ''): FuzzFailure {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { seed, smallest, error: file === '' ? text : `${file}: ${text}` };
}

function readCorpus(name: string): { file: string; text: string }[] {
  const folder = join(CORPUS, name);
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((file) => file.endsWith('.json'));
  return files.toSorted().map((file) => ({ file, text: readFileSync(join(folder, file), 'utf8') }));
}
