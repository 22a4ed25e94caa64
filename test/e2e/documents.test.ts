/**
 * The documents are right: whoever types what they say gets what they show. Every command of these pages is typed, in
 * its turn. Those of docs/write-a-bdev.md are in test/integration/package.test.ts, which has an installed package.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CephCluster } from '../support/ceph-cluster.ts';
import { isPrinted, stepsOf } from './document.ts';
import { DOCUMENT_DAEMON, type ReaderOptions, readDocument } from './document-reader.ts';
import { whyNoGuests, whyNoTool } from './requirements.ts';

const ROOT = dirname(dirname(import.meta.dirname));
const whyNoGuest = whyNoGuests() ?? whyNoTool('nbd') ?? whyNoTool('curl');
/** These pages have the machine of PCs. */
const isX86 = process.arch === 'x64';
/** Two pages at a time (vitest.config.ts): a reader waits for more than half of the time. */
const PAGE = { concurrent: true };

describe('the commands of a page', () => {
  test('are all typed: a block of another kind is an error', () => {
    const page = [
      ...['# Page\n```sh host\ntrue\n```\n```\n(picture)\n```\n```sh elsewhere\nreboot\n```'],
      ...['```sh guest soon\nls\n```\n```text\na\n```\n'],
    ].join('\n');
    expect(stepsOf(page)).toMatchObject([
      { place: 'host', commands: 'true\n', isRepeated: false, expected: null, line: 2 },
      { place: 'guest', commands: 'ls\n', isRepeated: true, expected: 'a\n', line: 11 },
    ]);
    expect(stepsOf('```ts my-disk.ts\nlet a\n```\n')).toMatchObject([{ place: 'file', file: 'my-disk.ts' }]);
    expect(() => stepsOf('```sh\ntrue\n```\n')).toThrow('line 1: nobody types');
    expect(() => stepsOf('```text\na\n```\n')).toThrow('line 1: nobody types');
  });

  test('print what the page shows, whatever stands for …', () => {
    expect(isPrinted('a   1\n\nb+ (2)\n', 'a 1\nb+ …\n')).toBe(true);
    expect(isPrinted('a\nx\ny\nb\n', 'a\n…\nb\n')).toBe(true);
    for (const wrong of ['', 'a\n', 'a\nb\nc\n', 'a\nbb\n']) expect(isPrinted(wrong, 'a\nb\n')).toBe(false);
  });
});

const inCheckout: ReaderOptions = { cwd: ROOT, hasGuest: true };
test.skipIf(whyNoGuest !== null || !isX86).each([
  ['README.md', inCheckout],
  ['docs/guide.md', inCheckout],
])('every command of %s works in its turn, and prints what the page shows', PAGE, async (page, options) => {
  expect(await readDocument(join(ROOT, page), options)).toBeGreaterThan(0);
});

const withDaemon: ReaderOptions = { before: DOCUMENT_DAEMON };
test.skipIf((whyNoTool('qemu') ?? whyNoTool('nbd') ?? whyNoTool('curl')) !== null).each([
  ['docs/lvol.md', withDaemon],
  ['docs/raid.md', withDaemon],
  ['docs/jobs.md', withDaemon],
  ['docs/configuration.md', withDaemon],
  ['docs/nbd.md', withDaemon],
  ['docs/virtio-bdev.md', withDaemon],
  ['docs/file-disks.md', withDaemon],
  ['docs/stacked-bdevs.md', withDaemon],
  ['docs/observing.md', { busyController: 'vhost.0' }],
])('every command of %s works in its turn, and prints what the page shows', PAGE, async (page, options) => {
  expect(await readDocument(join(ROOT, page), options)).toBeGreaterThan(0);
});

const whyNoCluster = whyNoTool('ceph');
test.skipIf(whyNoCluster !== null)('every command of docs/rbd.md works in its turn, on a cluster', PAGE, async () => {
  const parent = mkdtempSync(join(tmpdir(), 'ringhost-rbd-page-'));
  const cluster = await CephCluster.start({ parent, store: 'memory' });
  try {
    await cluster.ceph('osd pool create vms 8');
    const before = `export CEPH_CONF=${cluster.configFile}\n${DOCUMENT_DAEMON}`;
    expect(await readDocument(join(ROOT, 'docs/rbd.md'), { before })).toBeGreaterThan(0);
  } finally {
    await cluster.close();
    rmSync(parent, { recursive: true, force: true });
  }
});
