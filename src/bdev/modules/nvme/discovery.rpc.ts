/** The RPC methods of discovery services. */
import { TargetError } from '../../../base/errors.ts';
import { DISCOVERY_NQN } from '../../../nvme/tcp/fabrics.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import type { Discoveries } from './discovery.ts';
import { addressOf, optionsOf, tcpTransportId } from './tcp.rpc.ts';

type DiscoveryHandlers = Pick<
  Handlers,
  'bdev_nvme_start_discovery' | 'bdev_nvme_stop_discovery' | 'bdev_nvme_get_discovery_info'
>;

const DISCOVERY_PORT = '8009';
const ATTACH_MS = 30_000;

export function discoveryRpc(discoveries: Discoveries): DiscoveryHandlers {
  return {
    async bdev_nvme_start_discovery(params) {
      const { name, trtype, traddr, adrfam, trsvcid = DISCOVERY_PORT, ...rest } = params;
      const {
        wait_for_attach: isWaiting,
        attach_timeout_ms: waitMs = 0,
        controller_names: names,
        ...attachment
      } = rest;
      if (trtype.toLowerCase() !== 'tcp') {
        throw new TargetError('EINVAL', `trtype "${trtype}" has no discovery here. Known: TCP`);
      }
      const id = tcpTransportId({ traddr, adrfam, trsvcid, subnqn: DISCOVERY_NQN });
      const timeout = waitMs > 0 ? { attach_timeout_ms: waitMs } : {};
      await discoveries.start(
        {
          ...{ name, id, address: addressOf(id), options: optionsOf(id, attachment, discoveries.log), attachment },
          names: names ?? {},
          // What stands on its disks is made after it: they must be there by then.
          config: {
            method: 'bdev_nvme_start_discovery',
            params: {
              name,
              trtype: 'TCP',
              traddr,
              adrfam: id.adrfam,
              trsvcid,
              ...attachment,
              wait_for_attach: true,
              ...timeout,
            },
          },
        },
        isWaiting === true || waitMs > 0 ? waitMs || ATTACH_MS : 0,
      );
      return true;
    },

    async bdev_nvme_stop_discovery({ name }) {
      await discoveries.stop(name);
      return true;
    },

    bdev_nvme_get_discovery_info() {
      return discoveries.list().map(({ settings: { name, id }, referrals }) => ({
        name,
        trid: { ...id },
        referrals: referrals.map((trid) => ({ trid: { ...trid } })),
      }));
    },
  };
}
