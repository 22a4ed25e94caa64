/** docs/security.md names tests: each must exist, and every kind of hostile input must have one. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

const ROOT = dirname(import.meta.dirname);
const PAGE = readFileSync(join(ROOT, 'docs', 'security.md'), 'utf8');
/** A file, and perhaps part of the name of a test in it. */
const REFERENCE = /`((?:src|test|scripts)\/[^`]+\.(?:ts|json))`(?:: ([^|<\n]+))?/g;
const HOSTILE_LINES = 31;

/** No word that the file has anyway: part of a text in it, long enough to be a name. */
function isNamed(source: string, name: string): boolean {
  if (name === '' || name.startsWith("name: '")) return source.includes(name);
  return name.length > 10 && source.split('\n').some((line) => /['"`]/.test(line.slice(0, line.indexOf(name) + 1)));
}

it('names tests that exist', () => {
  const references = [...PAGE.matchAll(REFERENCE)];
  const missing = references.filter(([, file, name = '']) => {
    const path = join(ROOT, file ?? '');
    return !existsSync(path) || !isNamed(readFileSync(path, 'utf8'), name.trim().replace(/,$/, ''));
  });
  expect(missing.map(([text]) => text)).toEqual([]);
  expect(references.length).toBeGreaterThan(100);
});

it('has a row with a test for every line of hostile input', () => {
  const rows = PAGE.split('\n').filter((line) =>
    /^\| (\d+|(CVE|GHSA|DPDK|SPDK|CH)[- ][^|]+|rust-vmm [^|]+|vm-virtio [^|]+|libvhost-user[^|]+) \|/.test(line),
  );
  const numbers = rows.map((row) => Number(/^\| (\d+) /.exec(row)?.[1])).filter((number) => number > 0);
  expect(numbers).toEqual(Array.from({ length: HOSTILE_LINES }, (_, i) => i + 1));
  const bare = rows.filter((row) => !row.includes('`test/') && !row.includes('`src/'));
  expect(bare).toEqual([]);
  expect(rows.length).toBeGreaterThan(HOSTILE_LINES + 40);
});
