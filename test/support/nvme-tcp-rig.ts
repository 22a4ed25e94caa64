/** A disk over NVMe/TCP on one or more targets of this process. */
import { type Logger, SILENT } from '../../src/base/log.ts';
import { NvmeBdev } from '../../src/bdev/modules/nvme/nvme.ts';
import type { ControllerEvents } from '../../src/nvme/controller.ts';
import type { FabricHost } from '../../src/nvme/tcp/admin-queue.ts';
import { TcpController } from '../../src/nvme/tcp/tcp-controller.ts';
import type { ReconnectOptions } from '../../src/nvme/tcp/tcp-path.ts';
import { DiskRig } from './disk-rig.ts';
import { type NvmeTcpTarget, TARGET_NQN } from './nvme-tcp-target.ts';

export interface TcpRigOptions {
  readonly host?: Partial<FabricHost>;
  readonly reconnect?: Partial<ReconnectOptions>;
  readonly log?: Logger;
}

const HOST: FabricHost = {
  hostNqn: 'nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff',
  hostId: '00112233445566778899aabbccddeeff',
  subsystemNqn: TARGET_NQN,
  headerDigest: false,
  dataDigest: false,
  keepAliveMs: 0,
};

export function idOf(target: NvmeTcpTarget) {
  return { trtype: 'TCP', traddr: target.address, trsvcid: String(target.port), subnqn: TARGET_NQN } as const;
}

export function addressOf(target: NvmeTcpTarget) {
  return { address: target.address, port: target.port };
}

/** Connects to a target that listens. */
export async function connectTo(
  target: NvmeTcpTarget,
  options: TcpRigOptions = {},
  events: ControllerEvents = { onNamespaces() {}, onGone() {} },
): Promise<TcpController> {
  const host = { ...HOST, ...options.host };
  const reconnect = { delaySec: 0.2, lossTimeoutSec: -1, fastFailSec: 0, ...options.reconnect };
  return await TcpController.connect(
    idOf(target),
    addressOf(target),
    { host, reconnect, log: options.log ?? SILENT },
    events,
  );
}

/** The first namespace of a controller as a disk, which closes the controller when it goes. */
export function diskOf(name: string, controller: TcpController, then: () => Promise<void> = async () => {}): NvmeBdev {
  const [namespace] = controller.namespaces;
  if (namespace === undefined) throw new Error('the target has no namespace');
  const bdev = new NvmeBdev({ name, controller, namespace });
  bdev.destruct = async () => {
    await controller.close();
    await then();
  };
  return bdev;
}

export class TcpDiskRig {
  readonly target: NvmeTcpTarget;
  readonly controller: TcpController;
  readonly disk: DiskRig;
  readonly gone: string[];

  private constructor(target: NvmeTcpTarget, controller: TcpController, gone: string[]) {
    this.target = target;
    this.controller = controller;
    this.gone = gone;
    this.disk = new DiskRig(diskOf('Nvme0n1', controller));
  }

  static async open(target: NvmeTcpTarget, options: TcpRigOptions = {}, address?: string): Promise<TcpDiskRig> {
    const gone: string[] = [];
    await target.listen(address);
    const events = { onNamespaces() {}, onGone: (reason: string) => gone.push(reason) };
    return new TcpDiskRig(target, await connectTo(target, options, events), gone);
  }

  async close(): Promise<void> {
    await this.disk.close();
    await this.target.kill();
  }
}
