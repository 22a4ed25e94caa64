/** What the parameters of `bdev_nvme_attach_controller` mean for a target over TCP. */
import { isIPv4, isIPv6 } from 'node:net';
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { TransportId } from '../../../nvme/controller.ts';
import type { TcpAddress } from '../../../nvme/tcp/admin-queue.ts';
import { NQN_BYTES_MAX } from '../../../nvme/tcp/fabrics.ts';
import { TcpController, type TcpControllerOptions } from '../../../nvme/tcp/tcp-controller.ts';
import { hostIdentity } from '../../../nvme/tcp/tcp-host.ts';
import type { Params } from '../../../rpc/methods.ts';
import type { NvmeTransport } from './transport.rpc.ts';

const PORT = '4420';
const KEEP_ALIVE_MS = 10_000;
const RECONNECT_DELAY_SEC = 2;

/** How the connections to a subsystem are. */
export type ConnectionParams = Pick<
  Params<'bdev_nvme_attach_controller'>,
  | 'hostnqn'
  | 'hdgst'
  | 'ddgst'
  | 'ctrlr_loss_timeout_sec'
  | 'reconnect_delay_sec'
  | 'fast_io_fail_timeout_sec'
  | 'keep_alive_timeout_ms'
  | 'psk'
>;

export function tcpTransport(log: Logger): NvmeTransport {
  return {
    trtype: 'TCP',
    transportId: tcpTransportId,
    connect: (id, params, events) => TcpController.connect(id, addressOf(id), optionsOf(id, params, log), events),
    addPath: async (controller, id) => {
      if (controller instanceof TcpController) await controller.addPath(id, addressOf(id));
    },
  };
}

/** Where parameters point to: numeric addresses, so that nothing waits for a name server. */
export function tcpTransportId({
  traddr,
  adrfam,
  trsvcid = PORT,
  subnqn,
}: Pick<Params<'bdev_nvme_attach_controller'>, 'traddr' | 'adrfam' | 'trsvcid' | 'subnqn'>): TransportId {
  const family = isIPv4(traddr) ? 'IPv4' : isIPv6(traddr) && !traddr.includes('%') ? 'IPv6' : null;
  if (family === null) throw new TargetError('EINVAL', `traddr "${traddr}" is not a numeric IP address`);
  if (adrfam !== undefined && adrfam.toLowerCase() !== family.toLowerCase()) {
    throw new TargetError('EINVAL', `traddr "${traddr}" is of ${family}, not of ${adrfam}`);
  }
  const port = Number(trsvcid);
  if (!/^\d+$/.test(trsvcid) || port < 1 || port > 65_535) {
    throw new TargetError('EINVAL', `trsvcid "${trsvcid}" is not a TCP port`);
  }
  if (subnqn === undefined) throw new TargetError('EINVAL', 'subnqn is missing: which subsystem of the target?');
  checkNqn('subnqn', subnqn);
  return { trtype: 'TCP', traddr, adrfam: family, trsvcid, subnqn };
}

export function addressOf({ traddr, trsvcid }: TransportId): TcpAddress {
  return { address: traddr, port: Number(trsvcid) };
}

function checkNqn(field: string, nqn: string): void {
  if (nqn.length === 0 || nqn.length > NQN_BYTES_MAX || !/^[\x21-\x7e]+$/.test(nqn)) {
    throw new TargetError('EINVAL', `${field} "${nqn}" is not a qualified name of at most ${NQN_BYTES_MAX} characters`);
  }
}

export function optionsOf(id: TransportId, params: ConnectionParams, log: Logger): TcpControllerOptions {
  if (params.psk !== undefined) {
    throw new TargetError(
      'ENOTSUP',
      'TLS is not served: leave psk out, and see docs/nvme.md for other ways to encrypt',
    );
  }
  if (params.hostnqn !== undefined) checkNqn('hostnqn', params.hostnqn);
  const lossTimeoutSec = params.ctrlr_loss_timeout_sec ?? -1;
  const fastFailSec = params.fast_io_fail_timeout_sec ?? 0;
  if (lossTimeoutSec > 0 && fastFailSec > lossTimeoutSec) {
    throw new TargetError('EINVAL', 'fast_io_fail_timeout_sec is above ctrlr_loss_timeout_sec');
  }
  return {
    host: {
      ...hostIdentity(params.hostnqn),
      subsystemNqn: id.subnqn ?? '',
      headerDigest: params.hdgst ?? false,
      dataDigest: params.ddgst ?? false,
      keepAliveMs: params.keep_alive_timeout_ms ?? KEEP_ALIVE_MS,
    },
    reconnect: { delaySec: params.reconnect_delay_sec || RECONNECT_DELAY_SEC, lossTimeoutSec, fastFailSec },
    log,
  };
}
