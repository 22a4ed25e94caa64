/** The image behind RBD disks: on a Ceph cluster in memory that runs on one core, every block written. */
import { CephCluster } from '../test/support/ceph-cluster.ts';
import { type ClusterImage, DISK_MIB, MEMORY_DIRECTORY } from './targets/target.ts';

export interface OwnImage extends ClusterImage {
  close(): Promise<void>;
}

/** The cluster's programs run where the calling thread does. */
export async function makeImage(): Promise<OwnImage> {
  const cluster = await CephCluster.start({ store: 'memory', parent: MEMORY_DIRECTORY });
  const name = 'bench';
  try {
    // Without a lock, for which each of the targets would have to ask the one before.
    await cluster.createImage(name, DISK_MIB, '--image-feature', 'layering');
    await cluster.rbd('config', 'image', 'set', name, 'rbd_cache', 'false');
    await cluster.rbd('bench', name, '--io-type', 'write', '--io-size', '4M', '--io-total', `${DISK_MIB}M`);
  } catch (error) {
    await cluster.close();
    throw error;
  }
  return { configFile: cluster.configFile, pool: 'rbd', name, close: () => cluster.close() };
}
