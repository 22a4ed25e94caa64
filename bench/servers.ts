/** What disks stand on that servers give: started on the target's core, closed after the run. */
import { installHint, isToolMissing, TOOLS } from '../scripts/setup/packages.mjs';
import { pinToCore } from '../src/sys/thread.ts';
import { TestChild } from '../test/e2e/child.ts';
import { withLimit } from '../test/e2e/wait.ts';
import { NbdServer } from '../test/support/nbd-servers.ts';
import { makeImage } from './image.ts';
import type { Backing } from './scenarios/scenario.ts';
import { QEMU_STORAGE_DAEMON } from './targets/qemu.ts';
import { DISK_MIB, type Place } from './targets/target.ts';

const START_MS_MAX = 60_000;
const NVME_TARGET = new URL('nvme-target-main.ts', import.meta.url).pathname;

export interface Servers {
  /** Where they are. */
  readonly place: Pick<Place, 'image' | 'nbdSocket' | 'nvmePort' | 'virtioSocket'>;
  close(): Promise<void>;
}

/** They take their time from the target's core. */
export async function startServers(needs: ReadonlySet<Backing>, place: Place): Promise<Servers> {
  const { client, target } = place;
  if (needs.has('image') && isToolMissing(TOOLS.ceph)) {
    throw new Error(`RBD images want a cluster: ${installHint(TOOLS.ceph)}`);
  }
  if (needs.has('nbd') && isToolMissing(TOOLS.nbd)) {
    throw new Error(`NBD exports want a server: ${installHint(TOOLS.nbd)}`);
  }
  if (needs.has('vhost-user') && QEMU_STORAGE_DAEMON.unavailable() !== null) {
    throw new Error(`a vhost-user target is wanted: ${QEMU_STORAGE_DAEMON.unavailable()}`);
  }
  const closing: (() => Promise<unknown>)[] = [];
  const close = async (): Promise<void> => {
    for (const end of closing.toReversed()) await end();
  };
  pinToCore(target);
  try {
    const image = needs.has('image') ? await makeImage() : undefined;
    if (image !== undefined) closing.push(() => image.close());
    const nbd = needs.has('nbd') ? await NbdServer.nbdkit('memory', `${DISK_MIB}M`) : undefined;
    if (nbd !== undefined) closing.push(() => nbd.close());
    const nvme = needs.has('nvme') ? await startNvmeTarget() : undefined;
    if (nvme !== undefined) closing.push(() => nvme.child.stop('SIGKILL'));
    const virtio = needs.has('vhost-user') ? await QEMU_STORAGE_DAEMON.start(place) : undefined;
    if (virtio !== undefined) closing.push(() => virtio.stop());
    const virtioSocket = virtio?.path({ protocol: 'blk', disk: 'ram' });
    return { place: { image, nbdSocket: nbd?.socketPath, nvmePort: nvme?.port, virtioSocket }, close };
  } catch (error) {
    await close();
    throw error;
  } finally {
    pinToCore(client);
  }
}

async function startNvmeTarget(): Promise<{ child: TestChild; port: number }> {
  const said = Promise.withResolvers<number>();
  const child = new TestChild('NVMe/TCP target', process.execPath, [NVME_TARGET, String(DISK_MIB)], (text) =>
    said.resolve(Number(text)),
  );
  void child.exited.then(() => said.reject(new Error(`the NVMe/TCP target ended:\n${child.tail()}`)));
  return { child, port: await withLimit(said.promise, START_MS_MAX, 'port of the NVMe/TCP target') };
}
