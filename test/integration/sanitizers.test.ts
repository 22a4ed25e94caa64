/**
 * The addon built with AddressSanitizer and UndefinedBehaviorSanitizer: what exercises its calls runs again with it, in
 * this process's children and in their daemons. A report ends the process that it is about, so the test that ran fails.
 * Every file of integration tests either runs again or is left out for a reason that is given.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildSanitizedAddon } from '../../scripts/build-native.mjs';

const ROOT = dirname(dirname(import.meta.dirname));
const LIMIT_MS = 600_000;

/** Run again, each list in one run, on two cores. */
const TWICE = [
  ['hostile-rings', 'hostile-packed-rings', 'hostile-messages', 'hostile-target'],
  ['blk-ringhost', 'blk-hugepages', 'module-disks', 'nbd', 'virtio-scsi'],
  ['attaching', 'completion', 'config-round-trip', 'dirty-log'],
  ['rpc-server', 'queue-placement', 'scsi-hotplug', 'scsi-targets', 'tracing'],
];

const BROWSER = 'a browser looks at the dashboard';
const CEPH = 'a Ceph cluster and its libraries do the work';
const OTHERS = 'other programs do the work';
const PLAIN = 'what is measured or installed is the addon as it is shipped';
const SLOW = 'it passes, and takes one to three minutes with sanitizers';
/** These may well pass. */
const UNTRIED = 'nobody has looked yet how it does with sanitizers';
/** Not run again. */
const LEFT_OUT: Readonly<Record<string, string>> = {
  bench: PLAIN,
  'encrypted-images': UNTRIED,
  exhaustion: UNTRIED,
  'file-disks': UNTRIED,
  'hot-loop': PLAIN,
  kill: UNTRIED,
  lvol: UNTRIED,
  'nbd-conformance': UNTRIED,
  'nvme-qemu': UNTRIED,
  observing: BROWSER,
  package: PLAIN,
  partitions: UNTRIED,
  'peer-qemu-storage-daemon': OTHERS,
  prometheus: OTHERS,
  'qos-limits': UNTRIED,
  'qos-shares': UNTRIED,
  raid: SLOW,
  rbd: CEPH,
  'rbd-faults': CEPH,
  'rbd-libraries': CEPH,
  replay: SLOW,
  'rpc-https': UNTRIED,
  sanitizers: 'it is this file',
  'scsi-hung-bdev': UNTRIED,
  'scsi-rpc-py': OTHERS,
  'serve-disk': UNTRIED,
  'shared-memory-disks': UNTRIED,
  'spdk-clients': OTHERS,
  'stalled-reactor': UNTRIED,
  state: SLOW,
  'systemd-unit': PLAIN,
  upgrade: UNTRIED,
  'upgrade-disks': UNTRIED,
  'virtio-bdev': UNTRIED,
  'wake-race': UNTRIED,
  'who-gets-in': UNTRIED,
  'wrong-input': UNTRIED,
};

let directory: string;
let environment: NodeJS.ProcessEnv;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-sanitized-'));
  const addon = join(directory, 'ringhost.node');
  buildSanitizedAddon(addon);
  const libraries = ['libasan.so', 'libubsan.so'].map((name) =>
    execFileSync('cc', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
  );
  const missing = libraries.filter((path) => !existsSync(path));
  if (missing.length > 0) throw new Error(`${missing} is missing: apt-get install gcc`);
  environment = {
    ...process.env,
    RINGHOST_ADDON: addon,
    LD_PRELOAD: libraries.join(':'),
    // The engine keeps what it has until its end; SIGSEGV and SIGBUS are its own and ours.
    ASAN_OPTIONS: 'detect_leaks=0:handle_segv=0:handle_sigbus=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1:abort_on_error=1',
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

  it.each(TWICE)('daemons and front-ends do the same in %s and what runs beside it', (...files) => {
    const paths = files.map((name) => `test/integration/${name}.test.ts`);
    expect(complaintOf([...vitest('integration', ...paths), '--fileParallelism', '--maxWorkers=2'])).toBe('');
  });

  it('every file of integration tests runs again, or is left out for a reason', () => {
    const files = readdirSync(import.meta.dirname).flatMap((name) => /^(.*)\.test\.ts$/.exec(name)?.[1] ?? []);
    expect([...TWICE.flat(), ...Object.keys(LEFT_OUT)].toSorted()).toEqual(files.toSorted());
  });
});
