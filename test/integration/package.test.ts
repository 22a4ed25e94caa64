/**
 * The packages as they are published, for npm and for Debian: JavaScript only, with the addon in it. No compiler and no
 * checkout is behind it.
 */
import { type ChildProcessWithoutNullStreams, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findNpmCli } from '../../scripts/setup/node.mjs';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { DOCUMENT_DAEMON, readDocument } from '../e2e/document-reader.ts';
import { whyNoSystemd, whyNoTool } from '../e2e/requirements.ts';
import { SystemdContainer } from '../support/systemd-container.ts';
import { until } from '../support/waiting.ts';

const ROOT = dirname(dirname(import.meta.dirname));
const BUILD_LIMIT_MS = 10 * 60_000;
const START_LIMIT_MS = 90_000;
const PROGRAM = `
  import { connect } from 'ringhost/client';
  import { defineDisk } from 'ringhost';
  using daemon = await connect(process.argv[2]);
  const bdevs = await daemon.call('bdev_get_bdevs');
  console.log(bdevs.map(({ name }) => name).join(), typeof defineDisk);
`;

let directory: string;
/** What `npm pack` made. */
let tarball: string;
const installed = (...path: string[]): string => join(directory, 'node_modules', ...path);

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-package-'));
  execFileSync(process.execPath, ['scripts/build.ts'], { cwd: ROOT });
  const pack = [findNpmCli(), 'pack', '--ignore-scripts', '--json', '--pack-destination', directory];
  const [{ filename }] = JSON.parse(execFileSync(process.execPath, pack, { cwd: ROOT, encoding: 'utf8' }));
  tarball = join(directory, filename);
  mkdirSync(installed('ringhost'), { recursive: true });
  execFileSync('tar', ['-xzf', tarball, '-C', installed('ringhost'), '--strip-components=1']);
  // What `npm install` would fetch is here already.
  for (const name of readdirSync(join(ROOT, 'node_modules'))) {
    if (!name.startsWith('.')) symlinkSync(join(ROOT, 'node_modules', name), installed(name));
  }
  mkdirSync(installed('.bin'));
  symlinkSync(join('..', 'ringhost', 'bin', 'ringhost'), installed('.bin', 'ringhost'));
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }');
  writeFileSync(join(directory, 'program.js'), PROGRAM);
}, BUILD_LIMIT_MS);

afterAll(() => rmSync(directory, { recursive: true, force: true }));

it('has no sources, and nothing that runs when it is installed', () => {
  expect(readdirSync(installed('ringhost'))).not.toContain('src');
  const { scripts = {} } = JSON.parse(
    execFileSync('cat', [installed('ringhost', 'package.json')], { encoding: 'utf8' }),
  );
  for (const name of ['preinstall', 'install', 'postinstall']) expect(scripts).not.toHaveProperty(name);
});

/** Does something when the daemon is ready, with what it has printed; then it must end in order. */
async function whileItServes(
  daemon: ChildProcessWithoutNullStreams,
  act: (printed: () => string) => Promise<void>,
): Promise<void> {
  let output = '';
  for (const stream of [daemon.stdout, daemon.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const exit = once(daemon, 'exit');
  try {
    await until(() => output.includes('is ready') || daemon.exitCode !== null, 'daemon', START_LIMIT_MS);
    await act(() => output);
  } finally {
    daemon.kill('SIGTERM');
  }
  expect(await exit).toEqual([0, null]);
}

it.skipIf(whyNoTool('mandoc') !== null)('has a man page of every command, which is well formed', () => {
  const pages = readdirSync(installed('ringhost', 'man'));
  expect(pages).toEqual(expect.arrayContaining(['ringhost.1', 'ringhost-serve.1', 'ringhost-rpc.1']));
  for (const page of pages) {
    const path = installed('ringhost', 'man', page);
    execFileSync('mandoc', ['-T', 'lint', '-W', 'error', path]);
    expect(execFileSync('mandoc', ['-T', 'html', path], { encoding: 'utf8' })).toContain('SYNOPSIS');
  }
});

it('serves a disk and the dashboard, and is called by a program', async () => {
  const socket = join(directory, 'rpc.sock');
  const args = ['serve', '-S', directory, '-r', socket, '--http', '127.0.0.1:0', '--default-config'];
  const daemon = spawn(process.execPath, [installed('ringhost', 'bin', 'ringhost'), ...args], { cwd: directory });
  await whileItServes(daemon, async (printed) => {
    const url = /HTTP +(\S+)/.exec(printed())?.[1] ?? '';
    const page = await (await fetch(url)).text();
    const scripts = [...page.matchAll(/src="([^"]+)"/g)].map(([, path = '']) => path);
    expect(scripts).toEqual(['/vendor/uplot.js', '/page/main.js']);
    for (const path of [...scripts, '/observe/tables.js', '/page/style.css']) {
      expect((await fetch(new URL(path, url))).status).toBe(200);
    }
    const program = [join(directory, 'program.js'), socket];
    expect(execFileSync(process.execPath, program, { cwd: directory, encoding: 'utf8' })).toBe('Malloc0 function\n');
    expect(printed()).not.toContain('Warning');
  });
});

it('does what docs/write-a-bdev.md says: every command works, and prints what the page shows', async () => {
  const page = installed('ringhost', 'docs', 'write-a-bdev.md');
  const options = { cwd: directory, commands: installed('.bin'), before: DOCUMENT_DAEMON };
  expect(await readDocument(page, options)).toBeGreaterThan(0);
});

/** Installed into a root of its own by dpkg, whose scripts then start nothing. */
describe.skipIf((whyNoTool('dpkg') ?? whyNoTool('systemd')) !== null)('the Debian package', () => {
  let root: string;
  let file: string;
  const inRoot = (...path: string[]): string => join(root, ...path);
  const dpkg = (...args: string[]): string => {
    const options = [
      `--root=${root}`,
      '--force-depends',
      '--force-not-root',
      '--force-script-chrootless',
      '--force-unsafe-io',
    ];
    const logged = [...options, `--log=${inRoot('dpkg.log')}`, ...args];
    // Its warnings of what is not in the root are shown when it fails only.
    return execFileSync('dpkg', logged, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  };

  beforeAll(() => {
    const build = ['scripts/build-deb.ts', tarball, '--directory', directory, '--compression', 'none'];
    execFileSync(process.execPath, build, { cwd: ROOT });
    file = readdirSync(directory).find((name) => name.endsWith('.deb')) ?? '';
    root = join(directory, 'root');
    for (const path of ['info', 'updates', 'triggers']) mkdirSync(inRoot('var/lib/dpkg', path), { recursive: true });
    for (const path of ['status', 'available']) writeFileSync(inRoot('var/lib/dpkg', path), '');
    dpkg('--install', join(directory, file));
  }, BUILD_LIMIT_MS);

  it('has what it needs: a command that says its version, man pages, a unit', () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    // The Node.js that is on PATH is not asked.
    const env = { PATH: '/usr/bin:/bin' };
    expect(execFileSync(inRoot('usr/bin/ringhost'), ['--version'], { env, encoding: 'utf8' })).toBe(`${version}\n`);
    expect(dpkg('--status', 'ringhost')).toMatch(/^Depends: libc6 \(>= 2\.\d+\), libstdc\+\+6, /m);
    expect(readdirSync(inRoot('usr/share/man/man1'))).toContain('ringhost.1.gz');
    expect(readdirSync(inRoot('usr/share/doc/ringhost'))).toContain('copyright');
    const unit = readFileSync(inRoot('usr/lib/systemd/system/ringhost.service'), 'utf8');
    const check = join(directory, 'ringhost.service');
    writeFileSync(check, unit.replace('=/usr/bin/ringhost', `=${inRoot('usr/bin/ringhost')}`));
    expect(spawnSync('systemd-analyze', ['verify', check], { encoding: 'utf8' })).toMatchObject({
      status: 0,
      stderr: '',
    });
  });

  it('serves a disk with the Node.js that it brought', async () => {
    const args = ['serve', '-S', directory, '-r', join(directory, 'deb.sock'), '--confine', '--default-config'];
    const daemon = spawn(inRoot('usr/bin/ringhost'), args, { cwd: '/', env: { PATH: '/usr/bin:/bin' } });
    await whileItServes(daemon, async () => {
      expect(readlinkSync(`/proc/${daemon.pid}/exe`)).toBe(inRoot('usr/lib/ringhost/node'));
      const disk = await BlkInitiator.connect(join(directory, 'vhost.0'));
      const block = Buffer.alloc(4096, 'ringhost');
      await disk.write(8, block);
      expect(Buffer.from(await disk.read(8, block.length))).toEqual(block);
      disk.close();
    });
  });

  describe.skipIf(whyNoSystemd() !== null)('on a system with systemd', () => {
    let container: SystemdContainer;
    beforeAll(async () => {
      const units = {
        // Where this systemd looks for units; the package has the same one.
        'ringhost.service': readFileSync(join(ROOT, 'packaging/ringhost.service'), 'utf8'),
        'test.target': '[Unit]\nDescription=nothing\n',
      };
      container = await SystemdContainer.start(units, 'test.target', { hasCheckout: false });
      copyFileSync(join(directory, file), container.path('/tmp/ringhost.deb'));
      // What images of containers have, so that packages start nothing.
      await container.run('rm', '-f', '/usr/sbin/policy-rc.d');
    }, BUILD_LIMIT_MS);
    afterAll(() => container?.close());

    const install = (): Promise<string> =>
      container.run('dpkg', '--force-depends', '--force-unsafe-io', '--no-triggers', '--install', '/tmp/ringhost.deb');
    const connect = (): Promise<RpcClient> => RpcClient.connect(container.path('/run/ringhost/rpc.sock'));
    const mainPid = (): Promise<string> => container.property('ringhost', 'MainPID');

    it(
      'starts the daemon when it is installed, and upgrades it under its guests when it is again',
      async () => {
        await install();
        expect(await container.property('ringhost', 'ActiveState')).toBe('active');
        const client = await connect();
        await client.call('bdev_malloc_create', { name: 'Ram', num_blocks: 8192, block_size: 512 });
        await client.call('vhost_create_blk_controller', { ctrlr: 'ram', dev_name: 'Ram' });
        client.close();
        const disk = await BlkInitiator.connect(container.path('/run/ringhost/ram'), { timeoutMs: START_LIMIT_MS });
        const block = Buffer.alloc(4096, 'ringhost');
        await disk.write(8, block);
        const before = await mainPid();
        expect(await install()).toMatch(/process \d+ has taken over 1 sessions, which paused for [\d.]+ ms/);
        expect(await mainPid()).not.toBe(before);
        expect(Buffer.from(await disk.read(8, block.length))).toEqual(block);

        // What cannot be handed over: the daemon is left as it is, and who installs is told.
        const next = await connect();
        await next.call('bdev_powercut_create', { name: 'Cut', num_blocks: 64, block_size: 512 });
        next.close();
        const now = await mainPid();
        const told = await install();
        expect(told).toContain('bdev "Cut": two daemons cannot have a');
        expect(told).toContain('systemctl restart ringhost');
        expect(await mainPid()).toBe(now);
        expect(Buffer.from(await disk.read(8, block.length))).toEqual(block);
        disk.close();
      },
      BUILD_LIMIT_MS,
    );
  });

  it('leaves nothing when it is purged', () => {
    dpkg('--purge', 'ringhost');
    expect(existsSync(inRoot('usr'))).toBe(false);
  });
});
