/** The RPC server on a real Unix socket: framing, order, clients that misbehave, and the life of the socket file. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Logger } from '../../src/base/log.ts';
import { RpcCallError, RpcClient } from '../../src/rpc/client.ts';
import { JsonStreamParser } from '../../src/rpc/framing.ts';
import type { DaemonHandlers } from '../../src/rpc/methods.ts';
import { RpcServer, type RpcServerLimits } from '../../src/rpc/server.ts';
import { type FakeDaemon, fakeDaemon } from './fixtures/rpc-fake-daemon.ts';

const WAIT_MS = 30_000;
const MIB = 1024 * 1024;

let directory: string;
let socketPath: string;
let daemon: FakeDaemon;
let logLines: string[];
const servers: RpcServer[] = [];
const sockets: Socket[] = [];

const note = (message: string): void => {
  logLines.push(message);
};
const log: Logger = { debug: note, info: note, warn: note, error: note };

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-rpc-'));
  socketPath = join(directory, 'rpc.sock');
  daemon = fakeDaemon();
  logLines = [];
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(servers.splice(0).map((server) => server.close()));
  rmSync(directory, { recursive: true });
});

function makeServer(limits: Partial<RpcServerLimits> = {}, handlers: Partial<DaemonHandlers> = {}): RpcServer {
  const server = new RpcServer({ handlers: { ...daemon.handlers, ...handlers }, log, version: '0.1.0', limits });
  servers.push(server);
  return server;
}

async function serve(limits?: Partial<RpcServerLimits>, handlers?: Partial<DaemonHandlers>): Promise<RpcServer> {
  const server = makeServer(limits, handlers);
  await server.listen(socketPath);
  return server;
}

const hasLogged = (text: string): boolean => logLines.some((line) => line.includes(text));

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await sleep(2);
  }
}

/** A client that sends what it is told, byte by byte if need be, and keeps every answer. */
class RawClient {
  readonly socket: Socket;
  readonly answers: unknown[] = [];
  isClosed = false;
  readonly #parser = new JsonStreamParser({ maxBytes: 64 * MIB });

  constructor() {
    this.socket = connect({ path: socketPath, allowHalfOpen: true });
    sockets.push(this.socket);
    this.socket.on('data', (chunk) => this.answers.push(...this.#parser.push(chunk as Buffer).values));
    this.socket.on('error', () => undefined);
    this.socket.on('end', () => {
      this.isClosed = true;
    });
    this.socket.on('close', () => {
      this.isClosed = true;
    });
  }

  send(...requests: readonly object[]): void {
    this.socket.write(requests.map((request) => JSON.stringify({ jsonrpc: '2.0', ...request })).join(''));
  }

  async answered(count: number): Promise<readonly unknown[]> {
    await until(() => this.answers.length >= count, `${count} answers have come`);
    return this.answers;
  }
}

const request = (id: number | undefined, method: string, params?: object) => ({ id, method, params });
const newDisk = (id: number, name: string) =>
  request(id, 'bdev_malloc_create', { name, num_blocks: 8, block_size: 512 });

/** The answers to what rpc.py sends, below. */
const RPC_PY_ANSWERS = [
  { jsonrpc: '2.0', id: 1, result: 'Malloc0' },
  { id: 2, result: true },
  { id: 3, result: [{ ctrlr: 'vhost.1', cpumask: '0x2' }] },
  { id: 4, error: { code: -19, message: 'No such device' } },
];

describe('what rpc.py sends', () => {
  /** Byte for byte: json.dumps(request, indent=2) in one send, keys in rpc.py's order. */
  const RPC_PY = [
    `{
  "jsonrpc": "2.0",
  "method": "bdev_malloc_create",
  "id": 1,
  "params": {
    "num_blocks": 131072,
    "block_size": 512,
    "name": "Malloc0",
    "md_interleave": false,
    "dif_is_head_of_md": false
  }
}`,
    `{
  "jsonrpc": "2.0",
  "method": "vhost_create_blk_controller",
  "id": 2,
  "params": {
    "ctrlr": "vhost.1",
    "dev_name": "Malloc0",
    "cpumask": "0x2",
    "readonly": false,
    "packed_ring": false
  }
}`,
    `{
  "jsonrpc": "2.0",
  "method": "vhost_get_controllers",
  "id": 3
}`,
    `{
  "jsonrpc": "2.0",
  "method": "bdev_malloc_delete",
  "id": 4,
  "params": {
    "name": "Malloc9"
  }
}`,
  ] as const;

  test('is answered, one call at a time', async () => {
    await serve();
    const client = new RawClient();
    for (const [index, text] of RPC_PY.entries()) {
      client.socket.write(text);
      await client.answered(index + 1);
    }
    expect(client.answers).toMatchObject(RPC_PY_ANSWERS);
  });

  test('is answered when all of it comes at once, and when it comes byte by byte', async () => {
    await serve();
    const whole = new RawClient();
    whole.socket.write(RPC_PY.join('\n'));
    expect(await whole.answered(RPC_PY.length)).toMatchObject(RPC_PY_ANSWERS);
    daemon.bdevs.clear();
    daemon.controllers.clear();
    const drip = new RawClient();
    drip.socket.setNoDelay();
    for (const byte of Buffer.from(RPC_PY.join(''))) {
      drip.socket.write(Uint8Array.of(byte));
      if (byte === 0x0a) await sleep(0);
    }
    expect(await drip.answered(RPC_PY.length)).toMatchObject(RPC_PY_ANSWERS);
  });

  const hasPython = spawnSync('python3', ['--version']).status === 0;
  test.skipIf(!hasPython)('is answered to a client in Python (needs python3)', async () => {
    await serve();
    const script = join(import.meta.dirname, 'fixtures', 'rpc_client.py');
    const child = spawn('python3', [script, socketPath], { stdio: ['pipe', 'pipe', 'inherit'] });
    const input = RPC_PY.map((text) => {
      const { method, params } = JSON.parse(text) as { readonly method: string; readonly params?: object };
      return JSON.stringify({ method, params });
    });
    child.stdin.end(`${input.join('\n')}\n`);
    let output = '';
    for await (const piece of child.stdout) output += String(piece);
    const answers = output
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown);
    expect(answers).toMatchObject(RPC_PY_ANSWERS);
  });
});

describe('the requests of one connection', () => {
  test('take effect in the order in which they were sent, although handlers are slow', async () => {
    await serve(
      {},
      {
        bdev_malloc_create: async (params, context) => {
          await sleep(20);
          return await (daemon.handlers.bdev_malloc_create(params, context) as string);
        },
      },
    );
    const client = new RawClient();
    client.send(newDisk(1, 'A'), request(2, 'vhost_create_blk_controller', { ctrlr: 'v', dev_name: 'A' }));
    expect(await client.answered(2)).toMatchObject([
      { id: 1, result: 'A' },
      { id: 2, result: true },
    ]);
  });

  test('are not held up by one that waits for an event', async () => {
    await serve();
    const client = new RawClient();
    client.send(request(1, 'bdev_get_bdevs', { name: 'A', timeout: WAIT_MS }), newDisk(2, 'A'));
    expect(await client.answered(2)).toMatchObject([{ id: 2 }, { id: 1, result: [{ name: 'A' }] }]);
  });

  test('that wait for events are limited in number', async () => {
    await serve();
    const client = new RawClient();
    const waits = Array.from({ length: 65 }, (_, id) => request(id, 'bdev_get_bdevs', { name: 'A', timeout: WAIT_MS }));
    client.send(...waits);
    expect(await client.answered(1)).toMatchObject([{ id: 64, error: { code: -32000 } }]);
    client.send(newDisk(100, 'A'));
    await client.answered(66);
  });

  test('may be as many as one likes: those that cannot be answered yet wait', async () => {
    await serve({ outputPauseBytes: 16 * 1024 });
    await Promise.resolve(daemon.handlers.bdev_null_create({ name: 'N', num_blocks: 8, block_size: 512 }, never()));
    const client = new RawClient();
    client.socket.pause();
    const count = 5000;
    client.send(...Array.from({ length: count }, (_, id) => request(id, 'bdev_get_bdevs')));
    await sleep(100);
    client.socket.resume();
    const answers = (await client.answered(count)) as readonly { readonly id: number }[];
    expect(answers.map((answer) => answer.id)).toEqual(Array.from({ length: count }, (_, id) => id));
  });

  test('are answered after the client has ended its side', async () => {
    await serve();
    const client = new RawClient();
    client.socket.end(JSON.stringify({ jsonrpc: '2.0', ...request(1, 'log_get_level') }));
    await until(() => client.isClosed, 'the server has ended its side');
    expect(client.answers).toEqual([{ jsonrpc: '2.0', id: 1, result: 'NOTICE' }]);
  });

  test('may be a batch', async () => {
    await serve();
    const client = new RawClient();
    client.socket.write(JSON.stringify([newDisk(1, 'A'), newDisk(2, 'A'), request(undefined, 'log_get_level')]));
    expect(await client.answered(1)).toMatchObject([
      [
        { id: 1, result: 'A' },
        { id: 2, error: { code: -17 } },
      ],
    ]);
  });
});

/** The context of a call that no client makes. */
function never() {
  return { signal: new AbortController().signal, calledAs: '', connection: 0 };
}

describe('a client that misbehaves', () => {
  test('by sending rubbish gets a parse error after its answers, and is disconnected', async () => {
    await serve();
    const client = new RawClient();
    client.socket.write(`${JSON.stringify(request(1, 'log_get_level'))} rubbish ${JSON.stringify(request(2, 'x'))}`);
    await until(() => client.isClosed, 'the connection is closed');
    expect(client.answers).toMatchObject([
      { id: 1, result: 'NOTICE' },
      { id: null, error: { code: -32700, message: 'Parse error' } },
    ]);
  });

  test.each([
    ['that is too long', `{"a": "${'x'.repeat(2000)}"}`],
    ['that is nested too deeply', '['.repeat(100)],
    ['in binary', '\u0000\u0001\u0002'],
    ['of a web browser', 'GET / HTTP/1.1\r\n\r\n'],
  ])('with a request %s is disconnected, and others are served', async (_what, text) => {
    const server = await serve({ requestMaxBytes: 1000 });
    const client = new RawClient();
    client.socket.write(text);
    await until(() => client.isClosed, 'the connection is closed');
    expect(client.answers).toMatchObject([{ id: null, error: { code: -32700 } }]);
    client.socket.destroy();
    await until(() => server.connectionCount === 0, 'the connection is forgotten');
    const other = new RawClient();
    other.send(request(1, 'log_get_level'));
    expect(await other.answered(1)).toMatchObject([{ id: 1, result: 'NOTICE' }]);
  });

  test('by never reading its answers is disconnected when they are too many', async () => {
    const level = 'x'.repeat(MIB) as 'INFO';
    const server = await serve({ outputMaxBytes: 4 * MIB, outputPauseBytes: 64 * MIB }, { log_get_level: () => level });
    const client = new RawClient();
    client.socket.pause();
    client.send(...Array.from({ length: 100 }, (_, id) => request(id, 'log_get_level')));
    await until(() => hasLogged('it does not read its answers'), 'it is disconnected');
    await until(() => server.connectionCount === 0, 'it is forgotten');
    expect(logLines).toHaveLength(2);
  });

  test('by never reading its answers is disconnected when it has had its time', async () => {
    const level = 'x'.repeat(MIB) as 'INFO';
    const server = await serve({ outputPauseBytes: 1024, outputStallMs: 50 }, { log_get_level: () => level });
    const client = new RawClient();
    client.socket.pause();
    client.send(request(1, 'log_get_level'), request(2, 'log_get_level'));
    await until(() => hasLogged('it does not read its answers'), 'it is disconnected');
    await until(() => server.connectionCount === 0, 'it is forgotten');
    expect(logLines).toHaveLength(2);
  });

  test('by ending its side and reading nothing is disconnected when it has had its time', async () => {
    const level = 'x'.repeat(8 * MIB) as 'INFO';
    const server = await serve({ halfClosedMs: 50 }, { log_get_level: () => level });
    const client = new RawClient();
    client.socket.pause();
    client.socket.end(JSON.stringify(request(1, 'log_get_level')));
    await until(() => hasLogged('its time is up'), 'it is disconnected');
    await until(() => server.connectionCount === 0, 'it is forgotten');
    expect(logLines).toHaveLength(2);
  });

  test('by vanishing makes the handler that works for it stop', async () => {
    let isStarted = false;
    let isAborted = false;
    const wait: DaemonHandlers['bdev_get_bdevs'] = (_params, { signal }) =>
      new Promise((resolve) => {
        isStarted = true;
        signal.addEventListener('abort', () => {
          isAborted = true;
          resolve([]);
        });
      });
    await serve({ halfClosedMs: 50 }, { bdev_get_bdevs: wait });
    const client = new RawClient();
    client.send(request(1, 'bdev_get_bdevs', { name: 'A', timeout: WAIT_MS }));
    await until(() => isStarted, 'the handler works');
    client.socket.destroy();
    await until(() => isAborted, 'the handler was told');
    expect(hasLogged('its time is up')).toBe(true);
  });
});

describe('many clients', () => {
  test('a thousand at once are all answered', async () => {
    const server = await serve();
    const count = 1000;
    const clients = await Promise.all(Array.from({ length: count }, () => RpcClient.connect(socketPath)));
    await until(() => server.connectionCount === count, 'all are connected');
    const names = await Promise.all(
      clients.map((client, index) =>
        client.call('bdev_malloc_create', { name: `M${index}`, num_blocks: 8, block_size: 512 }),
      ),
    );
    expect(new Set(names).size).toBe(count);
    for (const client of clients) client.close();
    await until(() => server.connectionCount === 0, 'all are gone');
  });

  test('beyond the limit are turned away with a reason, until one leaves', async () => {
    const server = await serve({ connectionsMax: 2 });
    const first = await RpcClient.connect(socketPath);
    const second = await RpcClient.connect(socketPath);
    await Promise.all([first.call('log_get_level'), second.call('log_get_level')]);
    const third = await RpcClient.connect(socketPath);
    await expect(third.call('log_get_level')).rejects.toThrow('2 clients are connected already');
    expect(logLines).toContainEqual(expect.stringContaining('turned away'));
    first.close();
    await until(() => server.connectionCount === 1, 'one has left');
    const fourth = await RpcClient.connect(socketPath);
    expect(await fourth.call('log_get_level')).toBe('NOTICE');
    for (const client of [second, third, fourth]) client.close();
  });
});

describe('the client', () => {
  test('makes typed calls, many at a time', async () => {
    await serve();
    const client = await RpcClient.connect(socketPath);
    const calls = Array.from({ length: 100 }, (_, index) =>
      client.call('bdev_null_create', { name: `N${index}`, num_blocks: 8, block_size: 512 }),
    );
    expect(await Promise.all(calls)).toEqual(calls.map((_, index) => `N${index}`));
    const [info] = await client.call('bdev_get_bdevs', { name: 'N7' });
    expect(info?.product_name).toBe('Null disk');
    client.close();
  });

  test('throws what the daemon answered', async () => {
    await serve();
    const client = await RpcClient.connect(socketPath);
    const error = await client.call('bdev_malloc_delete', { name: 'X' }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RpcCallError);
    expect(error).toMatchObject({ code: -19, message: expect.stringMatching(/^No such device: no bdev is named X/) });
    client.close();
  });

  test('says so when the daemon ends, and when nobody answers', async () => {
    const server = await serve({}, { bdev_malloc_delete: () => new Promise<boolean>(() => undefined) });
    const client = await RpcClient.connect(socketPath);
    const call = client.call('bdev_malloc_delete', { name: 'X' });
    call.catch(() => undefined);
    await server.close();
    await expect(call).rejects.toThrow('closed the connection');
    await expect(client.call('log_get_level')).rejects.toThrow('closed the connection');
    await expect(RpcClient.connect(socketPath)).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('Is ringhost running?'),
    });
  });

  test('is not fooled by something else behind the socket', async () => {
    const other = createServer((socket) => socket.resume().end('220 mail.example.org ESMTP\r\n'));
    await new Promise<void>((resolve) => other.listen(socketPath, resolve));
    const client = await RpcClient.connect(socketPath);
    await expect(client.call('log_get_level')).rejects.toThrow('does not speak JSON-RPC');
    await new Promise((resolve) => other.close(resolve));
  });
});

describe('closing the server', () => {
  test('lets a running request finish and answers it', async () => {
    const running = Promise.withResolvers<boolean>();
    let isStarted = false;
    const slow = (): Promise<boolean> => {
      isStarted = true;
      return running.promise;
    };
    const server = await serve({}, { bdev_malloc_delete: slow });
    const client = new RawClient();
    client.send(request(1, 'bdev_malloc_delete', { name: 'X' }));
    await until(() => isStarted, 'the request runs');
    const closed = server.close();
    running.resolve(true);
    await closed;
    expect(await client.answered(1)).toMatchObject([{ id: 1, result: true }]);
    expect(existsSync(socketPath)).toBe(false);
  });

  test('tells handlers that wait, and does not wait for those that do not listen', async () => {
    const server = await serve({}, { bdev_malloc_delete: () => new Promise<boolean>(() => undefined) });
    const client = new RawClient();
    client.send(request(1, 'bdev_get_bdevs', { name: 'A', timeout: WAIT_MS }));
    client.send(request(2, 'bdev_malloc_delete', { name: 'X' }));
    await until(() => server.connectionCount === 1, 'it is connected');
    await server.close();
    expect(server.connectionCount).toBe(0);
  });
});

describe('the socket file', () => {
  test('belongs to its owner alone, and is removed when the server closes', async () => {
    const server = await serve();
    const stat = statSync(socketPath);
    expect(stat.isSocket()).toBe(true);
    expect(stat.mode & 0o777).toBe(0o600);
    await server.close();
    expect(existsSync(socketPath)).toBe(false);
  });

  test('of a daemon that was killed is replaced', async () => {
    const script = `require('net').createServer().listen(${JSON.stringify(socketPath)}, () => console.log('ready'))`;
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    expect(existsSync(socketPath)).toBe(true);
    await serve();
    const client = await RpcClient.connect(socketPath);
    expect(await client.call('log_get_level')).toBe('NOTICE');
    client.close();
  });

  test('of a living daemon is left alone, and the error says what to do', async () => {
    await serve();
    const second = makeServer();
    await expect(second.listen(socketPath)).rejects.toMatchObject({
      code: 'EADDRINUSE',
      message: expect.stringMatching(/rpc\.sock is in use.*-r/),
    });
    const client = await RpcClient.connect(socketPath);
    expect(await client.call('log_get_level')).toBe('NOTICE');
    client.close();
  });

  test('goes to one of two daemons that start at once', async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 8 }, () => makeServer()).map((server) => server.listen(socketPath)),
    );
    expect(outcomes.filter((outcome) => outcome.status === 'fulfilled')).toHaveLength(1);
    const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
    expect(reasons).toEqual(Array.from({ length: 7 }, () => expect.objectContaining({ code: 'EADDRINUSE' })));
  });

  test('of a successor is not removed', async () => {
    const first = await serve();
    rmSync(socketPath);
    await serve();
    await first.close();
    expect(lstatSync(socketPath).isSocket()).toBe(true);
  });

  test.each([
    ['a file', (path: string) => writeFileSync(path, 'precious'), 'EEXIST'],
    ['a dangling link', (path: string) => symlinkSync('/nowhere', path), 'EEXIST'],
  ])('never replaces %s', async (_what, put, code) => {
    put(socketPath);
    await expect(makeServer().listen(socketPath)).rejects.toMatchObject({ code });
    expect(lstatSync(socketPath).isSocket()).toBe(false);
  });

  test('needs a path that is short enough and a directory that exists', async () => {
    await expect(makeServer().listen(`/tmp/${'x'.repeat(120)}`)).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    await expect(makeServer().listen(join(directory, 'none', 'rpc.sock'))).rejects.toMatchObject({
      message: expect.stringContaining('-r'),
    });
  });

  test('leaves nothing else in its directory', async () => {
    const server = await serve();
    await server.close();
    expect(spawnSync('ls', ['-A', directory], { encoding: 'utf8' }).stdout).toBe('');
  });
});
