import { expect, test } from 'vitest';
import { stalePages } from './generate-docs.ts';

test('the generated pages are what the tables and suites say (else: run scripts/generate-docs.ts)', () => {
  expect(stalePages()).toEqual([]);
});
