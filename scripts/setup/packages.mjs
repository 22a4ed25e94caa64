/** What the project needs around it: npm packages in node_modules, and Debian packages for the commands it calls. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { excerpt, findOnPath, runQuietly } from './child.mjs';
import { findNpmCli, ROOT } from './node.mjs';

const LOCK_FILE = join(ROOT, 'package-lock.json');
/** Where packages are that are not installed on the machine, and their commands. */
const TOOLS_DIR = join(ROOT, '.ringhost', 'tools');
export const TOOLS_BIN_DIR = join(TOOLS_DIR, 'usr', 'bin');
const APT_INSTALL = ['install', '-y', '-q', '--no-install-recommends'];
/** Inside node_modules, so that removing the folder removes the stamp too. */
const NPM_STAMP = join(ROOT, 'node_modules', '.ringhost-lock-hash');

const hashOfLockFile = () => createHash('sha256').update(readFileSync(LOCK_FILE)).digest('hex');

export function areNpmPackagesCurrent() {
  return existsSync(NPM_STAMP) && readFileSync(NPM_STAMP, 'utf8') === hashOfLockFile();
}

/** `npm ci` by the given Node: packages refuse or warn about a Node that is too old. */
export function installNpmPackages(node) {
  const flags = [
    '--include=dev',
    '--include=optional',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
  ];
  const env = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH ?? ''}` };
  const { ok, output } = runQuietly(node, [findNpmCli(), 'ci', ...flags], { cwd: ROOT, env });
  if (!ok) throw new Error(`npm ci failed:\n${excerpt(output)}`);
  writeFileSync(NPM_STAMP, hashOfLockFile());
}

const IS_ARM = process.arch === 'arm64';
/** Commands that are not ours, and the smallest Debian package that has each. The tests need all of them. */
export const TOOLS = {
  cc: { commands: ['cc'], packages: ['gcc', 'libc6-dev'], purpose: 'to build the native addon' },
  qemu: {
    commands: [IS_ARM ? 'qemu-system-aarch64' : 'qemu-system-x86_64', 'qemu-storage-daemon'],
    packages: [IS_ARM ? 'qemu-system-arm' : 'qemu-system-x86'],
    purpose: 'for guests and for comparison',
  },
  nbd: {
    commands: ['nbdkit', 'qemu-nbd', 'openssl'],
    packages: ['nbdkit', 'qemu-utils', 'openssl'],
    purpose: 'for the tests of disks over NBD',
  },
  curl: { commands: ['curl'], packages: ['curl'], purpose: 'for the tests of RPC over TCP, and the guide' },
  systemd: {
    commands: ['systemd-analyze', 'systemctl', 'systemd-notify'],
    packages: ['systemd'],
    purpose: 'to start the unit',
  },
  e2fsprogs: { commands: ['mkfs.ext4'], packages: ['e2fsprogs'], purpose: 'for the file systems of tests' },
  shells: { commands: ['zsh', 'fish'], packages: ['zsh', 'fish'], purpose: 'for the tests of completion' },
  mandoc: { commands: ['mandoc'], packages: ['mandoc'], purpose: 'for the tests of man pages' },
  partitions: { commands: ['sfdisk'], packages: ['fdisk'], purpose: 'for partition tables' },
  libvirt: {
    commands: ['virt-xml-validate', 'xmllint'],
    packages: ['libvirt-clients', 'libxml2-utils'],
    purpose: 'to check XML for libvirt',
  },
  shellcheck: { commands: ['shellcheck'], packages: ['shellcheck'], purpose: 'to check the scripts that are shipped' },
  dpkg: { commands: ['dpkg', 'dpkg-deb'], packages: ['dpkg'], purpose: 'for the Debian package' },
  chromium: { commands: ['chromium'], packages: ['chromium'], purpose: 'for the tests of the dashboard' },
  prometheus: {
    commands: ['prometheus', 'promtool'],
    packages: ['prometheus'],
    purpose: 'to read /metrics, and ask what the Grafana dashboard asks',
    // Installed it would be a service of the machine.
    isUnpacked: true,
  },
  fio: { commands: ['fio'], packages: ['fio'], purpose: 'for comparison' },
  ceph: {
    commands: ['ceph-mon', 'ceph-osd', 'ceph', 'rbd'],
    packages: ['ceph-mon', 'ceph-osd', 'ceph-common', 'librbd1', 'librados2'],
    purpose: 'for a cluster to test RBD disks on',
  },
};

export function isToolMissing(tool) {
  return tool.commands.some((command) => findOnPath(command) === null);
}

export function installHint(tool) {
  return `apt-get install --no-install-recommends ${tool.packages.join(' ')}`;
}

export function canInstallTools() {
  return process.getuid() === 0 && findOnPath('apt-get') !== null;
}

/** Fetches Debian packages and unpacks them, without installing anything. */
function unpackPackages(packages, env) {
  const fetched = join(TOOLS_DIR, 'fetched');
  mkdirSync(fetched, { recursive: true });
  try {
    const download = runQuietly('apt-get', ['-o', 'APT::Sandbox::User=root', '-q', 'download', ...packages], {
      env,
      cwd: fetched,
    });
    if (!download.ok) return download;
    for (const deb of readdirSync(fetched)) {
      const unpacked = runQuietly('dpkg', ['-x', join(fetched, deb), TOOLS_DIR]);
      if (!unpacked.ok) return unpacked;
    }
    return download;
  } finally {
    rmSync(fetched, { recursive: true });
  }
}

/** Installs a tool's Debian packages. Package lists are fetched only when the ones on the machine will not do. */
export function installTool(tool) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const install = () =>
    tool.isUnpacked
      ? unpackPackages(tool.packages, env)
      : runQuietly('apt-get', [...APT_INSTALL, ...tool.packages], { env });
  let result = install();
  if (!result.ok) {
    runQuietly('apt-get', ['update', '-q'], { env });
    result = install();
  }
  if (!result.ok || isToolMissing(tool)) throw new Error(`${installHint(tool)} failed:\n${excerpt(result.output)}`);
}
