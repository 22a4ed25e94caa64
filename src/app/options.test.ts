/** What the daemon may be started with. */
import { describe, expect, it } from 'vitest';
import { allowedCores } from '../sys/thread.ts';
import { checkOptions, type RawOptions } from './options.ts';

const RAW: RawOptions = { socketDirectory: '/var/tmp', rpcSocket: '/var/tmp/ringhost.sock', mode: 'adaptive' };
const check = (parts: Partial<RawOptions>) => checkOptions({ ...RAW, ...parts });
const refusal = (parts: Partial<RawOptions>): string => {
  try {
    check(parts);
  } catch (error) {
    return `${(error as { code: string }).code}: ${(error as Error).message}`;
  }
  return 'accepted';
};

describe('options', () => {
  it('have defaults', () => {
    expect(check({})).toEqual({
      socketDirectory: '/var/tmp',
      cores: allowedCores().slice(0, 1),
      memoryBytes: Number.POSITIVE_INFINITY,
      rpcSocket: '/var/tmp/ringhost.sock',
      configFile: undefined,
      ignoreConfigErrors: false,
      stateDirectory: undefined,
      useDefaultConfig: false,
      mode: 'adaptive',
      tracedProtocols: [],
      access: { mode: 0o600, uid: -1, gid: -1 },
      account: null,
      http: null,
      rpcHttps: null,
    });
  });

  it('take cores as a mask or a list', () => {
    const [core] = allowedCores();
    expect(check({ coreMask: `[${core}]` }).cores).toEqual([core]);
    expect(check({ coreMask: allowedCores().join() + (allowedCores().length > 1 ? '' : `-${core}`) }).cores).toEqual(
      allowedCores(),
    );
    expect(check({ coreMask: `0x${(2n ** BigInt(core as number)).toString(16)}` }).cores).toEqual([core]);
  });

  it('refuse cores that the process may not use, and what is no core', () => {
    expect(refusal({ coreMask: '[1023]' })).toMatch(
      /^EINVAL: -m \[1023\]: this process may not use core 1023 \(it has /,
    );
    expect(refusal({ coreMask: 'all' })).toMatch(/^EINVAL: "all" is not a core mask/);
    expect(refusal({ coreMask: '' })).toMatch(/^EINVAL/);
  });

  it.each([
    ['1', 2 ** 20],
    ['1024', 2 ** 30],
    ['0001', 2 ** 20],
    [`${2 ** 32}`, 2 ** 52],
  ])('take %j MiB', (memoryMib, bytes) => {
    expect(check({ memoryMib }).memoryBytes).toBe(bytes);
  });

  it.each(['0', '-1', '1.5', '1e3', '0x10', '', ' 1', '1G', `${2 ** 33}`, '9'.repeat(400)])(
    'refuse %j MiB',
    (memoryMib) => {
      expect(refusal({ memoryMib })).toBe(`EINVAL: -s ${memoryMib}: give a whole number of MiB, such as 1024`);
    },
  );

  it.each(['poll', 'adaptive', 'interrupt'])('take the mode %s', (mode) => {
    expect(check({ mode }).mode).toBe(mode);
  });

  it.each(['', 'Poll', 'busy', 'constructor'])('refuse the mode %j', (mode) => {
    expect(refusal({ mode })).toBe(`EINVAL: --mode ${mode}: choose poll, adaptive, interrupt`);
  });

  it.each(['', ',', 'vhost.0,'])('refuse to trace the messages of %j', (traceProtocol) => {
    expect(refusal({ traceProtocol })).toMatch(/^EINVAL: --trace-protocol ".*": name controllers, such as vhost\.0/);
  });

  it('open sockets to a group only when it is named, and never shut out their owner', () => {
    expect(check({ socketGroup: 'root' }).access).toEqual({ mode: 0o660, uid: -1, gid: 0 });
    expect(check({ socketGroup: '12345', socketMode: '0640' }).access).toEqual({ mode: 0o640, uid: -1, gid: 12345 });
    expect(check({ socketMode: '666' }).access.mode).toBe(0o666);
    for (const socketMode of ['', '0060', '400', '8', '0o660', '10660', 'rw', '-660']) {
      expect(refusal({ socketMode })).toMatch(/^EINVAL: --socket-mode .*: give an octal mode/);
    }
    expect(refusal({ socketGroup: 'no-group' })).toBe(
      'EINVAL: --socket-group no-group: this machine knows no such group: groupadd --system no-group makes it',
    );
  });

  it('name a user that the daemon becomes, to whom its sockets belong', () => {
    expect(check({ user: 'nobody' })).toMatchObject({
      account: { name: 'nobody', uid: 65_534, gid: 65_534 },
      access: { mode: 0o600, uid: 65_534, gid: 65_534 },
    });
    expect(check({ user: '65534' }).account?.name).toBe('nobody');
    expect(refusal({ user: 'no-such-user' })).toBe(
      'EINVAL: --user no-such-user: this machine knows no such user: useradd --system no-such-user makes it',
    );
  });

  it('never serve RPC over TCP without TLS and a token', () => {
    for (const rpcSocket of ['127.0.0.1:5260', '0.0.0.0:1', '[::1]:5260', 'localhost:5260', 'host:0']) {
      expect(refusal({ rpcSocket })).toBe(
        `EINVAL: -r ${rpcSocket}: RPC goes over TCP with TLS and a token only: give --rpc-https ${rpcSocket} ` +
          '--rpc-cert FILE --rpc-key FILE --rpc-token-file FILE beside the path of a socket',
      );
    }
    for (const rpcSocket of ['/run/a:1', './a:1', 'rpc.sock', 'a:b'])
      expect(check({ rpcSocket }).rpcSocket).toBe(rpcSocket);
    const files = { rpcCert: '/dev/null', rpcKey: '/dev/null', rpcTokenFile: '/dev/null' };
    expect(refusal(files)).toMatch(/need --rpc-https ADDRESS:PORT/);
    expect(refusal({ rpcHttps: '127.0.0.1:1' })).toMatch(
      /it needs --rpc-cert FILE, --rpc-key FILE and --rpc-token-file/,
    );
    expect(refusal({ rpcHttps: '5260', ...files })).toMatch(/--rpc-https 5260: give an address and a port/);
    expect(refusal({ rpcHttps: '[::1]:1', ...files, rpcCert: '/none' })).toMatch(/^ENOENT: --rpc-cert: .*\/none/);
    // Everybody may read it.
    expect(refusal({ rpcHttps: '[::1]:1', ...files })).toMatch(/^EACCES: --rpc-key \/dev\/null: .*chmod 600/);
  });

  it('serve the default disk only when asked to, and not with a configuration', () => {
    expect(check({ defaultConfig: true })).toMatchObject({ useDefaultConfig: true, configFile: undefined });
    expect(check({ defaultConfig: true, configFile: 'a.json' })).toMatchObject({
      useDefaultConfig: false,
      configFile: 'a.json',
    });
    expect(check({ defaultConfig: false }).useDefaultConfig).toBe(false);
  });
});
