/**
 * Ringhost for a guest: Node.js, our code as JavaScript, the packages it needs and the addon, in /ringhost. Taking the
 * types away in the guest would take TCG longer than all else.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join } from 'node:path';
import { CpioArchive } from '../../scripts/guest/cpio.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const PLACE = 'ringhost';
/** Code that V8 makes is code that TCG has to translate again: without it all takes half the time or less. */
const NODE_COMMAND = '#!/bin/sh\nexec /usr/bin/node.real --no-opt --no-sparkplug --max-lazy "$@"\n';
const COMMAND = `#!/bin/sh\nexec node /${PLACE}/bin/ringhost "$@"\n`;

interface PackageLock {
  readonly packages: Readonly<Record<string, { readonly dev?: boolean }>>;
}

/**
 * For `files` of a guest: `ringhost` is a command there, and `program`, a file of test/e2e/guest, can be run by
 * `node /ringhost/test/NAME.js`.
 */
export function runtimeArchive(program: string): CpioArchive {
  const archive = new CpioArchive();
  archive.addFile('usr/bin/node.real', readFileSync(process.execPath), { isExecutable: true });
  archive.addFile('usr/bin/node', NODE_COMMAND, { isExecutable: true });
  archive.addFile('usr/bin/ringhost', COMMAND, { isExecutable: true });
  const packages = shippedPackages().flatMap((folder) => filesOf(folder, /\.([cm]?js|json)$/));
  for (const path of ['bin/ringhost', 'package.json', 'build/ringhost.node', ...packages]) {
    archive.addFile(join(PLACE, path), readFileSync(join(ROOT, path)));
  }
  for (const path of filesOf('src', /(?<!\.test)\.ts$/)) {
    archive.addFile(join(PLACE, path.replace(/^src/, 'dist').replace(/ts$/, 'js')), javaScriptOf(path));
  }
  const text = javaScriptOf(join('test/e2e/guest', `${program}.ts`)).replaceAll('../../../src/', '../dist/');
  archive.addFile(join(PLACE, 'test', `${program}.js`), text);
  return archive;
}

function javaScriptOf(path: string): string {
  const text = readFileSync(join(ROOT, path), 'utf8');
  return stripTypeScriptTypes(text).replaceAll(/(?<=['"`]\.{1,2}\/[\w./-]+\.)ts(?=['"`])/g, 'js');
}

function shippedPackages(): string[] {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as PackageLock;
  return Object.keys(packages).filter((path) => path !== '' && packages[path]?.dev !== true);
}

function filesOf(folder: string, pattern: RegExp): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name).slice(ROOT.length + 1));
}
