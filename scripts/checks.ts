/**
 * Everything that `npm test` checks: format and lint, types, then the tests. All of them run even when an early one
 * fails, and the last line says how many passed and failed.
 *
 *   checks.ts                          everything
 *   checks.ts lint | types             that alone
 *   checks.ts unit | integration | e2e | fuzz [VITEST ARGS]
 *   checks.ts [VITEST ARGS]            such as a test file's name
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { listSkipped, type Tally, tallyReport, type VitestReport } from './tally.ts';

const ROOT = dirname(import.meta.dirname);
const STATE_DIR = join(ROOT, '.ringhost');
const VITEST_REPORT = join(STATE_DIR, 'vitest-report.json');
/** What .ci/run prints at its end. */
const SUMMARY = join(STATE_DIR, 'test-summary.txt');
/** Where Node keeps what it made of sources: a daemon of the tests starts in half the time. Keyed by their content. */
const COMPILE_CACHE = join(STATE_DIR, 'compile-cache');
const PROJECTS: readonly string[] = ['unit', 'integration', 'e2e', 'fuzz'];

interface Check {
  readonly name: string;
  readonly args: readonly string[];
}

const LINT: readonly Check[] = [
  { name: 'format and lint (biome)', args: ['node_modules/@biomejs/biome/bin/biome', 'check', '--error-on-warnings'] },
  { name: 'lint (oxlint)', args: ['node_modules/oxlint/bin/oxlint', '--deny-warnings'] },
];
const TYPES: readonly Check[] = [
  { name: 'types (tsc)', args: ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'] },
  { name: "types of the dashboard's page", args: ['node_modules/typescript/bin/tsc', '-p', 'src/dashboard/page'] },
  { name: 'generated documents', args: ['scripts/generate-docs.ts', '--check'] },
];

/** Runs one check; its output is shown only when it fails. */
async function runCheck({ name, args }: Check): Promise<boolean> {
  const startMs = Date.now();
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  const [status] = (await once(child, 'close')) as [number | null];
  const isOk = status === 0;
  console.log(`${isOk ? 'ok    ' : 'FAILED'} ${name}  ${((Date.now() - startMs) / 1000).toFixed(1)} s`);
  if (!isOk) console.log(output);
  return isOk;
}

async function runVitest(args: readonly string[]): Promise<Tally> {
  rmSync(VITEST_REPORT, { force: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${VITEST_REPORT}`];
  const vitestArgs = ['node_modules/vitest/vitest.mjs', 'run', ...reporters, ...args];
  const env = { ...process.env, NODE_COMPILE_CACHE: COMPILE_CACHE };
  const vitest = spawn(process.execPath, vitestArgs, { cwd: ROOT, env, stdio: 'inherit' });
  const [exitCode] = (await once(vitest, 'exit')) as [number | null];
  let report: VitestReport = { testResults: [] };
  try {
    report = JSON.parse(readFileSync(VITEST_REPORT, 'utf8')) as VitestReport;
  } catch {
    console.log('vitest left no report: it did not start, or was stopped');
  }
  for (const name of listSkipped(report)) console.log(`SKIPPED ${name}`);
  return tallyReport(report, exitCode ?? 1);
}

async function main(args: readonly string[]): Promise<number> {
  process.on('SIGINT', () => {}); // vitest gets it too: its report is awaited
  mkdirSync(STATE_DIR, { recursive: true });
  rmSync(SUMMARY, { force: true });
  const [first, ...rest] = args;
  const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
  const checks = first === undefined ? [...LINT, ...TYPES] : first === 'lint' ? LINT : first === 'types' ? TYPES : [];
  for (const isOk of await Promise.all(checks.map(runCheck))) {
    if (isOk) tally.passed++;
    else tally.failed++;
  }
  if (first !== 'lint' && first !== 'types') {
    const isProject = first !== undefined && PROJECTS.includes(first);
    const tests = await runVitest(isProject ? [`--project=${first}`, ...rest] : args);
    tally.passed += tests.passed;
    tally.failed += tests.failed;
    tally.skipped += tests.skipped;
  }
  const skipped = tally.skipped > 0 ? `, ${tally.skipped} skipped` : '';
  const summary = `${tally.passed} passed, ${tally.failed} failed${skipped}`;
  writeFileSync(SUMMARY, `${summary}\n`);
  console.log(summary);
  return tally.failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
