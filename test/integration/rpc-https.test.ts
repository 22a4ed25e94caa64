/** RPC over TCP: who has the token is served as on the Unix socket, and who has not costs next to nothing. */
import { execFile, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Logger } from '../../src/base/log.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { RpcServer, type RpcServerLimits } from '../../src/rpc/server.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { type CertificateFiles, makeCertificate } from '../support/certificates.ts';
import { type FakeDaemon, fakeDaemon } from './fixtures/rpc-fake-daemon.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const RINGHOST = join(import.meta.dirname, '../../bin/ringhost');
const TOKEN = '0123456789abcdef0123456789abcdef';
const WAIT_MS = 30_000;
const PEER_GONE = /^(ECONNRESET|EPIPE|ECONNREFUSED|ERR_STREAM_DESTROYED)$/;

const missing = whyNoTool('nbd') ?? whyNoTool('curl');
let directory: string;
let own: CertificateFiles;
let other: CertificateFiles;
let tokenFile: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-https-'));
  if (missing !== null) return;
  own = makeCertificate(directory, 'own');
  other = makeCertificate(directory, 'other', 'DNS:elsewhere.example');
  tokenFile = join(directory, 'token');
  writeFileSync(tokenFile, `${TOKEN}\n`, { mode: 0o600 });
});
afterAll(() => rmSync(directory, { recursive: true }));

let daemon: FakeDaemon;
let logLines: string[];
const servers: RpcServer[] = [];
const sockets: Socket[] = [];

beforeEach(() => {
  daemon = fakeDaemon();
  logLines = [];
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

const note = (message: string): void => void logLines.push(message);
const log: Logger = { debug: note, info: note, warn: note, error: note };

async function serve(limits: Partial<RpcServerLimits> = {}, certificate = own): Promise<RpcServer> {
  const server = new RpcServer({ handlers: daemon.handlers, log, version: '0.1.0', limits });
  servers.push(server);
  const { cert, key } = certificate;
  await server.listenHttps({ address: { host: '127.0.0.1', port: 0 }, certificate: cert, key, token: TOKEN });
  return server;
}

const urlOf = (server: RpcServer): string => server.httpsUrl ?? '';
const portOf = (server: RpcServer): number => Number(new URL(urlOf(server)).port);
const connect = (server: RpcServer) => RpcClient.connect(urlOf(server), { ca: own.cert, token: TOKEN });

async function expectServed(server: RpcServer): Promise<void> {
  using client = await connect(server);
  expect(await client.call('log_get_level')).toBe('NOTICE');
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await sleep(5);
  }
}

/** A connection that does what it is told, and keeps what comes. */
class RawConnection {
  readonly socket: Socket;
  received = '';
  isClosed = false;
  error: string | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    sockets.push(socket);
    socket.on('data', (piece: Buffer) => (this.received += piece.toString()));
    socket.on('error', (error: NodeJS.ErrnoException) => (this.error = error.code ?? error.message));
    socket.on('close', () => (this.isClosed = true));
  }

  static plain(server: RpcServer): RawConnection {
    return new RawConnection(connectTcp(portOf(server), '127.0.0.1'));
  }

  static async tls(server: RpcServer): Promise<RawConnection> {
    const socket: TLSSocket = connectTls({ host: '127.0.0.1', port: portOf(server), ca: own.cert });
    const connection = new RawConnection(socket);
    await once(socket, 'secureConnect');
    return connection;
  }

  closed(): Promise<void> {
    return until(() => this.isClosed, 'the connection is closed');
  }
}

/** The text of a POST, whose headers end with a blank line. */
function post(body: string, token = TOKEN, length = Buffer.byteLength(body)): string {
  return `POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Length: ${length}\r\n\r\n${body}`;
}

const GET_LEVEL = '{"jsonrpc":"2.0","id":1,"method":"log_get_level"}';

/** Sends a request by curl; the status and the answer. */
async function curl(server: RpcServer, ...args: readonly string[]): Promise<{ status: number; body: string }> {
  const common = ['-sS', '--cacert', own.certFile, '-w', '\n%{http_code}', ...args, urlOf(server)];
  const { stdout } = await promisify(execFile)('curl', common);
  const at = stdout.lastIndexOf('\n');
  return { status: Number(stdout.slice(at + 1)), body: stdout.slice(0, at).trim() };
}

describe.skipIf(missing !== null)('with the token over TLS', () => {
  test('curl is answered: requests, batches and notifications', async () => {
    const server = await serve();
    const headers = ['-H', `Authorization: Bearer ${TOKEN}`];
    expect(await curl(server, ...headers, '-d', GET_LEVEL)).toEqual({
      status: 200,
      body: '{"jsonrpc":"2.0","id":1,"result":"NOTICE"}',
    });
    const batch = `[${GET_LEVEL},{"id":2,"method":"bdev_malloc_delete","params":{"name":"none"}}]`;
    const { status, body } = await curl(server, ...headers, '-d', batch);
    expect([status, JSON.parse(body)]).toMatchObject([200, [{ result: 'NOTICE' }, { error: { code: -19 } }]]);
    const notification = '{"method":"log_set_level","params":{"level":"DEBUG"}}';
    expect(await curl(server, ...headers, '-d', notification)).toEqual({ status: 204, body: '' });
    expect((await curl(server, ...headers, '-d', GET_LEVEL)).body).toContain('"DEBUG"');
  });

  test('the typed client is answered, call by call in order', async () => {
    const server = await serve();
    using client = await connect(server);
    const disk = { name: 'A', num_blocks: 8, block_size: 512 } as const;
    const calls = [
      client.call('bdev_malloc_create', disk),
      client.call('vhost_create_blk_controller', { ctrlr: 'v', dev_name: 'A' }),
      client.call('vhost_get_controllers'),
    ];
    expect(await Promise.all(calls)).toMatchObject(['A', true, [{ ctrlr: 'v' }]]);
    await expect(client.call('bdev_malloc_delete', { name: 'B' })).rejects.toMatchObject({ code: -19 });
  });

  test.each([
    ['no JSON', 'hello', 400],
    ['half a value', '{"method":', 400],
    ['nothing', '', 400],
    ['two values', `${GET_LEVEL}${GET_LEVEL}`, 400],
    ['a number', '5', 200],
    ['what is too long', `"${'x'.repeat(2000)}"`, 413],
  ])('%s is an error that says so', async (_what, data, expected) => {
    const server = await serve({ requestMaxBytes: 1000 });
    const { status, body } = await curl(server, '-H', `Authorization: Bearer ${TOKEN}`, '-d', data);
    expect(status).toBe(expected);
    expect(JSON.parse(body)).toMatchObject({ id: null, error: { data: { detail: expect.stringMatching(/\w/) } } });
    await expectServed(server);
  });

  test('only POST is served', async () => {
    const server = await serve();
    const { status, body } = await curl(server, '-H', `Authorization: Bearer ${TOKEN}`);
    expect([status, body]).toEqual([405, expect.stringContaining('POST')]);
  });

  test('a request that runs when the daemon ends is answered', async () => {
    const running = Promise.withResolvers<boolean>();
    let isStarted = false;
    const handlers = {
      ...daemon.handlers,
      bdev_malloc_delete: () => {
        isStarted = true;
        return running.promise;
      },
    };
    daemon = { ...daemon, handlers };
    const server = await serve();
    using client = await connect(server);
    const call = client.call('bdev_malloc_delete', { name: 'A' });
    await until(() => isStarted, 'the request runs');
    const closed = server.close();
    running.resolve(true);
    expect(await call).toBe(true);
    await closed;
  });
});

describe.skipIf(missing !== null)('without the token', () => {
  test.each([
    ['no token', []],
    ['a wrong one', ['-H', 'Authorization: Bearer 0123456789abcdef0123456789abcdee']],
    ['the beginning of it', ['-H', `Authorization: Bearer ${TOKEN.slice(0, -1)}`]],
    ['none behind the word', ['-H', 'Authorization: Bearer']],
    ['the token as a password', ['-u', `root:${TOKEN}`]],
    ['the token in the URL', ['-G', '--data-urlencode', `token=${TOKEN}`]],
  ])('%s: nothing is done, and the log says who asked', async (_what, headers) => {
    const server = await serve();
    const kill = '{"jsonrpc":"2.0","id":1,"method":"log_set_level","params":{"level":"ERROR"}}';
    const isGet = headers.includes('-G');
    const { status, body } = await curl(server, ...headers, ...(isGet ? [] : ['-d', kill]));
    expect([status, JSON.parse(body).error.data.detail]).toEqual([401, expect.stringContaining('Bearer TOKEN')]);
    expect(logLines).toContain('refused an RPC client without the token');
    await expectServed(server);
  });

  test('what is sent is not read, however long', async () => {
    const server = await serve();
    const connection = await RawConnection.tls(server);
    connection.socket.write(post('', 'wrong-wrong-wrong-wrong', 2 ** 40));
    await connection.closed();
    expect(connection.received).toMatch(/^HTTP\/1.1 401 /);
  });

  test('a thousand attempts are a few lines of the log', async () => {
    const server = await serve();
    const connection = await RawConnection.tls(server);
    // Answered with "connection: close": one attempt a connection; these come before the server closes.
    connection.socket.write(post('', 'wrong-wrong-wrong-wrong').repeat(1000));
    await connection.closed();
    for (let i = 0; i < 20; i++) await curl(server, '-d', GET_LEVEL);
    expect(logLines.filter((line) => line.includes('without the token')).length).toBeLessThanOrEqual(5);
  });
});

describe.skipIf(missing !== null)('a connection', () => {
  test.each([
    ['HTTP in plain text', post(GET_LEVEL)],
    ['JSON in plain text', GET_LEVEL],
    ['noise', Buffer.alloc(4096, 0xa5)],
    ['half a greeting of TLS', Buffer.from('160301020001', 'hex')],
  ])('with %s is closed without an answer', async (_what, bytes) => {
    const server = await serve({ httpsHeadersMs: 2000 });
    const connection = RawConnection.plain(server);
    connection.socket.write(bytes);
    await connection.closed();
    expect(connection.received).not.toMatch(/NOTICE|HTTP/);
    expect(logLines.some((line) => line.startsWith('no RPC client over TLS'))).toBe(true);
    await expectServed(server);
  });

  test('with TLS 1.1 is refused', async () => {
    const server = await serve();
    const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL@SECLEVEL=0' } as const;
    const socket = connectTls({ host: '127.0.0.1', port: portOf(server), ca: own.cert, ...old });
    const connection = new RawConnection(socket);
    await connection.closed();
    expect(connection.error).toBe('ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION');
  });

  test('that says nothing is closed, before the handshake and after it, and others are served meanwhile', async () => {
    const server = await serve({ httpsHeadersMs: 3000, httpsConnectionsMax: 64 });
    const silent = Array.from({ length: 20 }, () => RawConnection.plain(server));
    const greeted = await Promise.all(Array.from({ length: 20 }, () => RawConnection.tls(server)));
    await expectServed(server);
    await Promise.all([...silent, ...greeted].map((each) => each.closed()));
    expect([...silent, ...greeted].map(({ received }) => received).join('')).not.toMatch(/ 200 /);
    await expectServed(server);
  });

  test('that drips its request is closed, in the headers and in the body', async () => {
    const server = await serve({ httpsHeadersMs: 2000, httpsRequestMs: 3000 });
    const text = post(GET_LEVEL);
    const headersEnd = text.indexOf('\r\n\r\n') + 4;
    for (const start of [0, headersEnd]) {
      const connection = await RawConnection.tls(server);
      connection.socket.write(text.slice(0, start));
      // Never more than half of what there is.
      for (let at = start; !connection.isClosed; at = Math.min(at + 1, start + 10)) {
        if (at < start + 10) connection.socket.write(text.charAt(at));
        await sleep(50);
        if (at === start + 3) await expectServed(server);
      }
      expect(connection.received).not.toContain('NOTICE');
    }
  });

  test('beyond the limit is turned away until another one ends', async () => {
    const server = await serve({ httpsConnectionsMax: 3 });
    const held = await Promise.all(Array.from({ length: 3 }, () => RawConnection.tls(server)));
    const extra = RawConnection.plain(server);
    await extra.closed();
    await expect(connect(server)).rejects.toMatchObject({ code: expect.stringMatching(PEER_GONE) });
    expect(logLines).toContain('RPC clients over TCP are turned away: too many are connected');
    held[0]?.socket.destroy();
    await until(() => held[0]?.isClosed === true, 'one has ended');
    for (let isServed = false; !isServed; ) {
      isServed = await expectServed(server)
        .then(() => true)
        .catch(() => sleep(20, false));
    }
  });

  test('that does not take its answer is closed', async () => {
    // More than what fits into the sockets of both sides.
    const name = 'x'.repeat(32 << 20);
    daemon = { ...daemon, handlers: { ...daemon.handlers, bdev_malloc_create: () => name } };
    const server = await serve({ outputStallMs: 500 });
    const connection = await RawConnection.tls(server);
    connection.socket.pause();
    const params = '{"name":"A","num_blocks":8,"block_size":512}';
    connection.socket.write(post(`{"jsonrpc":"2.0","id":1,"method":"bdev_malloc_create","params":${params}}`));
    await until(() => logLines.some((line) => line.includes('does not read its answer')), 'the server gives up');
    connection.socket.resume();
    await connection.closed();
    expect(connection.received.length).toBeLessThan(name.length);
    await expectServed(server);
  });
});

describe.skipIf(missing !== null)('a client is told what to do', () => {
  const failure = (where: string, options = {}): Promise<string> =>
    RpcClient.connect(where, { ca: own.cert, token: TOKEN, ...options }).then(
      () => 'connected',
      (error: Error) => error.message,
    );

  test('when the token is wrong or missing', async () => {
    const url = urlOf(await serve());
    expect(await failure(url, { token: 'another-token-of-length' })).toMatch(/refuses the token.*--token-file/);
    expect(await failure(url, { token: undefined })).toMatch(/wants its token: give --token-file/);
  });

  test('when it does not know who answers', async () => {
    expect(await failure(urlOf(await serve()), { ca: undefined })).toMatch(
      /not signed by whom this client trusts: give --ca-file/,
    );
    expect(await failure(urlOf(await serve({}, other)), { ca: other.cert })).toMatch(/certificate is for another name/);
  });

  test('when nobody answers, or nobody who speaks TLS', async () => {
    const plain = createServer((socket) => socket.resume().end('{"hello":1}')).listen(0, '127.0.0.1');
    await once(plain, 'listening');
    const { port } = plain.address() as { port: number };
    expect(await failure(`https://127.0.0.1:${port}`)).toMatch(/does not speak TLS/);
    await new Promise((resolve) => plain.close(resolve));
    expect(await failure(`https://127.0.0.1:${port}`)).toMatch(/nobody answers there.*--rpc-https/);
  });

  test.each(['127.0.0.1:5260', '[::1]:5260', 'localhost:5260', 'http://127.0.0.1:5260'])(
    'when it asks for plain TCP: %s',
    async (where) => {
      expect(await failure(where)).toMatch(/with TLS and a token only: https:\/\/HOST:PORT/);
    },
  );
});

describe.skipIf(missing !== null)('a certificate', () => {
  const refusal = (cert: string, key: string): Promise<string> =>
    serve({}, { ...own, cert, key }).then(
      () => 'accepted',
      (error: Error) => error.message,
    );

  test('that cannot be used is refused with what to do', async () => {
    const locked = execFileSync('openssl', ['pkey', '-in', own.keyFile, '-aes256', '-passout', 'pass:secret']);
    expect(await refusal('nonsense', own.key)).toMatch(/^--rpc-cert: .*give a PEM file.*BEGIN CERTIFICATE/);
    expect(await refusal(own.cert, 'nonsense')).toMatch(/^--rpc-key: .*give a PEM file.*BEGIN PRIVATE KEY/);
    expect(await refusal(own.key, own.cert)).toMatch(/^--rpc-cert: .*give a PEM file/);
    expect(await refusal(own.cert, other.key)).toMatch(/the key is not that of the certificate/);
    expect(await refusal(own.cert, locked.toString())).toMatch(/^--rpc-key: .*has a passphrase: openssl pkey/);
    expect(await refusal(own.cert, own.key)).toBe('accepted');
  });
});

describe.skipIf(missing !== null)('the daemon', () => {
  test('serves RPC and the dashboard over TCP while it is confined', async () => {
    const inside = mkdtempSync(join(tmpdir(), 'ringhost-secrets-'));
    const files = { cert: join(inside, 'cert'), key: join(inside, 'key'), token: join(inside, 'token') };
    writeFileSync(files.cert, own.cert);
    writeFileSync(files.key, own.key, { mode: 0o600 });
    writeFileSync(files.token, TOKEN, { mode: 0o600 });
    const https = ['--rpc-cert', files.cert, '--rpc-key', files.key, '--rpc-token-file', files.token];
    const http = ['--http', '127.0.0.1:0', '--http-token-file', files.token];
    const served = await RinghostDaemon.start(['--confine', '--rpc-https', '127.0.0.1:0', ...https, ...http]);
    try {
      const find = (pattern: RegExp): string => pattern.exec(served.log)?.[1] ?? '';
      await until(() => find(/dashboard on (http:[^" ]+)/) !== '', 'the dashboard is there');
      const metrics = await fetch(`${find(/dashboard on (http:[^" ]+)/)}metrics`, {
        headers: { authorization: `Bearer ${TOKEN}` },
      });
      expect(await metrics.text()).toContain('ringhost_build_info');
      const url = find(/RPC over TCP with TLS on (https:[^" ]+)/);
      const ringhost = (...args: readonly string[]) => promisify(execFile)(process.execPath, [RINGHOST, ...args]);
      const access = ['-s', url, '--ca-file', own.certFile, '--token-file', tokenFile];
      expect((await ringhost('rpc', ...access, 'bdev_malloc_create', '8', '512', '-b', 'Over')).stdout).toBe('Over\n');
      await served.rpc.call('vhost_create_blk_controller', { ctrlr: 'over', dev_name: 'Over' });
      expect((await ringhost('qemu', ...access, 'over')).stdout).toContain('vhost-user-blk-pci');
      expect((await ringhost('top', ...access, '--once', '-d', '0.1')).stdout).toContain('Over');
      await expect(ringhost('rpc', '-s', url, 'bdev_get_bdevs')).rejects.toMatchObject({
        stderr: expect.stringMatching(/--token-file/),
      });
      // It is confined: what nobody named is out of reach.
      await expect(
        served.rpc.call('bdev_aio_create', { name: 'Key', filename: own.keyFile, block_size: 512 }),
      ).rejects.toThrow(/permission denied|EACCES/i);
    } finally {
      await served.close();
      rmSync(inside, { recursive: true });
    }
  });

  test('reads certificate, key and tokens again at SIGHUP, and keeps those that it has when it cannot', async () => {
    const inside = mkdtempSync(join(tmpdir(), 'ringhost-secrets-'));
    const files = { cert: join(inside, 'cert'), key: join(inside, 'key'), token: join(inside, 'token') };
    // As tools do it: a new file in the place of the old one.
    const put = (path: string, text: string, mode = 0o600): void => {
      writeFileSync(`${path}.new`, text, { mode });
      chmodSync(`${path}.new`, mode);
      renameSync(`${path}.new`, path);
    };
    const put3 = ({ cert, key }: CertificateFiles, token: string): void => {
      put(files.cert, cert);
      put(files.key, key);
      put(files.token, token);
    };
    put3(own, TOKEN);
    const https = ['--rpc-cert', files.cert, '--rpc-key', files.key, '--rpc-token-file', files.token];
    const http = ['--http', '127.0.0.1:0', '--http-token-file', files.token];
    const served = await RinghostDaemon.start(['--confine', '--rpc-https', '127.0.0.1:0', ...https, ...http]);
    try {
      const find = (pattern: RegExp): string => pattern.exec(served.log)?.[1] ?? '';
      await until(() => find(/dashboard on (http:[^" ]+)/) !== '', 'the dashboard is there');
      const url = find(/RPC over TCP with TLS on (https:[^" ]+)/);
      const call = async (ca: string, token: string): Promise<string> => {
        using client = await RpcClient.connect(url, { ca, token });
        return await client.call('log_get_level');
      };
      const look = async (token: string): Promise<number> => {
        const headers = { authorization: `Bearer ${token}` };
        return (await fetch(`${find(/dashboard on (http:[^" ]+)/)}metrics`, { headers })).status;
      };
      const hangUp = async (): Promise<void> => {
        const count = (): number => served.log.split('SIGHUP: certificates').length;
        const before = count();
        process.kill(served.pid, 'SIGHUP');
        await until(() => count() > before, 'the log says what came of it');
      };
      expect(await call(own.cert, TOKEN)).toBe('NOTICE');
      const next = makeCertificate(inside, 'next');
      const nextToken = 'fedcba9876543210fedcba9876543210';
      put3(next, nextToken);
      expect(await call(own.cert, TOKEN)).toBe('NOTICE');
      await hangUp();
      expect(await call(next.cert, nextToken)).toBe('NOTICE');
      await expect(call(own.cert, nextToken)).rejects.toThrow(/certificate/);
      await expect(call(next.cert, TOKEN)).rejects.toThrow(/token/);
      expect([await look(TOKEN), await look(nextToken)]).toEqual([401, 200]);
      // A key of another certificate; a token for everybody; nothing at all: all stays.
      const spoil: readonly (readonly [() => void, RegExp])[] = [
        [() => put(files.key, own.key), /stay as they are: .*the key is not that of the certificate/],
        [() => put(files.token, TOKEN, 0o644), /stay as they are: .*every user of this machine can read it/],
        [() => rmSync(files.cert), /stay as they are: --rpc-cert: there is no file/],
      ];
      for (const [spoilIt, reason] of spoil) {
        put3(next, TOKEN);
        spoilIt();
        await hangUp();
        expect(served.log).toMatch(reason);
        expect(await call(next.cert, nextToken)).toBe('NOTICE');
        expect([await look(TOKEN), await look(nextToken)]).toEqual([401, 200]);
      }
    } finally {
      await served.close();
      rmSync(inside, { recursive: true });
    }
  });

  test('does not start with a token that everybody can read, nor without TLS', async () => {
    const open = join(directory, 'open-token');
    writeFileSync(open, readFileSync(tokenFile));
    chmodSync(open, 0o644);
    const files = ['--rpc-cert', own.certFile, '--rpc-key', own.keyFile, '--rpc-token-file', open];
    await expect(RinghostDaemon.start(['--rpc-https', '127.0.0.1:0', ...files])).rejects.toThrow(/chmod 600/);
    await expect(RinghostDaemon.start(['-r', '127.0.0.1:5260'])).rejects.toThrow(
      /-r 127.0.0.1:5260: RPC goes over TCP with TLS and a token only: give --rpc-https 127.0.0.1:5260/,
    );
  });
});
