/**
 * The tests in four projects: unit (fast, offline, unprivileged) and fuzz (each fuzzer for seconds: `npm run fuzz` runs
 * one for longer), then integration (needs Linux features), then e2e (boots guests, one file at a time: a guest under
 * TCG takes a core for itself).
 */
import { configDefaults, defineConfig } from 'vitest/config';

const MINUTE_MS = 60_000;
/** Beside each other. By default one core stays free, which of two is half of them. */
const ON_EVERY_CORE = { maxWorkers: '100%', sequence: { groupOrder: 0 } };

export default defineConfig({
  test: {
    teardownTimeout: MINUTE_MS,
    projects: [
      {
        test: {
          name: 'unit',
          // Whatever belongs to no other project, so that no test file is forgotten.
          exclude: [
            ...configDefaults.exclude,
            'build/**',
            '.ringhost/**',
            'test/integration/**',
            'test/e2e/**',
            'test/fuzz/**',
          ],
          testTimeout: MINUTE_MS,
          ...ON_EVERY_CORE,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['test/integration/**/*.test.ts'],
          testTimeout: 2 * MINUTE_MS,
          hookTimeout: 2 * MINUTE_MS,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'fuzz',
          include: ['test/fuzz/**/*.test.ts'],
          testTimeout: 5 * MINUTE_MS,
          ...ON_EVERY_CORE,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: 10 * MINUTE_MS,
          hookTimeout: 10 * MINUTE_MS,
          fileParallelism: false,
          maxConcurrency: 2,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
