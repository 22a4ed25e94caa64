/**
 * A guest writes to ext4 with fsync, and at any moment the power is cut: what the disk would hold then is looked at,
 * while the guest goes on. The file system must be whole after its journal was replayed, and every file whose fsync had
 * returned must be there. `RINGHOST_CUTS=50` makes it the long run (docs/durability.md).
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { whyNoGuests } from './requirements.ts';

const CUTS = Number(process.env['RINGHOST_CUTS'] ?? 3);
const SEED = Number(process.env['RINGHOST_SEED'] ?? Date.now() % 1e6);
const MIB = 1 << 20;
const SIZE_MIB = 64;
const LONG_MS = 1_800_000;
/** The latest files are looked at: the older ones were, after earlier cuts. */
const FILES_CHECKED = 25;

/** In a shell of the guest: makes a file system, and writes files to it for ever, some of them with fsync. */
const writer = (path: string, name: string): string => `
  mkfs.ext4 -q -F ${path}
  mkdir -p /mnt/${name} && mount ${path} /mnt/${name}
  cat >/run/${name}.sh <<'EOF'
    cd /mnt/${name}
    for ((i = 1; ; i++)); do
      # Nobody asks for these to be stable.
      head -c $((RANDOM * 4)) /dev/urandom >noise$((i % 5))
      head -c $((RANDOM * 3 + 1)) /dev/urandom >new
      sync new
      sum=$(sha256sum <new)
      mv new file$i
      sync .
      # Now it must survive: said only after fsync of the file and of its directory has returned.
      echo "$i \${sum%% *}" >>/run/${name}.log
      rm -f file$((i - 60))
    done
EOF
  # Past the page cache, and not flushed: something is always in the cache of the disk.
  cat >/run/${name}-direct.sh <<'EOF'
    cd /mnt/${name}
    while sleep 0.05; do dd if=/dev/urandom of=direct bs=16k count=2 oflag=direct conv=notrunc; done
EOF
  setsid bash /run/${name}-direct.sh </dev/null >/dev/null 2>&1 &
  : >/run/${name}.log
  setsid bash /run/${name}.sh </dev/null >/dev/null 2>&1 &`;

describe.skipIf(whyNoGuests() !== null)('a power cut under a guest that writes', () => {
  const directory = mkdtempSync(join(import.meta.dirname, '../../build/power-cut-'));
  const image = join(directory, 'image');
  let daemon: Daemon;
  let guest: Guest;

  beforeAll(async () => {
    daemon = await Daemon.start();
    const disks = [];
    for (const [name, ignore_flush] of [
      ['honest', false],
      ['liar', true],
    ] as const) {
      const size = { num_blocks: (SIZE_MIB * MIB) / 512, block_size: 512 };
      await daemon.rpc('bdev_powercut_create', { name, ...size, ignore_flush });
      await daemon.rpc('vhost_create_blk_controller', { ctrlr: name, dev_name: name });
      disks.push({ id: name, socketPath: daemon.socketPath(name) });
    }
    guest = await Guest.start({ name: 'ringhost-power-cut', disks });
    await guest.run(writer(await guest.devicePath('honest'), 'honest'));
  });
  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  interface Cut {
    readonly dirty: number;
    readonly flushes: number;
    readonly checked: number;
    /** Null: everything is as it must be. */
    readonly fault: string | null;
  }

  /** Files whose fsync has returned: number and digest, the oldest first. */
  async function stableFiles(name: string, atLeast: number): Promise<(readonly [string, string])[]> {
    for (;;) {
      const { stdout } = await guest.run(`cat /run/${name}.log`);
      const lines = stdout
        .trim()
        .split('\n')
        .filter((line) => /^\d+ [0-9a-f]{64}$/.test(line));
      if (lines.length >= atLeast) return lines.map((line) => line.split(' ') as [string, string]);
      await sleep(100);
    }
  }

  async function cut(name: string, seed: number, atLeast: number): Promise<Cut> {
    const files = (await stableFiles(name, atLeast)).slice(-FILES_CHECKED);
    // What the guest does meanwhile: the cut comes in the middle of anything.
    await sleep(Math.imul(seed, 0x9e3779b1) >>> 24);
    const made = (await daemon.rpc('bdev_powercut_image', { name, filename: image, seed })) as Record<string, number>;
    const result = { dirty: made['dirty_sectors'] ?? 0, flushes: made['flushes'] ?? 0, checked: files.length };
    try {
      return { ...result, fault: faultOf(files) };
    } finally {
      rmSync(image);
    }
  }

  /** As a machine does that comes back: the journal is replayed, and then everything is looked at. */
  function faultOf(files: readonly (readonly [string, string])[]): string | null {
    const replay = spawnSync('/usr/sbin/e2fsck', ['-p', '-E', 'journal_only', image], { encoding: 'utf8' });
    if (![0, 1].includes(replay.status ?? -1))
      return `the journal cannot be replayed: ${replay.stdout}${replay.stderr}`;
    const check = spawnSync('/usr/sbin/e2fsck', ['-f', '-n', image], { encoding: 'utf8' });
    if (check.status !== 0) return `the file system is not whole: ${check.stdout}${check.stderr}`;
    for (const [number, digest] of files) {
      const out = join(directory, 'file');
      execFileSync('/usr/sbin/debugfs', ['-R', `dump /file${number} ${out}`, image], { stdio: 'ignore' });
      const found = createHash('sha256').update(readIfThere(out)).digest('hex');
      rmSync(out, { force: true });
      if (found !== digest) return `file${number}, whose fsync had returned, is not what was written`;
    }
    return null;
  }

  test(
    `leaves a whole file system, with everything that was stable (${CUTS} cuts, seed ${SEED})`,
    async () => {
      const cuts: Cut[] = [];
      // Those count at which something was not flushed.
      for (let i = 0; cuts.filter(({ dirty }) => dirty > 0).length < CUTS; i++) {
        cuts.push(await cut('honest', SEED + i, 3 + Math.min(i, CUTS)));
      }
      const sum = (of: (one: Cut) => number): number => cuts.reduce((total, one) => total + of(one), 0);
      const flushes = Math.max(...cuts.map((one) => one.flushes));
      const counts = `${sum(({ dirty }) => dirty)} sectors not flushed, ${sum(({ checked }) => checked)} stable files`;
      console.info(`${cuts.length} cuts: ${counts}, after up to ${flushes} flushes`);
      expect(cuts.filter(({ fault }) => fault !== null)).toEqual([]);
      expect(sum(({ checked }) => checked)).toBeGreaterThan(0);
    },
    LONG_MS,
  );

  test(
    'is noticed on a disk that lies about flushes',
    async () => {
      await guest.run(writer(await guest.devicePath('liar'), 'liar'));
      let fault: string | null = null;
      for (let seed = 0; seed < 20 && fault === null; seed++) fault = (await cut('liar', seed, 1)).fault;
      expect(fault).not.toBeNull();
    },
    LONG_MS,
  );
});

function readIfThere(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch {
    return Buffer.alloc(0);
  }
}
