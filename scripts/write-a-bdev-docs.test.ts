/** docs/write-a-bdev.md shows the examples as they are. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

const ROOT = dirname(import.meta.dirname);
const EXAMPLES = join(ROOT, 'examples');
const PAGE = readFileSync(join(ROOT, 'docs', 'write-a-bdev.md'), 'utf8');

it('shows every example, whole and as it is', () => {
  const blocks = [...PAGE.matchAll(/^```ts \S+\n(.*?)^```$/gms)].map(([, code]) => code);
  const missing = readdirSync(EXAMPLES).filter((name) => !blocks.includes(readFileSync(join(EXAMPLES, name), 'utf8')));
  expect(missing).toEqual([]);
  // The last two are programs of one's own.
  expect(blocks).toHaveLength(readdirSync(EXAMPLES).length + 2);
});
