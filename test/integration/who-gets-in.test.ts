/** Who may connect to a daemon's sockets, and what the daemon itself may do once it has started. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { MIB, pattern, writeAndReadBack } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';
import { waitUntil } from './hostile-helpers.ts';

const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;

let parent: string;
const daemons: RinghostDaemon[] = [];
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'ringhost-access-'));
  chmodSync(parent, 0o755);
});
afterEach(async () => {
  for (const daemon of daemons.splice(0)) await daemon.close();
  rmSync(parent, { recursive: true });
});

async function start(args: readonly string[] = [], owner?: number): Promise<RinghostDaemon> {
  const daemon = await RinghostDaemon.start(args, owner);
  daemons.push(daemon);
  return daemon;
}

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);

/** Tries to connect to a socket as another user; says how it went, and what came. */
function connectAs(uid: number, path: string): string {
  const script = `
    import { connect } from 'node:net';
    const socket = connect(process.argv[1]);
    const tell = (text) => { console.log(text); process.exit(0); };
    socket.on('error', (error) => tell(error.code));
    socket.on('end', () => tell('ended'));
    socket.on('connect', () => socket.write('{"jsonrpc":"2.0","id":1,"method":"spdk_get_version"}'));
    socket.on('data', () => tell('answered'));`;
  const args = ['--input-type=module', '-e', script, path];
  return spawnSync(process.execPath, args, { uid, gid: uid, encoding: 'utf8', cwd: '/' }).stdout.trim();
}

/** Uids of every thread of a process. */
function uidsOf(pid: number): string[] {
  const out = execFileSync('sh', ['-c', `grep -h ^Uid: /proc/${pid}/task/*/status`], { encoding: 'utf8' });
  return [
    ...new Set(
      out
        .trim()
        .split('\n')
        .map((line) => line.replaceAll(/\s+/g, ' ')),
    ),
  ];
}

describe('sockets', () => {
  it('are for their owner alone unless told otherwise, and the log says who connected', async () => {
    const daemon = await start();
    const disk = await daemon.create({ sizeBytes: MIB });
    const rpcPath = join(daemon.directory, 'rpc.sock');
    expect([modeOf(disk.path), modeOf(rpcPath)]).toEqual(['600', '600']);
    (await BlkInitiator.connect(disk.path)).close();
    const [pid, uid, gid] = [process.pid, process.getuid?.(), process.getgid?.()];
    const line = new RegExp(`"pid":${pid},"uid":${uid},"gid":${gid},"msg":"front-end connected"`);
    await waitUntil('the log says who', () => line.test(daemon.log));
    if (isRoot) await expectRefusal(daemon, rpcPath, disk.path);
  });

  it('have the mode and the group that they are given', async () => {
    const group = String(process.getgid?.() ?? 0);
    const daemon = await start(['--socket-mode', '0660', '--socket-group', group]);
    const disk = await daemon.create({ sizeBytes: MIB });
    for (const path of [disk.path, join(daemon.directory, 'rpc.sock')]) {
      expect([modeOf(path), String(statSync(path).gid)]).toEqual(['660', group]);
    }
  });

  /** Another user is refused, even when somebody has opened the files; only root can try. */
  async function expectRefusal(daemon: RinghostDaemon, rpcPath: string, diskPath: string): Promise<void> {
    chmodSync(daemon.directory, 0o755);
    expect(connectAs(NOBODY, rpcPath)).toBe('EACCES');
    for (const path of [rpcPath, diskPath]) {
      chmodSync(path, 0o666);
      expect(['ended', 'ECONNRESET', 'EPIPE']).toContain(connectAs(NOBODY, path));
    }
    await waitUntil('the client is refused', () => /refused an RPC client of a user/.test(daemon.log));
    await waitUntil('the front-end is refused', () => /refused a front-end of a user/.test(daemon.log));
    expect(daemon.log).toMatch(new RegExp(`"uid":${NOBODY}`));
    expect(connectAs(0, rpcPath)).toBe('answered');
  }
});

it('opens no debugger to whoever is on the machine, at SIGUSR1', async () => {
  const daemon = await start();
  await daemon.rpc.call('spdk_kill_instance', { sig_name: 'SIGUSR1' });
  await waitUntil('the signal has come', () => /SIGUSR1 has no effect|Debugger listening/.test(daemon.log));
  expect(daemon.log).not.toContain('Debugger listening');
});

describe('after its start the daemon', () => {
  it.runIf(isRoot)('is the user of --user in every thread, and serves as before', async () => {
    const daemon = await start(['--user', 'nobody'], NOBODY);
    await waitUntil('the daemon is another user', () => /running as nobody/.test(daemon.log));
    expect(uidsOf(daemon.pid)).toEqual([`Uid: ${NOBODY} ${NOBODY} ${NOBODY} ${NOBODY}`]);
    expect(readFileSync(`/proc/${daemon.pid}/status`, 'utf8')).toMatch(/^CapEff:\t0+$/m);
    const disk = await daemon.create({ sizeBytes: MIB });
    expect([statSync(disk.path).uid, modeOf(disk.path)]).toEqual([NOBODY, '600']);
    const driver = await BlkInitiator.connect(disk.path);
    await writeAndReadBack(driver, 0, pattern(4096, 1));
    driver.close();
  });

  it.runIf(isRoot)('refuses a user that cannot make sockets where they are to be', async () => {
    await expect(start(['--user', 'nobody'])).rejects.toThrow(/--user nobody cannot make sockets: EACCES/);
  });

  it('takes a file for the raw disk that it is: whatever a guest writes to it, a file stays a raw disk', async () => {
    const daemon = await start();
    const filename = join(parent, 'disk');
    const image = new Uint8Array(MIB);
    // A qcow2 header, version 3, with a backing file: other programs have been made to read that file for the guest.
    image.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 112, 0, 0, 0, 11]);
    image.set(Buffer.from('/etc/passwd'), 112);
    writeFileSync(filename, image);
    await daemon.rpc.call('bdev_aio_create', { name: 'Raw', filename, block_size: 512 });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'raw', dev_name: 'Raw' });
    const driver = await BlkInitiator.connect(join(daemon.directory, 'raw'));
    expect(driver.config.capacitySectors).toBe(MIB / 512);
    expect(await driver.read(0, 512)).toEqual(image.subarray(0, 512));
    driver.close();
  });

  it.runIf(isRoot)('has a state directory of its user, who makes it new while it is confined', async () => {
    const state = join(parent, 'new-state');
    const daemon = await start(['--confine', '--user', 'nobody', '--state-dir', state], NOBODY);
    await waitUntil('the daemon is another user', () => /running as nobody/.test(daemon.log));
    expect([statSync(state).uid, statSync(state).mode & 0o777]).toEqual([NOBODY, 0o700]);
    await daemon.rpc.call('bdev_null_create', { name: 'Kept', num_blocks: 8, block_size: 512 });
    expect(readFileSync(join(state, 'state.json'), 'utf8')).toContain('Kept');
  });

  it('is confined by --confine: it serves, and reaches no other files', async () => {
    const inside = join(parent, 'inside');
    mkdirSync(inside);
    writeFileSync(join(inside, 'disk'), new Uint8Array(MIB));
    writeFileSync(join(parent, 'outside'), new Uint8Array(MIB));
    const daemon = await start(['--confine', '--allow-path', inside]);
    const open = (name: string, filename: string) =>
      daemon.rpc.call('bdev_aio_create', { name, filename, block_size: 512 });
    await expect(open('Outside', join(parent, 'outside'))).rejects.toThrow(
      /Permission denied|permission denied|EACCES/,
    );
    expect(await open('Inside', join(inside, 'disk'))).toBe('Inside');
    const disk = await daemon.create({ sizeBytes: MIB });
    const driver = await BlkInitiator.connect(disk.path);
    await writeAndReadBack(driver, 0, pattern(4096, 2));
    driver.close();
  });
});
