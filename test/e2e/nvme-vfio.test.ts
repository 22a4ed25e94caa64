/**
 * An NVMe drive by VFIO, the whole way: in a guest with an IOMMU `ringhost setup` takes the drive from the kernel, our
 * daemon drives it, and a front-end in the same guest puts verified load on it. Nobody here stands for the kernel's
 * vfio-pci, its IOMMU or the drive's interrupts; the drive is QEMU's.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Guest } from './guest.ts';
import { startNvmeGuest } from './nvme-guest.ts';
import { whyNoVirtualIommu } from './requirements.ts';

const DRIVE = '0000:01:00.0';
/** TCG on a busy machine, several programs of ours one after another. */
const LIMIT_MS = 240_000;
const CLIENT = 'node /ringhost/test/nvme-client.js';
const START = `mkdir -p /run/ringhost
ringhost serve -m 0x1 --mode interrupt -S /run/ringhost -r /run/ringhost/rpc.sock >/run/ringhost/log 2>&1 &
echo $! >/run/ringhost/pid
until [ -S /run/ringhost/rpc.sock ]; do sleep 0.2; done`;

describe.skipIf(whyNoVirtualIommu() !== null)('an NVMe drive by VFIO', () => {
  let guest: Guest;
  let directory: string;

  const run = async (script: string): Promise<string> => {
    const { status, stdout, stderr } = await guest.tryRun(script, { timeoutMs: LIMIT_MS });
    if (status === 0) return stdout;
    const { stdout: log } = await guest.tryRun('tail -n 30 /run/ringhost/log');
    throw new Error(`${script}\nended with ${status}\n${stdout}${stderr}\n--- the daemon\n${log}`);
  };

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ringhost-nvme-'));
    guest = await startNvmeGuest('nvme-vfio', directory);
  });

  afterAll(async () => {
    await guest?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  it('is left with the kernel while it is mounted, else bound by ringhost setup', async () => {
    await run('mke2fs -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt');
    expect(await run('ringhost setup')).toMatch(
      new RegExp(`^${DRIVE} \\(1b36 0010\\): active devices: nvme0n1, so not binding PCI dev$`, 'm'),
    );
    await run(`umount /mnt
      for i in $(seq 200); do echo "written by the kernel"; done >/run/text
      dd if=/run/text bs=4096 count=1 of=/dev/nvme0n1 conv=fsync`);
    expect(await run('ringhost setup')).toBe(`${DRIVE} (1b36 0010): nvme -> vfio-pci\n`);
    expect(await run('ringhost setup status')).toMatch(
      new RegExp(`^${DRIVE} \\(1b36 0010\\): vfio-pci, IOMMU group \\d+$`, 'm'),
    );
  });

  it('serves verified load by interrupts, sleeps when there is none, and is reset under load', async () => {
    await run(START);
    const seen = JSON.parse(await run(`${CLIENT} use`));
    expect(seen).toMatchObject({
      disks: ['Nvme0n1'],
      found: expect.stringMatching(/^written by the kernel\n/),
      runs: [400, 400, 200].map((ios) => ({ ios, errors: 0, mismatches: 0 })),
      sleeps: true,
      model: 'QEMU NVMe Ctrl',
    });
    expect(seen.interrupts).toBeGreaterThan(0);
  });

  it('goes back to the kernel by ringhost setup reset, from under the daemon, with all that was written', async () => {
    expect(await run('ringhost setup reset')).toBe(`${DRIVE} (1b36 0010): vfio-pci -> nvme\n`);
    await run('until [ -b /dev/nvme0n1 ]; do sleep 0.2; done');
    expect(await run('dd if=/dev/nvme0n1 bs=512 skip=8 count=1 2>/dev/null')).toMatch(/^(written by Ringhost )+/);
    expect(await run('grep unbound /run/ringhost/log')).toMatch(/Nvme0 is gone/);
  });

  it('is unplugged under load: the front-end sees errors, and the daemon goes on', async () => {
    expect(await run('ringhost setup config')).toBe(`${DRIVE} (1b36 0010): nvme -> vfio-pci\n`);
    const outcome = run(`${CLIENT} lose`);
    outcome.catch(() => {});
    await Promise.race([guest.waitFor(/nvme-client: the load runs/, LIMIT_MS), outcome]);
    await guest.unplug('nvme');
    const { good, bad, mismatches } = JSON.parse(await outcome);
    expect({ good: good > 0, bad: bad > 0, mismatches }).toEqual({ good: true, bad: true, mismatches: 0 });
    expect(await run('ringhost setup status')).toMatch(/^no NVMe drives$/m);
    await run('pid=$(cat /run/ringhost/pid); kill $pid; while kill -0 $pid; do sleep 0.2; done');
    expect(await run('tail -n 1 /run/ringhost/log')).toMatch(/stopped/);
  });
});
