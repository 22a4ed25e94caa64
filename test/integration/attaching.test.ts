/**
 * What is printed for those who start machines is what their own tools take: libvirt's schema of a domain, systemd's
 * check of a unit. Scripts that are shipped please shellcheck, and Proxmox's hook makes and takes away the disks of a
 * machine.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AttachFormat, attachText } from '../../src/app/attach.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const ROOT = dirname(dirname(import.meta.dirname));
const CONTROLLERS = [
  { name: 'vhost.0', kind: 'blk', socketPath: '/run/ringhost/a,b&50%' },
  { name: 'vhost.1', kind: 'scsi', socketPath: '/run/ringhost/a,b&50%' },
] as const;
/** The rest of a domain, as `virsh edit` shows it. */
const DOMAIN = `<name>guest</name>
  <memory unit='GiB'>1</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>`;
const DEVICE = "<disk type='file' device='disk'><source file='/guest.img'/><target dev='vda' bus='virtio'/></disk>";

/** It starts a dozen commands. */
const HOOK_MAX_MS = 10 * 60_000;

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-attach-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function write(name: string, text: string): string {
  writeFileSync(join(directory, name), text);
  return join(directory, name);
}

describe.skipIf(whyNoTool('libvirt') !== null)("libvirt's schema", () => {
  const check = (domain: string) =>
    spawnSync('virt-xml-validate', [write('domain.xml', domain), 'domain'], { encoding: 'utf8' });
  const domainOf = (text: string): string =>
    text.replace(/^<domain(.*)>$/m, `<domain type='kvm'$1>${DOMAIN}`).replace('<devices>', `<devices>${DEVICE}`);

  it.each(CONTROLLERS)('takes a domain with the elements for a $kind controller', (controller) => {
    const { status, stderr } = check(domainOf(attachText('libvirt', controller)));
    expect({ status, stderr }).toMatchObject({ status: 0 });
  });

  it('refuses an element that it does not know', () => {
    const domain = domainOf(attachText('libvirt', CONTROLLERS[0])).replace('<reconnect', '<reconnects');
    expect(check(domain).status).not.toBe(0);
  });
});

describe.skipIf(whyNoTool('systemd') !== null)("systemd's check", () => {
  it.each(CONTROLLERS)('takes the unit of a machine with a $kind controller', (controller) => {
    // A machine of the tests need not have QEMU where users have it.
    const unit = attachText('systemd' satisfies AttachFormat, controller).replace(
      '/usr/bin/qemu-system-x86_64',
      '/bin/true',
    );
    const path = write(`guest-${controller.kind}.service`, unit);
    expect(spawnSync('systemd-analyze', ['verify', '--man=no', path], { encoding: 'utf8' })).toMatchObject({
      ...{ status: 0, stderr: '' },
    });
  });
});

describe("Proxmox's hook", { timeout: HOOK_MAX_MS }, () => {
  let daemon: RinghostDaemon;
  const images = (): string => join(directory, 'images');
  const hook = (phase: string, vm = '100'): string =>
    execFileSync(join(ROOT, 'packaging', 'proxmox-hook'), [vm, phase], {
      encoding: 'utf8',
      env: {
        ...{ PATH: `${join(directory, 'bin')}:${process.env['PATH']}` },
        ...{ RINGHOST_IMAGES: images(), RINGHOST_RPC_SOCKET: join(daemon.directory, 'rpc.sock') },
      },
    });
  const controllers = async (): Promise<string[]> => {
    const list = (await daemon.rpc.call('vhost_get_controllers', {})) as { ctrlr: string }[];
    return list.map(({ ctrlr }) => ctrlr).toSorted();
  };

  beforeAll(async () => {
    for (const name of ['images', 'bin']) mkdirSync(join(directory, name));
    // The command, run by the Node.js of this test.
    const command = `#!/bin/sh\nexec ${process.execPath} ${join(ROOT, 'bin', 'ringhost')} "$@"\n`;
    writeFileSync(join(directory, 'bin', 'ringhost'), command, { mode: 0o755 });
    for (const name of ['vm-100-disk-0', 'vm-1000-disk-0']) {
      truncateSync(write(`images/${name}.raw`, ''), 1 << 20);
    }
    daemon = await RinghostDaemon.start();
  });
  afterAll(() => daemon?.close());

  it.skipIf(whyNoTool('shellcheck') !== null)('is a script about which shellcheck has nothing to say', () => {
    const scripts = ['proxmox-hook', 'debian/postinst', 'debian/prerm', 'debian/postrm', 'debian/ringhost'];
    const { status, stdout } = spawnSync('shellcheck', scripts, { cwd: join(ROOT, 'packaging'), encoding: 'utf8' });
    expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
  });

  it('serves the image of the machine before its start, and only those; again without harm', async () => {
    hook('pre-start');
    hook('pre-start');
    hook('post-start');
    expect(await controllers()).toEqual(['vm-100-disk-0']);
  });

  it('takes it away after its stop, and leaves those of others', async () => {
    hook('pre-start', '1000');
    hook('pre-stop');
    hook('post-stop');
    expect(await controllers()).toEqual(['vm-1000-disk-0']);
  });

  it('keeps the machine from starting when it fails', async () => {
    await daemon.close();
    expect(() => hook('pre-start')).toThrow('Command failed');
  });
});
