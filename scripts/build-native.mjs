#!/usr/bin/env node
/**
 * Builds native/*.c into build/ringhost.node with one call of the C compiler: plain Node-API, whose headers come from the
 * npm package `node-api-headers`; no node-gyp, no Python. native/bench is not part of the addon.
 *
 * Plain JavaScript for any Node >= 20.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { excerpt, runQuietly } from './setup/child.mjs';
import { ROOT } from './setup/node.mjs';

const NATIVE_DIR = join(ROOT, 'native');
const BUILD_DIR = join(ROOT, 'build');
const ADDON = join(BUILD_DIR, 'ringhost.node');
const STAMP = join(BUILD_DIR, 'ringhost.node.hash');
const HEADERS = join('node_modules', 'node-api-headers');
const WARNINGS = ['-Wall', '-Wextra', '-Werror=implicit', '-Werror=incompatible-pointer-types', '-Werror=return-type'];
const FLAGS = ['-O2', '-g1', '-fPIC', '-shared', '-std=gnu17', '-fvisibility=hidden', ...WARNINGS];
const LIBRARIES = ['-lpthread', '-ldl'];

function listSources(suffix) {
  const names = existsSync(NATIVE_DIR) ? readdirSync(NATIVE_DIR) : [];
  return names.filter((name) => name.endsWith(suffix)).sort();
}

function hashOfInputs() {
  const hash = createHash('sha256').update(JSON.stringify([FLAGS, LIBRARIES, process.arch]));
  hash.update(readFileSync(join(ROOT, HEADERS, 'package.json')));
  for (const name of [...listSources('.c'), ...listSources('.h')]) {
    hash.update(`${name}\0`).update(readFileSync(join(NATIVE_DIR, name)));
  }
  return hash.digest('hex');
}

export function isAddonCurrent() {
  return existsSync(ADDON) && existsSync(STAMP) && readFileSync(STAMP, 'utf8') === hashOfInputs();
}

/**
 * Compiles the addon. A running process keeps the old one: the new file replaces it by rename.
 * @returns {string} the compiler's warnings, empty when there are none
 */
export function buildAddon() {
  mkdirSync(BUILD_DIR, { recursive: true });
  const hash = hashOfInputs();
  const output = join(BUILD_DIR, `ringhost.${process.pid}.tmp`);
  const sources = listSources('.c').map((name) => join('native', name));
  if (sources.length === 0) throw new Error('native/ holds no C source: the checkout is incomplete.');
  const args = [...FLAGS, '-I', join(HEADERS, 'include'), '-o', output, ...sources, ...LIBRARIES];
  const result = runQuietly('cc', args, { cwd: ROOT });
  if (!result.ok) throw new Error(`the native addon does not compile:\n${excerpt(result.output)}`);
  renameSync(output, ADDON);
  writeFileSync(STAMP, hash);
  return result.output;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    process.stderr.write(buildAddon());
  } catch (error) {
    console.error(`ringhost: ${error.message}`);
    process.exitCode = 1;
  }
}
