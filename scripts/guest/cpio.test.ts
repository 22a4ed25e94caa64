import { expect, test } from 'vitest';
import { CpioArchive } from './cpio.ts';

/** Splits an archive as the kernel does: path, mode and data of each node. */
function readArchive(archive: Buffer): { path: string; mode: number; data: string }[] {
  const align = (offset: number): number => Math.ceil(offset / 4) * 4;
  const nodes = [];
  for (let at = 0; at < archive.length; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const path = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    const dataAt = align(at + 110 + nameSize);
    nodes.push({ path, mode, data: archive.toString('utf8', dataAt, dataAt + size) });
    at = align(dataAt + size);
  }
  return nodes;
}

test('an archive holds its nodes in order, with their parents before them and a trailer', () => {
  const archive = new CpioArchive();
  archive.addFile('usr/bin/tool', '#!/bin/sh\n', { isExecutable: true });
  archive.addSymlink('bin', 'usr/bin');
  archive.addCharacterDevice('dev/console', 5, 1);
  archive.addFile('odd', 'x');
  expect(readArchive(archive.toBuffer())).toEqual([
    { path: 'usr', mode: 0o040755, data: '' },
    { path: 'usr/bin', mode: 0o040755, data: '' },
    { path: 'usr/bin/tool', mode: 0o100755, data: '#!/bin/sh\n' },
    { path: 'bin', mode: 0o120777, data: 'usr/bin' },
    { path: 'dev', mode: 0o040755, data: '' },
    { path: 'dev/console', mode: 0o020600, data: '' },
    { path: 'odd', mode: 0o100644, data: 'x' },
    { path: 'TRAILER!!!', mode: 0, data: '' },
  ]);
});

test('archives can be joined: each ends on the alignment of the next', () => {
  const first = new CpioArchive();
  first.addFile('a', 'one');
  const second = new CpioArchive();
  second.addFile('a', 'two');
  const nodes = readArchive(Buffer.concat([first.toBuffer(), second.toBuffer()]));
  expect(nodes.filter(({ path }) => path === 'a').map(({ data }) => data)).toEqual(['one', 'two']);
});

test('a file added twice is there once, with the later content', () => {
  const archive = new CpioArchive();
  archive.addFile('a', 'one');
  archive.addFile('a', 'two');
  expect(archive.has('a')).toBe(true);
  expect(readArchive(archive.toBuffer()).map(({ data }) => data)).toEqual(['two', '']);
});
