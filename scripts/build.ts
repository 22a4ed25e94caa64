/**
 * Makes what the published package holds beside the sources: JavaScript and types in dist/, the addon in prebuilds/,
 * man pages in man/. `npm pack` runs it first.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writeManPages } from './man-pages.ts';

const ROOT = dirname(import.meta.dirname);
const DIST = join(ROOT, 'dist');
const PAGE = join('dashboard', 'page');
const PREBUILD_DIR = join(ROOT, 'prebuilds', `linux-${process.arch}`);

rmSync(DIST, { recursive: true, force: true });
const tsc = join('node_modules', 'typescript', 'bin', 'tsc');
const compile = (project: string): boolean => {
  return spawnSync(process.execPath, [tsc, '-p', project], { cwd: ROOT, stdio: 'inherit' }).status === 0;
};
if (compile('tsconfig.build.json') && compile('tsconfig.page.json')) {
  for (const file of ['index.html', 'style.css', 'icon.svg']) {
    copyFileSync(join(ROOT, 'src', PAGE, file), join(DIST, PAGE, file));
  }
  mkdirSync(PREBUILD_DIR, { recursive: true });
  copyFileSync(join(ROOT, 'build', 'ringhost.node'), join(PREBUILD_DIR, 'ringhost.node'));
  writeManPages(join(ROOT, 'man'));
  console.log(`built dist/, man/ and prebuilds/linux-${process.arch}/ringhost.node`);
} else {
  process.exitCode = 1;
}
