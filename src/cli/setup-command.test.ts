/** Drives change hands, over a tree that looks like sysfs, with a kernel that binds what it is told to. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runSetup, type SetupAction, type SetupHost, type SetupOptions } from './setup-command.ts';

let root: string;
let lines: string[];
let modules: string[];
let overrides: Map<string, string>;

const pci = (...parts: readonly string[]): string => join(root, 'sys/bus/pci', ...parts);

function addDevice(address: string, parts: { driver?: string; group?: string; class?: string } = {}): void {
  const path = pci('devices', address);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'class'), `${parts.class ?? '0x010802'}\n`);
  writeFileSync(join(path, 'vendor'), '0x8086\n');
  writeFileSync(join(path, 'device'), '0x0953\n');
  if (parts.group !== undefined) symlinkSync(`../../iommu_groups/${parts.group}`, join(path, 'iommu_group'));
  if (parts.driver !== undefined) symlinkSync(`../../drivers/${parts.driver}`, join(path, 'driver'));
}

const host: SetupHost = {
  get root() {
    return root;
  },
  print: (line) => lines.push(line),
  loadModule: (name) => modules.push(name),
  write(path, text) {
    if (path.endsWith('nr_hugepages')) writeFileSync(path, String(Math.min(Number(text), 100)));
    const address = path.split('/').at(-2) ?? '';
    if (path.endsWith('driver_override')) overrides.set(address, text.trim());
    if (path.endsWith('driver/unbind')) rmSync(pci('devices', text, 'driver'));
    if (path.endsWith('drivers_probe')) {
      symlinkSync(`../../drivers/${overrides.get(text) || 'nvme'}`, pci('devices', text, 'driver'));
    }
  },
};

const run = (action: SetupAction, options: Partial<SetupOptions> = {}): string[] => {
  lines = [];
  runSetup(action, { devices: [], ...options }, host);
  return lines;
};

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'ringhost-setup-'));
  [modules, overrides] = [[], new Map()];
  mkdirSync(join(root, 'sys/kernel/mm/hugepages/hugepages-2048kB'), { recursive: true });
  writeFileSync(join(root, 'sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'), '0\n');
  addDevice('0000:00:02.0', { class: '0x030000', driver: 'i915' });
  addDevice('0000:01:00.0', { driver: 'nvme', group: '14' });
  addDevice('0000:02:00.0', { group: '15' });
});

afterEach(() => rmSync(root, { recursive: true }));

describe('ringhost setup', () => {
  it('gives every NVMe drive to vfio-pci, and back', () => {
    expect(run('config')).toEqual([
      '0000:01:00.0 (8086 0953): nvme -> vfio-pci',
      '0000:02:00.0 (8086 0953): no driver -> vfio-pci',
    ]);
    expect(modules).toEqual(['vfio-pci', 'vfio_iommu_type1']);
    expect(run('config')[0]).toBe('0000:01:00.0 (8086 0953): already using the vfio-pci driver');
    expect(run('status')).toEqual([
      'hugepages: 0 of 2048 kB',
      '0000:01:00.0 (8086 0953): vfio-pci, IOMMU group 14',
      '0000:02:00.0 (8086 0953): vfio-pci, IOMMU group 15',
    ]);
    expect(run('reset')).toEqual([
      '0000:01:00.0 (8086 0953): vfio-pci -> nvme',
      '0000:02:00.0 (8086 0953): vfio-pci -> nvme',
    ]);
  });

  it('does so for the drives that are named', () => {
    expect(run('config', { devices: ['0000:01:00.0'] })).toHaveLength(1);
    expect(() => run('config', { devices: ['0000:09:00.0'] })).toThrow('there is no PCI device 0000:09:00.0');
    expect(() => run('config', { devices: ['0000:00:02.0'] })).toThrow('is no NVMe drive');
  });

  it('says when there is no IOMMU', () => {
    addDevice('0000:03:00.0', { driver: 'nvme' });
    expect(() => run('config', { devices: ['0000:03:00.0'] })).toThrow('boot with intel_iommu=on');
  });

  it('says when the kernel chose another driver', () => {
    expect(() => runSetup('config', { devices: ['0000:02:00.0'] }, { ...host, root, write() {} })).toThrow(
      'has no driver, and not vfio-pci',
    );
  });

  it('reserves huge pages, and says when there are fewer', () => {
    expect(run('reset', { devices: ['0000:02:00.0'], hugepagesMib: 64 })[0]).toBe('hugepages: 32 of 2048 kB');
    expect(() => run('config', { hugepagesMib: 4096 })).toThrow(
      'the kernel has 100 huge pages of 2 MiB for us, not 2048',
    );
  });
});
