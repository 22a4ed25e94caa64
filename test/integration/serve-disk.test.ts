/** A disk in one command, and in a program of one's own. */
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { serve } from '../../src/index.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { TestChild } from '../e2e/child.ts';
import { waitUntil } from '../e2e/wait.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const COMMAND = join(ROOT, 'bin', 'ringhost');
const START_MAX_MS = 90_000;
const MIB = 2 ** 20;

/** Somewhere else than in the project: `ringhost` is found all the same. */
let directory: string;
let file: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-serve-'));
  file = join(directory, 'my-disk.ts');
  copyFileSync(join(ROOT, 'examples', 'ramdisk.ts'), file);
});

afterEach(() => rmSync(directory, { recursive: true }));

async function useDisk(socketPath: string): Promise<void> {
  const disk = await BlkInitiator.connect(socketPath);
  expect(disk.config.capacitySectors * 512).toBe(8 * MIB);
  const data = new Uint8Array(8192).map((_, i) => i % 251);
  await disk.write(24, data);
  expect(await disk.read(24, data.length)).toEqual(data);
  disk.close();
}

describe('ringhost serve FILE', () => {
  it('prints the socket and how to use it, serves the disk, and leaves nothing when it is interrupted', async () => {
    let output = '';
    const child = new TestChild('ringhost', process.execPath, [COMMAND, 'serve', file, 'mib=8'], (text) => {
      output += text;
    });
    try {
      await waitUntil(() => output.includes('-drive file='), START_MAX_MS, `banner:\n${child.tail()}`);
      const [, socketPath = ''] = /^ {2}my-disk +(\S+) /m.exec(output) ?? [];
      expect(output).toContain(`-chardev socket,id=ringhost0,path=${socketPath},reconnect=1`);
      await useDisk(socketPath);
      expect(await child.stop('SIGINT')).toMatchObject({ code: 0 });
      expect(existsSync(join(socketPath, '..'))).toBe(false);
    } finally {
      await child.stop('SIGKILL');
    }
  });

  it('says what is wrong with the disk, and ends', async () => {
    const child = new TestChild('ringhost', process.execPath, [COMMAND, 'serve', file, 'mib=none']);
    expect(await child.exited).toMatchObject({ code: 1 });
    expect(child.tail()).toContain('size is 0: give a multiple of the block size, 512 bytes');
  });
});

describe('serve()', () => {
  it('serves a disk from a program, until it is closed', async () => {
    const target = await serve(file, { options: { mib: '8' }, name: 'mine', socketDirectory: directory });
    expect(target.socketPath).toBe(join(directory, 'mine'));
    await useDisk(target.socketPath);
    const client = await RpcClient.connect(target.rpcSocket);
    expect(await client.request('bdev_get_bdevs', { name: 'mine' })).toMatchObject([
      { product_name: 'TypeScript disk' },
    ]);
    client.close();
    await target.close();
    expect(existsSync(target.socketPath)).toBe(false);
  });

  it('is what the package exports', () => {
    const { exports } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    expect(exports['.']).toEqual({
      'ringhost-source': './src/index.ts',
      types: './dist/index.d.ts',
      default: './dist/index.js',
    });
    expect(existsSync(join(ROOT, exports['.']['ringhost-source']))).toBe(true);
  });
});
