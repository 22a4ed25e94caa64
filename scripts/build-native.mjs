#!/usr/bin/env node
/**
 * Builds native/*.c into build/ringhost.node with one call of the C compiler: plain Node-API, whose headers come from
 * the npm package `node-api-headers`; no node-gyp, no Python. native/bench/*.c becomes build/ringhost-bench.node in the
 * same way: the benchmark's own addon, which is not part of the product's.
 *
 * Plain JavaScript for any Node >= 20.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { excerpt, runQuietly } from './setup/child.mjs';
import { ROOT } from './setup/node.mjs';

const BUILD_DIR = join(ROOT, 'build');
const HEADERS = join('node_modules', 'node-api-headers');
const WARNINGS = ['-Wall', '-Wextra', '-Werror=implicit', '-Werror=incompatible-pointer-types', '-Werror=return-type'];
const FLAGS = ['-O2', '-g1', '-fPIC', '-shared', '-std=gnu17', '-fvisibility=hidden', ...WARNINGS];
const LIBRARIES = ['-lpthread', '-ldl'];

/** What is built, by name of the result. */
export const ADDONS = {
  ringhost: { folder: 'native', purpose: 'the native addon' },
  'ringhost-bench': { folder: join('native', 'bench'), purpose: "the benchmark's addon" },
};
const addonPath = (name) => join(BUILD_DIR, `${name}.node`);
const stampPath = (name) => join(BUILD_DIR, `${name}.node.hash`);

function listSources(folder, suffix) {
  const path = join(ROOT, folder);
  const names = existsSync(path) ? readdirSync(path) : [];
  return names
    .filter((name) => name.endsWith(suffix))
    .sort()
    .map((name) => join(folder, name));
}

function hashOfInputs(folder) {
  const hash = createHash('sha256').update(JSON.stringify([FLAGS, LIBRARIES, process.arch]));
  hash.update(readFileSync(join(ROOT, HEADERS, 'package.json')));
  for (const path of [...listSources(folder, '.c'), ...listSources(folder, '.h')]) {
    hash.update(`${path}\0`).update(readFileSync(join(ROOT, path)));
  }
  return hash.digest('hex');
}

/** @param {keyof typeof ADDONS} name */
export function isAddonCurrent(name) {
  const [addon, stamp] = [addonPath(name), stampPath(name)];
  return existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hashOfInputs(ADDONS[name].folder);
}

/**
 * Compiles an addon. A running process keeps the old one: the new file replaces it by rename.
 * @param {keyof typeof ADDONS} name
 * @returns {string} the compiler's warnings, empty when there are none
 */
export function buildAddon(name) {
  const { folder, purpose } = ADDONS[name];
  mkdirSync(BUILD_DIR, { recursive: true });
  const hash = hashOfInputs(folder);
  const output = join(BUILD_DIR, `${name}.${process.pid}.tmp`);
  const sources = listSources(folder, '.c');
  if (sources.length === 0) throw new Error(`${folder}/ holds no C source: the checkout is incomplete.`);
  const args = [...FLAGS, '-I', join(HEADERS, 'include'), '-o', output, ...sources, ...LIBRARIES];
  const result = runQuietly('cc', args, { cwd: ROOT });
  if (!result.ok) throw new Error(`${purpose} does not compile:\n${excerpt(result.output)}`);
  renameSync(output, addonPath(name));
  writeFileSync(stampPath(name), hash);
  return result.output;
}

/**
 * Compiles the native addon with AddressSanitizer and UndefinedBehaviorSanitizer. The process that loads it must have
 * gcc's libasan and libubsan preloaded.
 * @param {string} output
 */
export function buildSanitizedAddon(output) {
  const sanitizers = [
    '-O1',
    '-fno-omit-frame-pointer',
    '-fsanitize=address,undefined',
    '-fno-sanitize-recover=undefined',
  ];
  const sources = listSources(ADDONS.ringhost.folder, '.c');
  const args = [...FLAGS, ...sanitizers, '-I', join(HEADERS, 'include'), '-o', output, ...sources, ...LIBRARIES];
  const result = runQuietly('cc', args, { cwd: ROOT });
  if (!result.ok) throw new Error(`the native addon does not compile with sanitizers:\n${excerpt(result.output)}`);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    for (const name of Object.keys(ADDONS)) process.stderr.write(buildAddon(name));
  } catch (error) {
    console.error(`ringhost: ${error.message}`);
    process.exitCode = 1;
  }
}
