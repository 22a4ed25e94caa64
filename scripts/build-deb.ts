/**
 * Makes a Debian package of what `npm pack` made: `build-deb.ts PACKAGE.tgz [--directory DIR] [--compression xz|none]`.
 * It brings the packages of node_modules and Node.js along, for Debian's own is too old (decision 12).
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { findCheckoutNode } from './setup/node.mjs';

const ROOT = dirname(import.meta.dirname);
const PLACE = 'usr/lib/ringhost';
const DOCUMENTS = 'usr/share/doc/ringhost';
/** Debian's names of what Node calls x64 and arm64. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };
/** What nobody needs where it runs. */
const LEFT_OUT = /\.([cm]?ts|map|md|markdown)$/;
const KIB = 1024;

interface PackageLock {
  readonly packages: Readonly<Record<string, { readonly dev?: boolean }>>;
}

const readJson = (path: string): unknown => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));

/** Everything that is installed, below `root`. */
function fillTree(root: string, tarball: string): void {
  const put = (from: string, to: string, mode: number): void => {
    mkdirSync(dirname(join(root, to)), { recursive: true });
    copyFileSync(from, join(root, to));
    chmodSync(join(root, to), mode);
  };
  mkdirSync(join(root, PLACE), { recursive: true });
  execFileSync('tar', ['-xzf', tarball, '-C', join(root, PLACE), '--strip-components=1', '--no-same-owner']);
  const { packages } = readJson('package-lock.json') as PackageLock;
  for (const [path, { dev }] of Object.entries(packages)) {
    if (path === '' || dev === true || !existsSync(join(ROOT, path))) continue; // itself, or of another architecture
    const filter = (file: string): boolean => !LEFT_OUT.test(file);
    cpSync(join(ROOT, path), join(root, PLACE, path), { recursive: true, filter });
  }
  const node = findCheckoutNode() ?? process.execPath;
  put(node, join(PLACE, 'node'), 0o755);
  const nodeLicense = join(dirname(dirname(node)), 'LICENSE');
  if (existsSync(nodeLicense)) put(nodeLicense, join(DOCUMENTS, 'copyright.node'), 0o644);
  put(join(ROOT, 'packaging', 'debian', 'ringhost'), 'usr/bin/ringhost', 0o755);
  put(join(ROOT, 'packaging', 'ringhost.service'), 'usr/lib/systemd/system/ringhost.service', 0o644);
  for (const page of readdirSync(join(root, PLACE, 'man'))) {
    const to = join(root, 'usr/share/man/man1');
    mkdirSync(to, { recursive: true });
    writeFileSync(join(to, `${page}.gz`), gzipSync(readFileSync(join(root, PLACE, 'man', page)), { level: 9 }));
  }
  rmSync(join(root, PLACE, 'man'), { recursive: true });
  put(join(ROOT, 'LICENSE'), join(DOCUMENTS, 'copyright'), 0o644);
  const changes = gzipSync(readFileSync(join(ROOT, 'CHANGELOG.md')), { level: 9 });
  writeFileSync(join(root, DOCUMENTS, 'changelog.gz'), changes);
}

/** The newest version of glibc whose symbols a program or library wants: `2.28`. */
function glibcOf(...files: readonly string[]): string {
  const minors = files.flatMap((file) =>
    [...readFileSync(file, 'latin1').matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor)),
  );
  return `2.${Math.max(...minors)}`;
}

function controlOf(root: string, architecture: string): string {
  const { version, description } = readJson('package.json') as { version: string; description: string };
  const addon = join(root, PLACE, 'prebuilds', `linux-${process.arch}`, 'ringhost.node');
  const glibc = glibcOf(addon, join(root, PLACE, 'node'));
  const kib = Number(execFileSync('du', ['-sk', root], { encoding: 'utf8' }).split('\t')[0]);
  return `Package: ringhost
Version: ${version}
Architecture: ${architecture}
Maintainer: The authors of Ringhost <root@localhost>
Section: admin
Priority: optional
Installed-Size: ${kib}
Depends: libc6 (>= ${glibc}), libstdc++6, libgcc-s1, init-system-helpers (>= 1.54), passwd
Suggests: qemu-system, librbd1
Description: user-space vhost-user storage target
 ${description}.
 It does the job of SPDK's vhost target, and speaks its JSON-RPC. Node.js is part of
 the package.
`;
}

function main(): void {
  const options = {
    directory: { type: 'string', default: '.' },
    compression: { type: 'string', default: 'xz' },
  } as const;
  const { positionals, values } = parseArgs({ options, allowPositionals: true });
  const [tarball] = positionals;
  const architecture = ARCHITECTURES[process.arch];
  if (tarball === undefined || architecture === undefined) {
    throw new Error('usage, on x86-64 or ARM64: build-deb.ts PACKAGE.tgz [--directory DIR] [--compression xz|none]');
  }
  const root = mkdtempSync(join(tmpdir(), 'ringhost-deb-'));
  try {
    chmodSync(root, 0o755);
    fillTree(root, tarball);
    const control = controlOf(root, architecture);
    mkdirSync(join(root, 'DEBIAN'));
    writeFileSync(join(root, 'DEBIAN', 'control'), control);
    for (const script of ['postinst', 'prerm', 'postrm']) {
      copyFileSync(join(ROOT, 'packaging', 'debian', script), join(root, 'DEBIAN', script));
      chmodSync(join(root, 'DEBIAN', script), 0o755);
    }
    const version = /^Version: (.*)$/m.exec(control)?.[1];
    const file = join(values.directory, `ringhost_${version}_${architecture}.deb`);
    const build = ['--root-owner-group', `-Z${values.compression}`, '--build', root, file];
    execFileSync('dpkg-deb', build, { stdio: ['ignore', 'ignore', 'inherit'] });
    console.log(`${basename(file)}, ${Math.round(statSync(file).size / KIB / KIB)} MiB`);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

main();
