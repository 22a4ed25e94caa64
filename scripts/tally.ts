/** Adds up what vitest's JSON report says. */

export interface Tally {
  passed: number;
  failed: number;
  skipped: number;
}

/** The part of vitest's JSON report that is read here. */
export interface VitestReport {
  readonly testResults: readonly {
    readonly status: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

/**
 * A file that could not be loaded counts as one failure; so does a run in which no test passed, and one that exited
 * non-zero for another reason (an unhandled rejection, say).
 */
export function tallyReport(report: VitestReport, exitCode: number): Tally {
  const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
  for (const file of report.testResults) {
    const failedBefore = tally.failed;
    for (const { status } of file.assertionResults) {
      if (status === 'passed') tally.passed++;
      else if (status === 'failed') tally.failed++;
      else tally.skipped++;
    }
    if (file.status === 'failed' && tally.failed === failedBefore) tally.failed++;
  }
  if (tally.passed === 0 || exitCode !== 0) tally.failed = Math.max(tally.failed, 1);
  return tally;
}

/** The full names of the tests that did not run. */
export function listSkipped(report: VitestReport): string[] {
  const tests = report.testResults.flatMap((file) => file.assertionResults);
  return tests.filter(({ status }) => status !== 'passed' && status !== 'failed').map(({ fullName }) => fullName);
}
