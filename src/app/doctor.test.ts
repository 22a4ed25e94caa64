import { describe, expect, it } from 'vitest';
import { type DoctorHost, examine, type Finding } from './doctor.ts';

const SOCKET = '/var/tmp/ringhost.sock';
const QEMU = 'qemu-system-x86_64\0-device\0vhost-user-blk-pci,chardev=c';

/** As libvirt starts it. */
const LIBVIRT_QEMU = [
  ...['/usr/bin/qemu-system-x86_64', '-machine', 'pc-q35-7.2,usb=off,memory-backend=pc.ram', '-object'],
  ...['{"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"size":1073741824}', '-device'],
  '{"driver":"vhost-user-blk-pci","chardev":"chr-vu-virtio-disk0","id":"virtio-disk0"}',
].join('\0');
const HUGEPAGES = '/sys/kernel/mm/hugepages/hugepages-2048kB';

/** A machine on which all is well, but for what a test changes. */
function machine(parts: Partial<DoctorHost> & { files?: Record<string, string> } = {}): DoctorHost {
  const files: Record<string, string> = {
    '/proc/self/limits':
      'Max open files            65536  65536  files\nMax locked memory         unlimited  unlimited  bytes\n',
    '/sys/kernel/security/lsm': 'lockdown,landlock,apparmor\n',
    '/sys/devices/system/cpu/isolated': '2-3\n',
    ...parts.files,
  };
  return {
    read: (path) => files[path] ?? null,
    list: (path) => (path === '/sys/kernel/iommu_groups' ? ['0', '1'] : path === '/proc' ? ['1', '77', 'self'] : []),
    canUse: () => true,
    stat: (path) => (path === SOCKET ? { mode: 0o140600, uid: 0 } : { mode: 0o41777, uid: 0 }),
    run: () => 'QEMU emulator version 7.2.22 (Debian)\n',
    addonProblem: null,
    ioUringProblem: null,
    nodeVersion: '24.0.0',
    arch: 'x64',
    ...parts,
  };
}

function find(host: DoctorHost, topic: string): Finding {
  return examine(host, SOCKET).find((finding) => finding.topic === topic && finding.level !== 'ok') as Finding;
}

describe('the doctor', () => {
  it('has nothing to say of a machine on which all is well', () => {
    expect(examine(machine(), SOCKET).filter(({ level }) => level !== 'ok')).toEqual([]);
  });

  it.each<[string, Parameters<typeof machine>[0], Partial<Finding>]>([
    ['addon', { addonProblem: 'it is not built' }, { level: 'fail', remedy: expect.stringContaining('npm start') }],
    [
      'io_uring',
      { ioUringProblem: 'EPERM', files: { '/proc/sys/kernel/io_uring_disabled': '2\n' } },
      { level: 'warn', remedy: 'sysctl kernel.io_uring_disabled=0' },
    ],
    [
      'open files',
      { files: { '/proc/self/limits': 'Max open files            1024  1048576  files\n' } },
      { level: 'warn', text: expect.stringContaining('limit 1024') },
    ],
    [
      'locked memory',
      { files: { '/proc/self/limits': 'Max locked memory         8388608  8388608  bytes\n' } },
      { level: 'warn', remedy: expect.stringContaining('LimitMEMLOCK') },
    ],
    ['qemu', { run: () => null }, { level: 'warn', remedy: expect.stringContaining('apt-get install') }],
    ['qemu', { run: () => 'QEMU emulator version 2.11.1' }, { level: 'warn', remedy: 'QEMU 4.2 or later' }],
    [
      'guest',
      { files: { '/proc/77/cmdline': `${QEMU}\0-object\0memory-backend-memfd,id=mem,size=1G` } },
      { level: 'fail', text: expect.stringContaining('process 77'), remedy: expect.stringContaining('share=on') },
    ],
    [
      'guest',
      { files: { '/proc/77/cmdline': `${QEMU}\0-object\0memory-backend-memfd,id=mem,size=1G,share=on` } },
      { level: 'fail', text: expect.stringContaining('does not run on'), remedy: expect.stringContaining('-machine') },
    ],
    [
      'guest',
      { files: { '/proc/77/cmdline': LIBVIRT_QEMU.replace('"share":true', '"share":false') } },
      { level: 'fail', text: expect.stringContaining('does not share') },
    ],
    [
      'huge pages',
      { files: { [`${HUGEPAGES}/nr_hugepages`]: '512\n', [`${HUGEPAGES}/free_hugepages`]: '0\n' } },
      { level: 'warn', remedy: expect.stringContaining('ringhost setup --hugepages') },
    ],
    ['kvm', { canUse: (path) => path !== '/dev/kvm' }, { level: 'warn', remedy: expect.stringContaining('usermod') }],
    ['kvm', { canUse: (path) => (path === '/dev/kvm' ? null : true) }, { level: 'warn' }],
    [
      'daemon',
      { canUse: (path) => path !== SOCKET },
      { level: 'fail', remedy: expect.stringContaining('--socket-group') },
    ],
    ['iommu', { canUse: (path) => !path.includes('vfio') }, { level: 'warn', remedy: expect.stringContaining('root') }],
    [
      'iommu',
      { canUse: (path) => (path.includes('vfio') ? null : true) },
      { level: 'warn', remedy: 'modprobe vfio-pci' },
    ],
    ['iommu', { list: () => [] }, { level: 'warn', remedy: expect.stringContaining('intel_iommu=on') }],
    ['daemon', { stat: () => null }, { level: 'warn', text: `no RPC socket ${SOCKET}` }],
    [
      'daemon',
      { stat: (path) => ({ mode: path === SOCKET ? 0o140666 : 0o41777, uid: 0 }) },
      { level: 'warn', text: expect.stringContaining('every user') },
    ],
    [
      'daemon',
      { stat: (path) => ({ mode: path === SOCKET ? 0o140600 : 0o40777, uid: 0 }) },
      { level: 'fail', text: expect.stringContaining('may replace sockets') },
    ],
    ['landlock', { files: { '/sys/kernel/security/lsm': 'apparmor' } }, { level: 'warn' }],
    [
      'cpu frequency',
      { files: { '/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor': 'powersave\n' } },
      { level: 'warn', remedy: expect.stringContaining('performance') },
    ],
  ])('finds what is wrong with: %s', (topic, parts, finding) => {
    expect(find(machine(parts), topic)).toMatchObject(finding);
  });

  it.each([
    `${QEMU}\0-object\0memory-backend-memfd,id=mem,size=1G,share=on\0-machine\0q35,memory-backend=mem`,
    `${QEMU}\0-object\0memory-backend-file,id=m0,mem-path=/dev/hugepages,share=on\0-numa\0node,memdev=m0`,
    LIBVIRT_QEMU,
  ])('is content with a guest that shares its memory: %j', (cmdline) => {
    const findings = examine(machine({ files: { '/proc/77/cmdline': cmdline } }), SOCKET);
    expect(findings).toContainEqual({ level: 'ok', topic: 'guest', text: 'process 77 shares its memory' });
  });

  it('does not look here for the socket of a daemon that is called over the network', () => {
    const findings = examine(machine({}), 'https://192.0.2.10:5260').filter(({ topic }) => topic === 'daemon');
    expect(findings).toMatchObject([{ level: 'warn', remedy: 'run ringhost doctor there' }]);
  });

  it('has a remedy for whatever is not ok', () => {
    const bad = machine({ files: { '/proc/self/limits': '' }, list: () => [], canUse: () => null, stat: () => null });
    for (const { level, remedy } of examine(bad, SOCKET)) expect(remedy !== undefined).toBe(level !== 'ok');
  });
});
