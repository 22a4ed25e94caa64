/** The systemd unit that is shipped, started by a real systemd: what it may do works, what it may not do fails. */
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { whyNoSystemd } from '../e2e/requirements.ts';
import { waitUntil } from '../e2e/wait.ts';
import { makeCertificate } from '../support/certificates.ts';
import { SystemdContainer } from '../support/systemd-container.ts';
import { MIB, pattern, writeAndReadBack } from './blk-case-helpers.ts';

const UNIT = readFileSync(join(import.meta.dirname, '../../packaging/ringhost.service'), 'utf8');
const LIMIT_MS = 60_000;
const TOKEN = '0123456789abcdef0123456789abcdef';
const SOCKET = '/run/ringhost/rpc.sock';

/** The same unit with another program, whose state is elsewhere. */
function probeUnit(command: string): string {
  return UNIT.replace(/^ExecStart=.*\\\n.*$/m, `ExecStart=${command}`)
    .replace(/^Type=.*$/m, 'Type=exec')
    .replace(/^Restart=.*$/m, 'RemainAfterExit=yes')
    .replaceAll('Directory=ringhost', 'Directory=probe');
}

const OUTPUT = '[Service]\nStandardOutput=append:/run/%p.log\nStandardError=append:/run/%p.log\n';
const missing = whyNoSystemd();
let container: SystemdContainer;

beforeAll(async () => {
  if (missing !== null) return;
  container = await SystemdContainer.start(
    {
      'ringhost.service': UNIT,
      'ringhost.service.d/output.conf': OUTPUT,
      'probe.service': probeUnit('/usr/bin/node /usr/lib/ringhost/test/integration/fixtures/unit-probe.mjs'),
      'probe.service.d/output.conf': OUTPUT,
      'test.target': '[Unit]\nWants=ringhost.service\n',
    },
    'test.target',
  );
});
afterAll(() => container?.close());

async function connect(): Promise<RpcClient> {
  const path = container.path(SOCKET);
  let client: RpcClient | null = null;
  await waitUntil(
    async () => {
      client = await RpcClient.connect(path).catch(() => null);
      return client !== null;
    },
    LIMIT_MS,
    'daemon of the unit',
  );
  return client as unknown as RpcClient;
}

/** What a unit has printed that the expression has in parentheses. Waits for it. */
async function logged(unit: string, expression: RegExp): Promise<string> {
  const read = (): string => readFileSync(container.path(`/run/${unit}.log`), 'utf8');
  await waitUntil(() => expression.test(read()), LIMIT_MS, `${expression} in the log of ${unit}`).catch((cause) => {
    throw new Error(`${unit} printed:\n${read()}`, { cause });
  });
  return expression.exec(read())?.[1] ?? '';
}

/** What docs/remote-rpc.md gives for a drop-in. */
function dropInForHttps(address: string): string {
  const page = readFileSync(join(import.meta.dirname, '../../docs/remote-rpc.md'), 'utf8');
  return (/^```ini\n(.*?)^```/ms.exec(page)?.[1] ?? '').replaceAll('192.0.2.10:5260', address);
}

describe.skipIf(missing !== null)('the systemd unit', () => {
  it('runs the daemon as a user made for it, without capabilities, under a system call filter', async () => {
    using client = await connect();
    expect(await client.call('framework_wait_init')).toBe(true);
    expect(await container.property('ringhost', 'ActiveState')).toBe('active');
    const status = await container.statusOf('ringhost');
    const [, uid] = /^Uid:\t(\d+)/m.exec(status) ?? [];
    // systemd.exec(5): dynamic users have these numbers.
    expect(Number(uid)).toBeGreaterThanOrEqual(61_184);
    expect(Number(uid)).toBeLessThanOrEqual(65_519);
    for (const line of ['CapEff:\t0000000000000000', 'CapBnd:\t0000000000000000', 'NoNewPrivs:\t1', 'Seccomp:\t2']) {
      expect(status).toContain(line);
    }
    const { uid: owner, mode } = statSync(container.path(SOCKET));
    expect([owner, (mode & 0o777).toString(8)]).toEqual([Number(uid), '660']);
  });

  it('serves disks in memory and on files, and systemd brings it back with all of them when it is killed', async () => {
    const first = await connect();
    // What an operator does: a place for images that belongs to the user of the service.
    const directory = '/var/lib/private/ringhost/disks';
    mkdirSync(container.path(directory));
    const { uid } = statSync(container.path(SOCKET));
    await container.run('truncate', '--size', '8M', `${directory}/image`);
    await container.run('chown', '--recursive', String(uid), directory);
    const filename = '/var/lib/ringhost/disks/image';
    await first.call('bdev_malloc_create', { name: 'Memory', num_blocks: 2048, block_size: 512 });
    await first.call('bdev_uring_create', { name: 'File', filename, block_size: 512 });
    for (const [ctrlr, dev_name] of [
      ['memory', 'Memory'],
      ['file', 'File'],
    ] as const) {
      await first.call('vhost_create_blk_controller', { ctrlr, dev_name });
      const driver = await BlkInitiator.connect(container.path(`/run/ringhost/${ctrlr}`));
      await writeAndReadBack(driver, 0, pattern(MIB / 2, 7));
      driver.close();
    }
    await container.run('systemctl', 'kill', '--signal=KILL', 'ringhost');
    await waitUntil(async () => (await container.property('ringhost', 'NRestarts')) === '1', LIMIT_MS, 'restart');
    using second = await connect();
    await second.call('framework_wait_init');
    expect((await second.call('vhost_get_controllers')).map(({ ctrlr }) => ctrlr)).toEqual(['memory', 'file']);
    const driver = await BlkInitiator.connect(container.path('/run/ringhost/file'));
    expect(await driver.read(0, MIB / 2)).toEqual(pattern(MIB / 2, 7));
    driver.close();
    first.close();
  });

  it('goes on as another process when the daemon is upgraded, and systemd knows which', async () => {
    const first = await connect();
    await first.call('vhost_delete_controller', { ctrlr: 'memory' });
    await first.call('bdev_malloc_delete', { name: 'Memory' });
    const driver = await BlkInitiator.connect(container.path('/run/ringhost/file'));
    const before = await container.property('ringhost', 'MainPID');
    const { pid } = await first.call('framework_upgrade', { max_pause_ms: LIMIT_MS });
    expect(String(pid)).not.toBe(before);
    await waitUntil(() => !existsSync(container.path(`/proc/${before}`)), LIMIT_MS, 'end of the old daemon');
    await writeAndReadBack(driver, 0, pattern(MIB / 2, 9));
    driver.close();
    first.close();
    using second = await connect();
    expect((await second.call('framework_get_reactors')).pid).toBe(pid);
    expect(await container.property('ringhost', 'MainPID')).toBe(String(pid));
    expect(await container.property('ringhost', 'ActiveState')).toBe('active');
    expect(await container.property('ringhost', 'NRestarts')).toBe('1');
  });

  it('lets a daemon that was taken over reach nothing else', async () => {
    await container.run('systemctl', 'start', 'probe');
    const answer = await logged('probe', /^PROBE (.*)$/m);
    expect(JSON.parse(answer)).toEqual({
      runtime: 'done',
      state: 'done',
      plain: 'done',
      usr: 'EROFS',
      etc: 'EROFS',
      kernel: expect.stringMatching(/^(EROFS|EACCES|EPERM)$/),
      home: expect.stringMatching(/^(0|EACCES|EPERM)$/),
      otherTemporaryFiles: '0',
      namespaces: 'failed',
      personality: 'failed',
      network: expect.stringMatching(/^(EAFNOSUPPORT|EPERM)$/),
      links: 'lo',
    });
  });

  it('serves RPC over TCP with the drop-in that the docs give', async () => {
    const files = container.path('/etc/ringhost');
    mkdirSync(files);
    const { cert } = makeCertificate(files, 'rpc');
    writeFileSync(join(files, 'rpc.token'), TOKEN, { mode: 0o600 });
    const dropIn = container.path('/etc/systemd/system/ringhost.service.d/network.conf');
    writeFileSync(dropIn, dropInForHttps('127.0.0.1:0'));
    await container.run('systemctl', 'daemon-reload');
    await container.run('systemctl', 'restart', 'ringhost');
    const url = await logged('ringhost', /with TLS on (https:[^" ]+)/);
    using client = await RpcClient.connect(url, { ca: cert, token: TOKEN });
    await client.call('framework_wait_init');
    expect((await client.call('bdev_get_bdevs')).map(({ name }) => name)).toContain('File');
  });
});
