/** Disks over NVMe/TCP do what a bdev does, on targets with wide and with narrow limits. */
import { describeConformance, type Kind } from '../../../../test/support/bdev-conformance.ts';
import { connectTo, diskOf, type TcpRigOptions } from '../../../../test/support/nvme-tcp-rig.ts';
import { NvmeTcpTarget, type TargetLimits } from '../../../../test/support/nvme-tcp-target.ts';
import { turns } from '../../../../test/support/waiting.ts';

function kindOf(limits: Partial<TargetLimits> = {}, options: TcpRigOptions = {}): Kind {
  return {
    canWake: true,
    async make(name, sizeBytes) {
      const target = await new NvmeTcpTarget({ ...limits, namespaceBytes: sizeBytes }).listen();
      return diskOf(name, await connectTo(target, options), async () => {
        await target.kill();
        await turns();
      });
    },
  };
}

describeConformance('a disk over NVMe/TCP', kindOf());
describeConformance(
  'a disk over NVMe/TCP with digests',
  kindOf({}, { host: { headerDigest: true, dataDigest: true } }),
);
describeConformance(
  'a disk over NVMe/TCP whose target has other limits',
  kindOf(
    { capsuleDataBytes: 4096, mdts: 0, maxH2cData: 8192, r2tBytes: 12_288, usesSuccess: true },
    { host: { headerDigest: true } },
  ),
);
describeConformance(
  'a disk over NVMe/TCP whose target has narrow limits',
  kindOf({
    ...{ blockSizeBytes: 4096, capsuleDataBytes: 0, mdts: 1, maxH2cData: 4096, r2tBytes: 5120, c2hBytes: 1024 },
    ...{ cpda: 31, padding: 36, entries: 8, usesSuccess: true },
  }),
);
