/** Disks over NBD exports do what a bdev does, whichever server they come from. */
import { describe } from 'vitest';
import { NbdBdev, type NbdParams } from '../../src/bdev/modules/nbd/nbd.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { describeConformance, type Kind } from '../support/bdev-conformance.ts';
import { NbdServer } from '../support/nbd-servers.ts';

/** Every disk has a server of its own. */
function exportOf(start: (sizeBytes: number) => Promise<NbdServer>, params: Partial<NbdParams> = {}): Kind {
  return {
    canWake: true,
    async make(name, sizeBytes) {
      const server = await start(sizeBytes);
      const bdev = await NbdBdev.open({ name, uri: server.uri(), ...params });
      bdev.destruct = () => server.close();
      return bdev;
    },
  };
}

describe.skipIf(whyNoTool('nbd') !== null)('NBD:', () => {
  describeConformance(
    'an NBD export of nbdkit',
    exportOf((bytes) => NbdServer.nbdkit('memory', String(bytes))),
  );
  describeConformance(
    'an NBD export of 4096-byte blocks',
    exportOf((bytes) =>
      NbdServer.nbdkit(
        ...['--filter=blocksize-policy', 'memory', String(bytes), 'blocksize-minimum=4096'],
        ...['blocksize-preferred=4096', 'blocksize-maximum=65536', 'blocksize-error-policy=error'],
      ),
    ),
  );
  describeConformance(
    'an NBD export of qemu-nbd',
    exportOf((bytes) => NbdServer.qemuNbd(bytes)),
  );
});
