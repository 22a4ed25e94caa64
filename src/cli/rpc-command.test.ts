import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type FakeDaemon, fakeDaemon } from '../../test/integration/fixtures/rpc-fake-daemon.ts';
import { SILENT } from '../base/log.ts';
import { RpcServer } from '../rpc/server.ts';
import { runRpcCommand, splitWords } from './rpc-command.ts';

let directory: string;
let socketPath: string;
let server: RpcServer;
let daemon: FakeDaemon;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-rpc-'));
  socketPath = join(directory, 'rpc.sock');
  daemon = fakeDaemon();
  server = new RpcServer({ handlers: daemon.handlers, log: SILENT, version: '0.1.0' });
  await server.listen(socketPath);
});

afterEach(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(line: string, input?: string): Promise<Outcome> {
  let out = '';
  let err = '';
  const code = await runRpcCommand(line === '' ? [] : line.split(' '), {
    stdout: { write: (text) => (out += text) },
    stderr: { write: (text) => (err += text) },
    env: { RINGHOST_RPC_SOCKET: socketPath },
    ...(input === undefined ? {} : { stdin: lines(input) }),
  });
  return { code, out, err };
}

async function* lines(text: string): AsyncGenerator<Uint8Array> {
  // In pieces that cut lines and characters.
  for (const byte of Buffer.from(text)) yield Uint8Array.of(byte);
}

describe('ringhost rpc', () => {
  test('prints a name without quotes, as rpc.py does', async () => {
    expect(await run('bdev_malloc_create 64 512 -b Malloc0')).toEqual({ code: 0, out: 'Malloc0\n', err: '' });
    expect(await run('construct_null_bdev Null0 64 512')).toEqual({ code: 0, out: 'Null0\n', err: '' });
  });

  test('prints objects as JSON with an indent of 2, a plain string with its quotes', async () => {
    const { out } = await run('spdk_get_version');
    expect(out).toBe(`${JSON.stringify(JSON.parse(out), null, 2)}\n`);
    expect((await run('log_get_level')).out).toBe('"NOTICE"\n');
    expect((await run('vhost_get_controllers')).out).toBe('[]\n');
  });

  test('prints nothing where rpc.py prints nothing', async () => {
    await run('bdev_malloc_create 64 512 -b Malloc0');
    expect(await run('vhost_create_blk_controller vhost.0 Malloc0')).toEqual({ code: 0, out: '', err: '' });
    expect(await run('vhost_delete_controller vhost.0')).toEqual({ code: 0, out: '', err: '' });
    expect(await run('delete_bdev Malloc0')).toEqual({ code: 0, out: '', err: '' });
  });

  test('does not show a key that the daemon refuses', async () => {
    for (const verbose of ['', '-v ']) {
      const { code, err } = await run(`${verbose}accel_crypto_key_create -c AES_XTS -k feed -e beef`);
      expect(code).toBe(1);
      expect(err).toContain('"key": "(not shown)",\n');
      expect(err).not.toMatch(/feed|beef/);
    }
  });

  test('shows the request and the error when the daemon refuses, and exits with 1', async () => {
    const { code, out, err } = await run('bdev_malloc_delete Malloc9');
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(err).toMatch(/^request:\n\{\n {2}"name": "Malloc9",\n {2}"method": "bdev_malloc_delete"\n\}\n/);
    const response = JSON.parse(err.slice(err.indexOf('response:\n{') + 'response:\n'.length)) as object;
    expect(response).toEqual({
      code: -19,
      message: 'No such device',
      data: { errno: 'ENODEV', detail: 'no bdev is named Malloc9: bdev_get_bdevs lists them' },
    });
  });

  test('says which method was meant, and exits with 2', async () => {
    expect(await run('bdev_get_bdev')).toEqual({
      code: 2,
      out: '',
      err: 'ringhost rpc: unknown method bdev_get_bdev: did you mean bdev_get_bdevs?\n',
    });
  });

  test('says what is missing and how the method is used', async () => {
    const { code, err } = await run('bdev_malloc_delete');
    expect(code).toBe(2);
    expect(err).toBe('ringhost rpc: bdev_malloc_delete: missing: name\nusage: ringhost rpc bdev_malloc_delete name\n');
  });

  test('says what to look at when no daemon answers', async () => {
    const { code, err } = await run(`-s ${directory}/other.sock log_get_level`);
    expect(code).toBe(1);
    expect(err).toContain('Is ringhost running?');
    expect(err).toContain('-s PATH');
  });

  test('tries again when told to', async () => {
    await server.close();
    const outcome = run('-r 100 log_get_level');
    server = new RpcServer({ handlers: daemon.handlers, log: SILENT, version: '0.1.0' });
    await server.listen(socketPath);
    expect(await outcome).toEqual({ code: 0, out: '"NOTICE"\n', err: '' });
  });

  test('gives up after the time of -t', async () => {
    const { code, err } = await run('-t 0.05 bdev_get_bdevs -b Nobody -t 60000');
    expect(code).toBe(1);
    expect(err).toContain('was not answered within 0.05 s');
    expect((await run('-t 0 log_get_level')).code).toBe(2);
  });

  test('shows requests and answers with -v, on standard error', async () => {
    const { out, err } = await run('-v log_get_level');
    expect(out).toBe('"NOTICE"\n');
    expect(err).toContain('"method": "log_get_level"');
  });

  test('sends nothing with --dry-run', async () => {
    const { out } = await run('--dry-run bdev_null_create Null0 1 512');
    expect(JSON.parse(out.replace('Request:\n', ''))).toEqual({
      method: 'bdev_null_create',
      params: { dif_is_head_of_md: false, name: 'Null0', block_size: 512, num_blocks: 2048 },
    });
    expect(daemon.bdevs.size).toBe(0);
  });

  test('has help for itself and for each method', async () => {
    const general = await run('--help');
    expect(general.code).toBe(0);
    expect(general.out).toContain('vhost_create_blk_controller');
    expect(general.out).toContain('construct_malloc_bdev');
    const method = await run('bdev_malloc_create --help');
    expect(method.code).toBe(0);
    expect(method.out).toContain('usage: ringhost rpc bdev_malloc_create [-b NAME]');
    expect(await run('')).toMatchObject({ code: 1, out: general.out });
  });

  test('takes a signal to the daemon for delivered when the connection ends', async () => {
    expect(await run('spdk_kill_instance SIGTERM')).toEqual({ code: 0, out: '', err: '' });
    expect(daemon.signals).toEqual(['SIGTERM']);
  });
});

describe('a configuration', () => {
  const text = JSON.stringify({ version: 2, subsystems: [{ subsystem: 'bdev', config: [] }] });
  const loaded = { subsystems: [{ subsystem: 'bdev', config: [] }], include_aliases: false };

  test('is printed with the indent of -i, on one line with less than 0', async () => {
    const { subsystems } = loaded;
    expect((await run('save_config -i 4')).out).toBe(`${JSON.stringify({ subsystems }, null, 4)}\n`);
    expect((await run('save_config -i -1')).out).toBe(`${JSON.stringify({ subsystems })}\n`);
    expect((await run('save_subsystem_config -n bdev')).out).toBe(`${JSON.stringify(subsystems[0], null, 2)}\n`);
  });

  test('is read from standard input or from a file, without what it has besides', async () => {
    expect(await run('load_config', text)).toEqual({ code: 0, out: '', err: '' });
    const path = join(directory, 'config.json');
    writeFileSync(path, text);
    expect(await run(`load_config -j ${path}`)).toEqual({ code: 0, out: '', err: '' });
    expect(await run('load_subsystem_config', '{"subsystem": "vhost_blk", "config": []}')).toMatchObject({ code: 0 });
    expect(daemon.loaded).toEqual([loaded, loaded, { subsystem: 'vhost_blk', config: [] }]);
  });

  test('that cannot be read is not sent', async () => {
    const outcome = await run('load_config', '{"subsystems": [');
    expect(outcome).toMatchObject({ code: 1, err: expect.stringContaining('cannot read JSON from standard input') });
    expect(await run(`load_config -j ${directory}/none`)).toMatchObject({ code: 1 });
    expect(daemon.loaded).toEqual([]);
  });
});

describe('calls on standard input', () => {
  test('are made one after another on one connection', async () => {
    const input = `# two disks
bdev_malloc_create 1 512 -b "größe one"

  bdev_malloc_create 1 512 -b B
bdev_get_bdevs -b 'größe one'`;
    const { code, out, err } = await run('', input);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out.split('\n').slice(0, 2)).toEqual(['gr\\u00f6\\u00dfe one', 'B']);
    expect([...daemon.bdevs.keys()]).toEqual(['größe one', 'B']);
  });

  test('end with the first that fails', async () => {
    const { code } = await run('', 'bdev_malloc_delete X\nbdev_malloc_create 1 512 -b B\n');
    expect(code).toBe(1);
    expect(daemon.bdevs.size).toBe(0);
  });

  test('are all read before the first is made: a slip in the last line changes nothing', async () => {
    const { code } = await run('', 'bdev_malloc_create 1 512 -b B\nbdev_malloc_creat 1 512\n');
    expect(code).toBe(2);
    expect(daemon.bdevs.size).toBe(0);
  });
});

describe('words of a line', () => {
  test.each([
    ['a b  c', ['a', 'b', 'c']],
    [' "a b" \'c "d"\' ', ['a b', 'c "d"']],
    ['a\\ b "x\\"y\\n"', ['a b', 'x"y\\n']],
    ['pre"fix"\'ed\'', ['prefixed']],
    ['""', ['']],
    ['', []],
  ])('%j', (line, words) => {
    expect(splitWords(line)).toEqual(words);
  });

  test('a quote that is not closed is an error', () => {
    expect(() => splitWords('a "b')).toThrow('a quote is not closed');
  });
});
