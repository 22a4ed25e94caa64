import { expect, test } from 'vitest';
import { complete, type FindNames } from './completion.ts';
import { createProgram } from './program.ts';

const asked: (string | undefined)[] = [];
const names: FindNames = async (kind, socket) => {
  asked.push(socket);
  return kind === 'bdev' ? ['Malloc0', 'Nvme0n1'] : ['vhost.0'];
};

async function at(...words: readonly string[]) {
  return await complete(createProgram(), words, names);
}

async function wordsAt(...words: readonly string[]): Promise<readonly string[]> {
  return (await at(...words)).candidates.map(({ word }) => word);
}

test('the first word is a command, or an option of serve', async () => {
  expect(await wordsAt('')).toEqual(expect.arrayContaining(['serve', 'top', 'doctor', 'rpc', 'completion']));
  expect(await wordsAt('')).not.toContain('complete');
  expect(await wordsAt('do')).toEqual(['doctor']);
  expect(await wordsAt('--mem')).toEqual(['--memory']);
  expect((await at('top')).candidates[0]?.help).toMatch(/running daemon/);
});

test.each([
  [
    ['--mode', ''],
    ['poll', 'adaptive', 'interrupt'],
  ],
  [['serve', '--mode', 'a'], ['adaptive']],
  [['serve', '--mode', 'poll', '--log-format', 'j'], ['json']],
  [
    ['setup', ''],
    ['config', 'status', 'reset'],
  ],
  [
    ['setup', '--hugepages', '64', ''],
    ['config', 'status', 'reset'],
  ],
  [['setup', '--hugepages', ''], []],
  [['setup', 'status', ''], []],
  [['qemu', ''], ['vhost.0']],
])('values of options and arguments: %j', async (words, expected) => {
  expect(await wordsAt(...words)).toEqual(expected);
});

test.each([[['-c', '']], [['serve', '--state-dir', '']], [['serve', '']], [['rpc', '-s', '']], [['top', '-s', '']]])(
  'a path: %j',
  async (words) => {
    expect(await at(...words)).toEqual({ candidates: [], takesPath: true });
  },
);

test('methods, older names of them where nothing else fits', async () => {
  expect(await wordsAt('rpc', 'bdev_malloc_')).toEqual([
    'bdev_malloc_create',
    'bdev_malloc_delete',
    'bdev_malloc_resize',
  ]);
  expect(await wordsAt('rpc', '-t', '5', 'bdev_malloc_r')).toEqual(['bdev_malloc_resize']);
  expect(await wordsAt('rpc', 'construct_malloc')).toEqual(['construct_malloc_bdev']);
  expect(await wordsAt('rpc', '--dry')).toEqual(['--dry-run']);
  expect(await wordsAt('rpc', '-t', '')).toEqual([]);
});

test('what a method takes', async () => {
  expect(await wordsAt('rpc', 'bdev_malloc_create', '--u')).toEqual(['--uuid']);
  expect(await wordsAt('rpc', 'bdev_malloc_delete', 'M')).toEqual(['Malloc0']);
  expect(await wordsAt('rpc', 'vhost_create_blk_controller', 'new', '')).toEqual(['Malloc0', 'Nvme0n1']);
  expect(await wordsAt('rpc', 'vhost_create_blk_controller', '')).toEqual([]);
  expect(await wordsAt('rpc', 'vhost_delete_controller', '')).toEqual(['vhost.0']);
  expect(await wordsAt('rpc', 'bdev_get_bdevs', '-b', 'N')).toEqual(['Nvme0n1']);
  expect(await wordsAt('rpc', 'bdev_lvol_snapshot', 'N')).toEqual(['Nvme0n1']);
  expect(await wordsAt('rpc', 'bdev_lvol_snapshot', 'Nvme0n1', 'N')).toEqual([]);
  expect(await wordsAt('rpc', 'bdev_raid_add_base_bdev', 'N')).toEqual(['Nvme0n1']);
  expect(await wordsAt('copy', 'Nvme0n1', 'N')).toEqual(['Nvme0n1']);
  expect((await at('rpc', 'bdev_aio_create', '')).takesPath).toBe(true);
  expect(await wordsAt('rpc', 'no_such_method', '')).toEqual([]);
});

test('the daemon that -s names is asked', async () => {
  asked.length = 0;
  await at('rpc', '-s', '/run/one.sock', 'bdev_malloc_delete', '');
  await at('qemu', '-s', '/run/two.sock', '');
  await at('qemu', '');
  expect(asked).toEqual(['/run/one.sock', '/run/two.sock', undefined]);
});
