import { expect, test } from 'vitest';
import { stalePages } from './generate-docs.ts';

test('docs/rpc.md and docs/scsi.md are what the tables say (else: run scripts/generate-docs.ts)', () => {
  expect(stalePages()).toEqual([]);
});
