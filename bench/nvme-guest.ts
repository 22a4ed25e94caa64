/**
 * An NVMe drive under Linux's own driver and under ours, for docs/nvme.md: `node bench/nvme-guest.ts [ROUNDS]` (2).
 * Both run in one emulated guest with an IOMMU, one after the other, on the drive that QEMU emulates. So the figures
 * say what each costs there, where every instruction is emulated, and nothing about a drive's speed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Guest } from '../test/e2e/guest.ts';
import { startNvmeGuest } from '../test/e2e/nvme-guest.ts';
import { whyNoVirtualIommu } from '../test/e2e/requirements.ts';

const LIMIT_MS = 600_000;
const SECONDS = 8;
/** As it comes, and as the tests run it: there V8 interprets, which emulation likes better than new machine code. */
const NODES = { 'ringhost, compiled': 'node.real', 'ringhost, interpreted': 'node' } as const;

interface Figures {
  readonly depth: number;
  readonly iops: number;
  readonly p50Ns: number;
  /** Of the drive, a request. */
  readonly interrupts: number;
}

interface FioReport {
  readonly jobs: readonly {
    readonly read: {
      readonly iops: number;
      readonly total_ios: number;
      readonly clat_ns: { readonly percentile: Readonly<Record<string, number>> };
    };
  }[];
}

const COUNT_INTERRUPTS = "awk '/nvme0q/ { for (i = 2; i <= 3; i++) sum += $i } END { print sum + 0 }' /proc/interrupts";

async function measureKernel(guest: Guest, depth: number): Promise<Figures> {
  const before = Number((await guest.run(COUNT_INTERRUPTS)).stdout);
  const options = `--filename=/dev/nvme0n1 --direct=1 --ioengine=libaio --iodepth=${depth} --rw=randread --bs=4k`;
  const { stdout: text } = await guest.run(
    `fio --name=read ${options} --time_based --runtime=${SECONDS} --ramp_time=1 --thread --output-format=json`,
    { timeoutMs: LIMIT_MS },
  );
  const after = Number((await guest.run(COUNT_INTERRUPTS)).stdout);
  const read = (JSON.parse(text.slice(text.indexOf('{'))) as FioReport).jobs[0]?.read;
  if (read === undefined) throw new Error(`fio says: ${text}`);
  const { iops, total_ios: ios, clat_ns } = read;
  // The second of warming up has its interrupts too.
  const interrupts = (after - before) / (ios * (1 + 1 / SECONDS));
  return { depth, iops, p50Ns: clat_ns.percentile['50.000000'] ?? Number.NaN, interrupts };
}

async function measureOurs(guest: Guest, node: string): Promise<readonly Figures[]> {
  const serve = `${node} /ringhost/bin/ringhost serve -m 0x1 -S /run/ringhost -r /run/ringhost/rpc.sock`;
  await guest.run(
    `ringhost setup >/dev/null && mkdir -p /run/ringhost && rm -f /run/ringhost/*
    ${serve} >/run/ringhost/log 2>&1 &
    echo $! >/run/ringhost/pid
    until [ -S /run/ringhost/rpc.sock ]; do sleep 0.2; done`,
    { timeoutMs: LIMIT_MS },
  );
  const { stdout: text } = await guest.run(`${node} /ringhost/test/nvme-client.js measure`, { timeoutMs: LIMIT_MS });
  await guest.run(
    `pid=$(cat /run/ringhost/pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.2; done
    ringhost setup reset >/dev/null; until [ -b /dev/nvme0n1 ]; do sleep 0.2; done`,
    { timeoutMs: LIMIT_MS },
  );
  return JSON.parse(text) as Figures[];
}

function show(name: string, { depth, iops, p50Ns, interrupts }: Figures): void {
  const p50 = (p50Ns / 1e6).toFixed(2);
  const rest = `p50 ${p50} ms, ${interrupts.toFixed(2)} interrupts a request`;
  console.log(`${name}, depth ${depth}: ${Math.round(iops)} IOPS, ${rest}`);
}

const why = whyNoVirtualIommu();
if (why !== null) throw new Error(why);
const directory = mkdtempSync(join(tmpdir(), 'ringhost-nvme-'));
const guest = await startNvmeGuest('nvme-bench', directory);
try {
  for (let round = 0; round < Number(process.argv[2] ?? 2); round++) {
    for (const depth of [1, 32]) show("Linux's driver, fio", await measureKernel(guest, depth));
    for (const [name, node] of Object.entries(NODES)) {
      for (const figures of await measureOurs(guest, node)) show(name, figures);
    }
  }
} finally {
  await guest.close();
  rmSync(directory, { recursive: true, force: true });
}
