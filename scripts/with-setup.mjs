#!/usr/bin/env node
/**
 * Sets up what is missing in this checkout, then runs a command in it: all of `npm start`, `npm test` and `npm run …`.
 *
 *   node scripts/with-setup.mjs serve [OPTIONS]      the daemon, `bin/ringhost serve`
 *   node scripts/with-setup.mjs test [PROJECT] [..]  lint, types and all tests, or one vitest project
 *   node scripts/with-setup.mjs bench [OPTIONS]      the benchmark
 *   node scripts/with-setup.mjs FILE|COMMAND [..]    a script of ours (by path), or a command of node_modules/.bin
 *
 * Set-up steps print one line each and are skipped when they are done. Plain JavaScript for any Node >= 20: nothing is
 * installed yet when it starts.
 */
import { existsSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { ADDONS, buildAddon, isAddonCurrent } from './build-native.mjs';
import { runForeground } from './setup/child.mjs';
import { withFileLock } from './setup/lock.mjs';
import { findNode, installNode, ROOT } from './setup/node.mjs';
import {
  areNpmPackagesCurrent,
  canInstallTools,
  installHint,
  installNpmPackages,
  installTool,
  isToolMissing,
  TOOLS,
  TOOLS_BIN_DIR,
} from './setup/packages.mjs';

const LOCK_FILE = join(ROOT, '.ringhost', 'setup.lock');
const IS_CI = process.env.CI === 'true';
/** What needs no tools around it. */
const OFFLINE_PROJECTS = ['unit', 'fuzz'];
const say = (line) => console.error(`ringhost: ${line}`);

function isSetUp({ addons, tools }) {
  if (findNode() === null || !areNpmPackagesCurrent() || !addons.every(isAddonCurrent)) return false;
  return !tools.some(isToolMissing);
}

function bringTool(tool) {
  const names = tool.packages.join(' ');
  if (canInstallTools()) {
    say(`installing ${names} ${tool.purpose}`);
    installTool(tool);
    return;
  }
  const outcome = IS_CI ? 'fails' : 'is skipped';
  say(`${names} is missing ${tool.purpose}: what needs it ${outcome}. To have it: ${installHint(tool)}`);
}

function compileAddon(name) {
  if (isToolMissing(TOOLS.cc)) {
    if (!canInstallTools()) throw new Error(`cc is missing ${TOOLS.cc.purpose}: ${installHint(TOOLS.cc)}`);
    say(`installing ${TOOLS.cc.packages.join(' ')} ${TOOLS.cc.purpose}`);
    installTool(TOOLS.cc);
  }
  say(`building ${ADDONS[name].purpose}`);
  process.stderr.write(buildAddon(name));
}

async function setUp(needs) {
  if (!isSetUp(needs)) {
    await withFileLock(
      LOCK_FILE,
      () => say('waiting for another set-up in this checkout to end'),
      async () => {
        if (findNode() === null) {
          say(`Node.js ${process.versions.node} is too old to run this: fetching a current one into .ringhost/node`);
          installNode();
        }
        if (!areNpmPackagesCurrent()) {
          say('installing npm packages (npm ci)');
          installNpmPackages(findNode());
        }
        for (const name of needs.addons) if (!isAddonCurrent(name)) compileAddon(name);
        for (const tool of needs.tools) if (isToolMissing(tool)) bringTool(tool);
      },
    );
  }
  return findNode();
}

/** Turns the words after `with-setup.mjs` into what to execute. */
function resolveCommand(node, [name, ...args]) {
  if (name === 'serve') return [node, [join(ROOT, 'bin', 'ringhost'), 'serve', ...args]];
  if (name === 'bench') return [node, [join(ROOT, 'bench', 'main.ts'), ...args]];
  if (name === 'test') return [node, [join(ROOT, 'scripts', 'checks.ts'), ...args]];
  if (/\.(ts|mjs|js)$/.test(name)) return [node, [name, ...args]];
  const executable = join(ROOT, 'node_modules', '.bin', name);
  return existsSync(executable) ? [executable, args] : [name, args];
}

async function main(words) {
  process.env.PATH = [process.env.PATH ?? '', TOOLS_BIN_DIR].join(delimiter);
  if (words.length === 0) throw new Error('say what to run: serve, test, a script or a command.');
  const isTest = words[0] === 'test';
  const isBench = words[0] === 'bench';
  const node = await setUp({
    addons: isTest || isBench ? ['ringhost', 'ringhost-bench'] : ['ringhost'],
    tools: isBench
      ? [TOOLS.qemu, TOOLS.fio]
      : isTest && !OFFLINE_PROJECTS.includes(words[1])
        ? Object.values(TOOLS)
        : [],
  });
  const [command, args] = resolveCommand(node, words);
  const bins = [dirname(node), join(ROOT, 'node_modules', '.bin')];
  const env = { ...process.env, PATH: [...bins, process.env.PATH ?? ''].join(delimiter) };
  return await runForeground(command, args, { env });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  say(error.message);
  process.exitCode = 1;
}
