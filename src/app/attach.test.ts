import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { ATTACH_FORMATS, attachText } from './attach.ts';

const BLK = { name: 'vhost.0', kind: 'blk', socketPath: '/var/tmp/vhost.0' } as const;
const SCSI = { name: 'vhost.1', kind: 'scsi', socketPath: '/var/tmp/vhost.1' } as const;

describe('how a controller is attached', () => {
  it('to QEMU: a command line that shares memory and reconnects', () => {
    const text = attachText('qemu', BLK);
    expect(text).toContain('share=on');
    expect(text).toContain('path=/var/tmp/vhost.0,reconnect=1');
    expect(text).toContain('-device vhost-user-blk-pci,num-queues=2,chardev=ringhost0');
    expect(attachText('qemu', SCSI)).toContain('vhost-user-scsi-pci,num_queues=2');
    for (const format of ['qemu', 'libvirt', 'systemd'] as const) {
      expect(attachText(format, SCSI)).not.toContain('reconnect=1'); // QEMU before 8.2 would not start
    }
    for (const line of text.trimEnd().split('\n').slice(0, -1)) expect(line).toMatch(/ \\$/);
  });

  it('to libvirt: a disk of its own kind, and for scsi what it hands to QEMU', () => {
    expect(attachText('libvirt', BLK)).toMatch(/<disk type='vhostuser'.*path='\/var\/tmp\/vhost\.0'.*<reconnect/s);
    expect(attachText('libvirt', SCSI)).toMatch(/xmlns:qemu=.*<qemu:arg value='vhost-user-scsi-pci/s);
    for (const controller of [BLK, SCSI]) {
      expect(attachText('libvirt', controller)).toContain("<access mode='shared'/>");
    }
  });

  it('to Cloud Hypervisor, which has no scsi', () => {
    const text = attachText('cloud-hypervisor', BLK);
    expect(text).toContain('--memory size=1G,shared=on');
    expect(text).toContain('vhost_user=on,socket=/var/tmp/vhost.0,num_queues=2');
    expect(() => attachText('cloud-hypervisor', SCSI)).toThrow('make a blk controller');
  });

  it('by a unit of systemd', () => {
    const text = attachText('systemd', { ...BLK, socketPath: '/srv/50%/vhost.0' });
    expect(text).toMatch(/^After=ringhost\.service$/m);
    expect(text).toMatch(/^ExecStart=\/usr\/bin\/qemu-system-x86_64 /m);
    expect(text).toContain('path=/srv/50%%/vhost.0');
  });

  it('whatever its path holds', () => {
    const odd = { ...BLK, socketPath: "/srv/a,b&'c" };
    const shell = `-chardev 'socket,id=ringhost0,path=/srv/a,,b&'\\''c,reconnect=1'`;
    expect(attachText('qemu', odd)).toContain(shell);
    expect(attachText('libvirt', odd)).toContain("path='/srv/a,b&amp;&apos;c'");
    expect(attachText('libvirt', { ...odd, kind: 'scsi' })).toContain('path=/srv/a,,b&amp;&apos;c');
    for (const format of ATTACH_FORMATS) expect(attachText(format, odd)).toMatch(/\n$/);
    const spaced = { ...BLK, socketPath: '/srv/my disks/50%/a"$b' };
    expect(attachText('cloud-hypervisor', spaced)).toContain(`'vhost_user=on,socket=/srv/my disks/50%/a"$b,num_`);
    expect(attachText('systemd', spaced)).toContain(
      '-chardev "socket,id=ringhost0,path=/srv/my disks/50%%/a\\"$$b,reconnect=1"',
    );
  });

  it('by a command that a shell takes for the words that are meant', () => {
    for (const socketPath of ['/srv/my disks/a', "/srv/it's", '/srv/$HOME', '/srv/a\\b', '/srv/*']) {
      const command = attachText('qemu', { ...BLK, socketPath }).replace(/^\S+/, `printf '%s\\n'`);
      const words = execFileSync('/bin/sh', ['-c', command], { encoding: 'utf8' }).split('\n');
      expect(words).toContain(`socket,id=ringhost0,path=${socketPath},reconnect=1`);
    }
  });
});
