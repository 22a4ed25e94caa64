/** docs/protocol.md names what the code offers, and tests that exist. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { FEATURES_OFFERED, VirtioFeature } from '../virtio/features.ts';
import { PROTOCOL_FEATURES_OFFERED } from './messages.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const INTEGRATION = join(ROOT, 'test', 'integration');
const text = readFileSync(join(ROOT, 'docs', 'protocol.md'), 'utf8');
const cases = readdirSync(INTEGRATION)
  .filter((name) => name.endsWith('-cases.ts'))
  .map((name) => readFileSync(join(INTEGRATION, name), 'utf8'))
  .join('\n');

/** Rows of the table under a heading, cell by cell. */
function rowsUnder(heading: string): string[][] {
  const section = text.split(/^## /m).find((part) => part.startsWith(heading)) ?? '';
  const lines = section.split('\n').filter((line) => line.startsWith('| `'));
  return lines.map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

const namesOf = (rows: readonly string[][]): string[] => rows.map(([name = '']) => name.replaceAll('`', ''));

it('has a row for every virtio feature that is offered, and for no other', () => {
  const offered = Object.entries(VirtioFeature).filter(([, bit]) => FEATURES_OFFERED.some((other) => other === bit));
  expect(namesOf(rowsUnder('Features of virtio')).toSorted()).toEqual(offered.map(([name]) => name).toSorted());
});

it('has a row for every protocol feature that is offered, and for no other', () => {
  const offered = [...PROTOCOL_FEATURES_OFFERED, 'CONFIG'];
  expect(namesOf(rowsUnder('Features of the protocol')).toSorted()).toEqual(offered.toSorted());
});

it('names tests that exist', () => {
  const rows = [...rowsUnder('Features of virtio'), ...rowsUnder('Features of the protocol')];
  const named = rows.flatMap((row) => row.slice(2)).filter((cell) => cell !== '—');
  const isThere = (cell: string): boolean => {
    const name = cell.replaceAll('`', '');
    return name.startsWith('test/') ? existsSync(join(ROOT, name)) : cases.includes(`'${name}'`);
  };
  expect(named.length).toBeGreaterThan(20);
  expect(named.filter((cell) => !isThere(cell))).toEqual([]);
});
