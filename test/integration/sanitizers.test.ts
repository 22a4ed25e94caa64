/**
 * The addon built with AddressSanitizer and UndefinedBehaviorSanitizer: what exercises its calls runs again with it, in
 * this process's children and in their daemons. A report ends the process that it is about, so the test that ran fails.
 * By default a sample runs, chosen so that daemons make every call of the addon; with RINGHOST_SANITIZED=all every file
 * of integration tests does that can (docs/security.md has the figures of such a run).
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildSanitizedAddon } from '../../scripts/build-native.mjs';
import { findOnPath } from '../../scripts/setup/child.mjs';
import { TOOLS } from '../../scripts/setup/packages.mjs';

const ROOT = dirname(dirname(import.meta.dirname));
const LIMIT_MS = 600_000;
const FILE_LIMIT_MS = 1_800_000;
const IS_COMPLETE = process.env['RINGHOST_SANITIZED'] === 'all';

/** Each runs two files at a time. `names`: of the tests that run; by default all of them do. */
const SAMPLE: readonly { readonly files: readonly string[]; readonly names?: readonly string[] }[] = [
  { files: ['hostile-rings', 'hostile-packed-rings', 'hostile-messages', 'hostile-target'] },
  {
    files: ['rbd', 'upgrade-disks', 'raid', 'file-disks', 'upgrade', 'nbd', 'who-gets-in'],
    names: [
      'an image holds what was written under load',
      'goes, as one that is pulled out, when its pool is removed',
      'deleted under load gives its guest errors',
      'of RAM disks in the memory of the daemon',
      'of NVMe/TCP disks',
      'a mirror loses nothing when its daemon is killed under load',
      'in memory\\W+holds what was written under load',
      'a reactor that sleeps at once is woken by completions',
      'frees what its guest discards',
      'keeps what SCSI units know',
      'goes through TLS',
      'keeps slow requests apart from quick ones',
      'is confined by --confine',
    ],
  },
];

const SHIPPED = 'what is measured or installed is the addon as it is shipped';
/** Files that never run again. */
const LEFT_OUT: Readonly<Record<string, string>> = {
  bench: SHIPPED,
  'hot-loop': SHIPPED,
  package: SHIPPED,
  sanitizers: 'it is this file',
  'systemd-unit': SHIPPED,
};

/** They control devices by VFIO, which only guests of the end-to-end tests have. */
const NOT_OF_DAEMONS: readonly string[] = ['deviceControl', 'deviceControlValue'];

/** Other programs, beside those that the set-up brings: none of them runs with sanitizers. */
const OTHER_PROGRAMS = ['ceph-authtool', 'monmaptool', 'python3', 'qemu-img'];

let directory: string;
let environment: NodeJS.ProcessEnv;
let callsOfDaemons: string;

/**
 * A module that is the addon, and appends the name of each call to a file when a thread of a daemon first makes it. The
 * threads have one descriptor, which lasts when the daemon gives up its rights; one that never had them tells nothing.
 */
const watcherOf = (addon: string): string => `
  const fs = require('node:fs');
  const addon = require(${JSON.stringify(addon)});
  if (require('node:worker_threads').isMainThread) {
    let log = -1;
    try {
      if (process.argv.includes('serve')) log = fs.openSync(${JSON.stringify(callsOfDaemons)}, 'a');
    } catch {}
    process.env.RINGHOST_TEST_CALLS = String(log);
  }
  const log = Number(process.env.RINGHOST_TEST_CALLS ?? -1);
  for (const [name, call] of Object.entries(addon)) {
    module.exports[name] = log < 0 ? call : (...args) => {
      module.exports[name] = call;
      fs.writeSync(log, name + '\\n');
      return call(...args);
    };
  }`;

/**
 * A directory with what runs the other programs without our sanitizers: they do not get along with QEMU's coroutines,
 * nor with Ceph's allocator, and would find no fault of ours there.
 */
function makeUnsanitizedPrograms(): string {
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  for (const name of [...Object.values(TOOLS).flatMap(({ commands }) => commands), ...OTHER_PROGRAMS]) {
    const path = findOnPath(name);
    if (path === null) continue;
    writeFileSync(join(bin, name), `#!/bin/sh\nunset LD_PRELOAD\nexec '${path}' "$@"\n`);
    chmodSync(join(bin, name), 0o755);
  }
  return bin;
}

beforeAll(() => {
  // In the checkout, and readable: daemons load it that are confined to that, and that are another user.
  mkdirSync(join(ROOT, 'build'), { recursive: true });
  directory = mkdtempSync(join(ROOT, 'build', 'sanitized-'));
  chmodSync(directory, 0o755);
  const addon = join(directory, 'ringhost.node');
  buildSanitizedAddon(addon);
  callsOfDaemons = join(directory, 'calls');
  writeFileSync(callsOfDaemons, '');
  chmodSync(callsOfDaemons, 0o666);
  const watcher = join(directory, 'ringhost.cjs');
  writeFileSync(watcher, watcherOf(addon));
  const libraries = ['libasan.so', 'libubsan.so'].map((name) =>
    execFileSync('cc', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
  );
  const missing = libraries.filter((path) => !existsSync(path));
  if (missing.length > 0) throw new Error(`${missing} is missing: apt-get install gcc`);
  environment = {
    ...process.env,
    PATH: [makeUnsanitizedPrograms(), process.env['PATH']].join(delimiter),
    RINGHOST_ADDON: watcher,
    LD_PRELOAD: libraries.join(':'),
    // The engine keeps what it has until its end; SIGSEGV and SIGBUS are its own and ours.
    ASAN_OPTIONS: 'detect_leaks=0:handle_segv=0:handle_sigbus=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1:abort_on_error=1',
    ...(IS_COMPLETE ? {} : { RINGHOST_KILLS: '1', RINGHOST_UPGRADES: '1' }),
  };
}, LIMIT_MS);
afterAll(() => rmSync(directory, { recursive: true }));

function run(args: readonly string[]): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: ROOT,
    env: environment,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  return { status, output: `${stdout}${stderr}` };
}

/** The end of the output of a run that failed or had a report; nothing for a good one. */
function complaintOf(args: readonly string[]): string {
  const { status, output } = run(args);
  return status === 0 && !/AddressSanitizer|runtime error:/.test(output) ? '' : `${status}: ${output.slice(-4000)}`;
}

const vitest = (project: string, ...files: string[]): string[] => [
  'node_modules/vitest/vitest.mjs',
  'run',
  `--project=${project}`,
  ...files,
];

describe('with sanitizers', { timeout: LIMIT_MS }, () => {
  it('a fault that was planted is reported', () => {
    const source = join(directory, 'planted.c');
    writeFileSync(
      source,
      `#include <node_api.h>
       #include <stdlib.h>
       NAPI_MODULE_INIT() { volatile char *bytes = malloc(8); bytes[8] = 1; free((void *)bytes); return exports; }`,
    );
    const planted = join(directory, 'planted.node');
    const flags = ['-fPIC', '-shared', '-fsanitize=address', '-I', 'node_modules/node-api-headers/include'];
    execFileSync('cc', [...flags, '-o', planted, source], { cwd: ROOT });
    const { status, output } = run(['-e', `require(${JSON.stringify(planted)})`]);
    expect(output).toMatch(/AddressSanitizer: heap-buffer-overflow/);
    expect(status).not.toBe(0);
  });

  it('every call of the addon does what its unit tests want, and refuses what they refuse', () => {
    expect(complaintOf(vitest('unit', 'src/sys'))).toBe('');
  });

  it.each(['split-ring', 'packed-ring', 'blk', 'scsi'])('the fuzzer %s finds nothing', (name) => {
    expect(complaintOf(['test/fuzz/main.ts', name, '1', '2'])).toBe('');
  });

  it.each(SAMPLE)('daemons and front-ends do the same in $files', ({ files, names = [] }) => {
    const paths = files.map((name) => `test/integration/${name}.test.ts`);
    const args = [...vitest('integration', ...paths), '--fileParallelism', '--maxWorkers=2', '-t', names.join('|')];
    expect(complaintOf(args)).toBe('');
  });

  const files = readdirSync(import.meta.dirname).flatMap((name) => /^(.*)\.test\.ts$/.exec(name)?.[1] ?? []);
  const rest = files.filter((name) => !(name in LEFT_OUT));
  it.each(IS_COMPLETE ? rest : [])(
    'daemons and front-ends do the same in all of %s',
    { timeout: FILE_LIMIT_MS },
    (name) => {
      const startMs = Date.now();
      const complaint = complaintOf(vitest('integration', `test/integration/${name}.test.ts`));
      console.log(`${name}: ${Math.round((Date.now() - startMs) / 1000)} s`);
      expect(complaint).toBe('');
    },
  );

  it('daemons have made every call of the addon by then', () => {
    const addon = createRequire(import.meta.url)(join(ROOT, 'build', 'ringhost.node')) as object;
    const made = new Set([...readFileSync(callsOfDaemons, 'utf8').trim().split('\n'), ...NOT_OF_DAEMONS]);
    expect(Object.keys(addon).filter((name) => !made.has(name))).toEqual([]);
  });
});
