/**
 * A Node.js that can run this project. Node >= 22.18 runs TypeScript as it is; a machine with an older one gets a
 * current one from the npm registry into the checkout, as an ordinary package without install script.
 */
import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { excerpt, findOnPath, runQuietly } from './child.mjs';

/** The checkout. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const NODE_VERSION = '24.21.0';
const NODE_MIN = [22, 18];
const NODE_PACKAGE = `node-linux-${process.arch}`;
const PREFIX = join(ROOT, '.ringhost', 'node');
const PACKAGE_DIR = join(PREFIX, 'node_modules', NODE_PACKAGE);

/** @public also for bin/ringhost. @param {string} version such as `22.18.0` */
export function isNodeRecentEnough(version) {
  const [major, minor] = version.split('.').map(Number);
  return major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1]);
}

/** @public also for bin/ringhost. @returns {string | null} the Node that the set-up brought into this checkout */
export function findCheckoutNode() {
  const executable = join(PACKAGE_DIR, 'bin', 'node');
  if (!existsSync(executable)) return null;
  const { version } = JSON.parse(readFileSync(join(PACKAGE_DIR, 'package.json'), 'utf8'));
  return isNodeRecentEnough(version) ? executable : null;
}

/** @returns {string | null} the Node that commands run with, or null when none has been brought yet */
export function findNode() {
  return isNodeRecentEnough(process.versions.node) ? process.execPath : findCheckoutNode();
}

/** npm's JavaScript entry, so that it can be run by the Node of our choice and not by the one its `#!` line finds. */
export function findNpmCli() {
  const fromNpm = process.env.npm_execpath;
  if (fromNpm?.endsWith('npm-cli.js') && existsSync(fromNpm)) return fromNpm;
  const npm = findOnPath('npm');
  if (npm !== null) {
    const entry = realpathSync(npm);
    if (entry.endsWith('.js')) return entry;
  }
  throw new Error('npm is missing. Install it (Debian: apt-get install npm), then run this again.');
}

/** Installs the pinned Node into the checkout. @returns {string} its path */
export function installNode() {
  mkdirSync(PREFIX, { recursive: true });
  const flags = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const args = [findNpmCli(), 'install', '--prefix', PREFIX, ...flags, `${NODE_PACKAGE}@${NODE_VERSION}`];
  const { ok, output } = runQuietly(process.execPath, args, { cwd: PREFIX });
  const executable = findCheckoutNode();
  if (!ok || executable === null) {
    throw new Error(
      `could not fetch ${NODE_PACKAGE}@${NODE_VERSION}; install Node.js 22.18 or later yourself.\n${excerpt(output)}`,
    );
  }
  return executable;
}
