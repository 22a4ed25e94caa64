/**
 * Disks over NBD against the servers that people have: errors, servers that are killed, paused, ended and started
 * again under verified requests, exports that change, TLS.
 */
import { execFileSync } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { copyFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { nbdRpc } from '../../src/bdev/modules/nbd/nbd.rpc.ts';
import { NbdBdev, type NbdParams } from '../../src/bdev/modules/nbd/nbd.ts';
import { BdevRegistry } from '../../src/bdev/registry.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { DiskRig } from '../support/disk-rig.ts';
import { freePort } from '../support/free-port.ts';
import { NbdServer } from '../support/nbd-servers.ts';
import { pause } from '../support/processes.ts';
import { VerifiedLoad } from '../support/verified-load.ts';

const MIB = 1 << 20;
const DISK_BYTES = 8 * MIB;
const ONE = [{ offset: 0, length: 4096 }];
const { success, failed } = IoStatus;

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

async function started(server: Promise<NbdServer>): Promise<NbdServer> {
  const one = await server;
  closers.push(() => one.close());
  return one;
}

async function open(server: NbdServer, params: Partial<NbdParams> = {}): Promise<DiskRig> {
  const rig = new DiskRig(await NbdBdev.open({ name: 'Nbd0', uri: server.uri(), ...params }));
  closers.push(() => rig.close());
  return rig;
}

/** Polls the disk while something happens. */
async function during(rig: DiskRig, event: Promise<unknown>): Promise<void> {
  await rig.polled(event);
}

describe.skipIf(whyNoTool('nbd') !== null)('an NBD disk', () => {
  it.each([
    ['nbdkit', () => NbdServer.nbdkitFile(DISK_BYTES)],
    ['qemu-nbd', () => NbdServer.qemuNbd(DISK_BYTES)],
  ])('loses nothing when %s is killed and started again, five times under load', async (_, start) => {
    const server = await started(start());
    const rig = await open(server);
    const load = new VerifiedLoad(rig, { depth: 32, seed: 7 });
    for (let kill = 0; kill < 5; kill++) {
      await load.run(300);
      load.begin(32);
      await during(rig, server.kill());
      await during(rig, sleep(kill * 20));
      await during(rig, server.start());
      await load.settle();
    }
    expect(load.failures).toBe(0);
    await load.verify();
  });

  it('only waits while its server is paused', async () => {
    const server = await started(NbdServer.nbdkitFile(DISK_BYTES));
    const rig = await open(server);
    const load = new VerifiedLoad(rig, { depth: 16, seed: 9 });
    await load.run(100);
    await during(rig, pause(server.pid));
    load.begin(16);
    await during(rig, sleep(300));
    expect(rig.inFlight).toBeGreaterThan(0);
    process.kill(server.pid, 'SIGCONT');
    await load.settle();
    expect(load.failures).toBe(0);
    await load.verify();
  });

  it("only waits while nbdkit's pause filter holds its requests", async () => {
    const server = await started(NbdServer.nbdkitFile(DISK_BYTES, '--filter=pause', 'pause-control=DIRECTORY/pause'));
    const rig = await open(server);
    const control = connect(join(server.directory, 'pause'));
    const said = async (command: string): Promise<void> => {
      const answer = new Promise((resolve) => control.once('data', resolve));
      control.write(command);
      await during(rig, answer);
    };
    await said('p');
    const read = rig.submit(IoType.read, 0, 8, ONE);
    await during(rig, sleep(200));
    expect(rig.inFlight).toBe(1);
    await said('r');
    expect(await rig.polled(read)).toBe(success);
    control.destroy();
  });

  it('takes leave, so that a server ends that waits for that (exitwhen), and goes on with the next one', async () => {
    const server = await started(
      NbdServer.nbdkitFile(
        DISK_BYTES,
        ...['--filter=exitwhen', 'exit-when-file-created=DIRECTORY/stop', 'exit-when-poll=1'],
      ),
    );
    const first = new DiskRig(await NbdBdev.open({ name: 'Nbd1', uri: server.uri() }));
    expect(await first.run(IoType.write, 0, 8, ONE)).toBe(success);
    writeFileSync(join(server.directory, 'stop'), '');
    await first.close();
    await server.ended();
    rmSync(join(server.directory, 'stop'));
    await server.kill();
    await server.start();
    const rig = await open(server);
    expect(await rig.run(IoType.read, 0, 8, ONE)).toBe(success);
  });

  it('reports the errors of its server, and only those', async () => {
    const server = await started(
      NbdServer.nbdkit(
        '--filter=error',
        'memory',
        String(DISK_BYTES),
        'error-pread=EIO',
        'error-pread-rate=100%',
        'error-zero=ENOSPC',
        'error-zero-rate=100%',
      ),
    );
    const rig = await open(server);
    expect(await rig.run(IoType.write, 0, 8, ONE)).toBe(success);
    expect(await rig.run(IoType.read, 0, 8, ONE)).toBe(failed);
    expect(await rig.run(IoType.writeZeroes, 0, 8)).toBe(failed);
    expect(await rig.run(IoType.flush, 0, 0)).toBe(success);
  });

  it('keeps slow requests apart from quick ones', async () => {
    const server = await started(NbdServer.nbdkit('--filter=delay', 'memory', String(DISK_BYTES), 'delay-read=300ms'));
    const rig = await open(server);
    const order: string[] = [];
    const read = rig.submit(IoType.read, 0, 8, ONE).then(() => order.push('read'));
    const write = rig.submit(IoType.write, 64, 8, [{ offset: 8192, length: 4096 }]).then(() => order.push('write'));
    await rig.polled(Promise.all([read, write]));
    expect(order).toEqual(['write', 'read']);
  });

  it('fails requests that waited for a server as long as was set, and works again when it is back', async () => {
    const server = await started(NbdServer.nbdkitFile(DISK_BYTES));
    const rig = await open(server, { reconnectTimeoutS: 1 });
    expect(await rig.run(IoType.write, 0, 8, ONE)).toBe(success);
    await server.kill();
    expect(await rig.run(IoType.read, 0, 8, ONE)).toBe(failed);
    await server.start();
    expect(await rig.run(IoType.read, 0, 8, ONE)).toBe(success);
  });

  it('is deleted while its server is away, with its requests failed', async () => {
    const server = await started(NbdServer.nbdkitFile(DISK_BYTES));
    const rig = await open(server);
    expect(await rig.run(IoType.write, 0, 8, ONE)).toBe(success);
    await server.kill();
    const waiting = Array.from({ length: 300 }, () => rig.submit(IoType.read, 0, 8, ONE));
    await during(rig, sleep(300));
    await rig.polled(rig.channel.remove());
    expect(new Set(await Promise.all(waiting))).toEqual(new Set([failed]));
  });

  it('allows one connection when its server keeps several not consistent, and says what to do', async () => {
    const server = await started(
      NbdServer.nbdkit('--filter=multi-conn', 'memory', String(DISK_BYTES), 'multi-conn-mode=disable'),
    );
    const rig = await open(server);
    const code = 'EBUSY';
    expect(() => rig.openChannel()).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(/cpumask/) }),
    );
    expect(await rig.run(IoType.write, 0, 8, ONE)).toBe(success);
  });

  it('offers what its export has', async () => {
    const readonly = await started(NbdServer.nbdkit('--readonly', 'memory', String(DISK_BYTES)));
    const plain = await started(NbdServer.nbdkit('--filter=nozero', 'memory', String(DISK_BYTES), 'zeromode=none'));
    const bdevs = [
      await NbdBdev.open({ name: 'A', uri: readonly.uri() }),
      await NbdBdev.open({ name: 'B', uri: plain.uri() }),
      await NbdBdev.open({ name: 'C', uri: plain.uri(), isReadonly: true, blockSizeBytes: 4096 }),
    ];
    expect(bdevs.map(({ ioTypes }) => ioTypes)).toEqual([
      [IoType.read, IoType.flush],
      [IoType.read, IoType.flush, IoType.write, IoType.unmap],
      [IoType.read, IoType.flush],
    ]);
    expect(bdevs.map(({ blockCount }) => blockCount)).toEqual([DISK_BYTES / 512, DISK_BYTES / 512, DISK_BYTES / 4096]);
    expect(bdevs[2]?.toConfig()).toEqual({
      method: 'bdev_nbd_create',
      params: { name: 'C', uri: plain.uri(), block_size: 4096, uuid: bdevs[2]?.uuid, readonly: true },
    });
  });

  it.each(['127.0.0.1', '::1', 'localhost'])('is reached by TCP at %s', async (host) => {
    const port = await freePort();
    // A name is looked up when the disk is made, and may be either.
    const address = host === 'localhost' ? (await lookup(host)).address : host;
    await started(NbdServer.nbdkitTcp(address, port, DISK_BYTES));
    const uri = `nbd://${host.includes(':') ? `[${host}]` : host}:${port}`;
    const rig = new DiskRig(await NbdBdev.open({ name: 'Nbd0', uri }));
    closers.push(() => rig.close());
    const load = new VerifiedLoad(rig, { depth: 16, seed: 4 });
    await load.run(500);
    expect(load.failures).toBe(0);
    await load.verify();
  });

  it('is made, resized and deleted by its calls', async () => {
    const server = await started(NbdServer.nbdkitFile(DISK_BYTES));
    const registry = new BdevRegistry(1);
    const rpc = nbdRpc(registry);
    const context = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
    expect(await rpc.bdev_nbd_create({ name: 'Nbd0', uri: server.uri() }, context)).toBe('Nbd0');
    truncateSync(server.filePath, 2 * DISK_BYTES);
    expect(await rpc.bdev_nbd_resize({ name: 'Nbd0' }, context)).toBe(true);
    expect(registry.get('Nbd0').sizeBytes).toBe(2 * DISK_BYTES);
    expect(await rpc.bdev_nbd_delete({ name: 'Nbd0' }, context)).toBe(true);
    expect(registry.list()).toEqual([]);
  });

  it('goes through TLS, and refuses a server that it does not trust', async () => {
    const server = await started(
      NbdServer.nbdkitTls(DISK_BYTES, (directory) => {
        const openssl = (...args: string[]): void =>
          void execFileSync('openssl', args, { stdio: 'ignore', cwd: directory });
        const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
        openssl(
          'req',
          '-x509',
          '-newkey',
          'rsa:2048',
          '-nodes',
          '-days',
          '2',
          ...subject,
          '-keyout',
          'server-key.pem',
          '-out',
          'server-cert.pem',
        );
        copyFileSync(join(directory, 'server-cert.pem'), join(directory, 'ca-cert.pem'));
      }),
    );
    const uri = server.uri().replace('nbd+unix', 'nbds+unix');
    await expect(NbdBdev.open({ name: 'Nbd0', uri })).rejects.toThrow(/TLS failed: .*self-signed/);
    await expect(NbdBdev.open({ name: 'Nbd0', uri: server.uri() })).rejects.toThrow(/nbds:\/\//);
    const tls = { uri, tlsCaFile: join(server.directory, 'ca-cert.pem') };
    const rig = await open(server, tls);
    const load = new VerifiedLoad(rig, { depth: 16, seed: 3 });
    await load.run(200);
    load.begin(16);
    await during(rig, server.kill());
    await during(rig, server.start());
    await load.settle();
    expect(load.failures).toBe(0);
    await load.verify();
  });
});
