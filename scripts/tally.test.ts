import { expect, test } from 'vitest';
import { listSkipped, tallyReport, type VitestReport } from './tally.ts';

function reportOf(...files: readonly [status: string, ...tests: string[]][]): VitestReport {
  return {
    testResults: files.map(([status, ...outcomes]) => ({
      status,
      assertionResults: outcomes.map((outcome, index) => ({ status: outcome, fullName: `${outcome} ${index}` })),
    })),
  };
}

test('tests are counted over all files', () => {
  const report = reportOf(['passed', 'passed', 'skipped'], ['failed', 'passed', 'failed', 'failed']);
  expect(tallyReport(report, 1)).toEqual({ passed: 2, failed: 2, skipped: 1 });
  expect(listSkipped(report)).toEqual(['skipped 1']);
});

test('a file that could not be loaded is a failure', () => {
  expect(tallyReport(reportOf(['passed', 'passed'], ['failed']), 1)).toEqual({ passed: 1, failed: 1, skipped: 0 });
});

test('a run without a test is a failure, whatever its exit code', () => {
  expect(tallyReport(reportOf(), 0).failed).toBe(1);
  expect(tallyReport(reportOf(['passed', 'skipped']), 0).failed).toBe(1);
});

test('a non-zero exit is a failure although every test passed', () => {
  expect(tallyReport(reportOf(['passed', 'passed']), 1)).toEqual({ passed: 1, failed: 1, skipped: 0 });
});
