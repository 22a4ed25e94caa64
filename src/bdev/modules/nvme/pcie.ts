/** NVMe drives of this machine, driven in user space. */
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { ControllerEvents, NvmeController, TransportId } from '../../../nvme/controller.ts';
import { PcieController } from '../../../nvme/pcie/pcie-controller.ts';
import { VfioDevice } from '../../../sys/vfio.ts';
import { BOUNCE_MEMORY_BYTES } from './pcie-channel.ts';
import type { AttachParams, NvmeTransport } from './transport.rpc.ts';

const QUEUES_MIN = 16;
const QUEUES_A_REACTOR = 4;

export interface PcieTransportOptions {
  readonly reactors: number;
  /** Whether reactors ever sleep. */
  readonly mode: 'poll' | 'adaptive' | 'interrupt';
  readonly log: Logger;
}

export class PcieTransport implements NvmeTransport {
  readonly trtype = 'PCIe';
  readonly #options: PcieTransportOptions;

  constructor(options: PcieTransportOptions) {
    this.#options = options;
  }

  transportId({ traddr }: AttachParams): TransportId {
    return { trtype: this.trtype, traddr: pciAddress(traddr) };
  }

  async connect(id: TransportId, params: AttachParams, events: ControllerEvents): Promise<NvmeController> {
    const { reactors, mode, log } = this.#options;
    const options = {
      queues: params.num_io_queues ?? Math.max(QUEUES_MIN, QUEUES_A_REACTOR * reactors),
      bounceBytes: BOUNCE_MEMORY_BYTES,
      hasInterrupts: mode !== 'poll',
    };
    return await PcieController.open(new VfioDevice(id.traddr), options, events, log);
  }
}

/** `01:00.0` and `0000.01.00.0` are taken too, as SPDK does. Throws `EINVAL` for anything else. */
function pciAddress(text: string): string {
  const match = /^(?:([0-9a-f]{1,4})[:.])?([0-9a-f]{1,2})[:.]([0-9a-f]{1,2})\.([0-7])$/i.exec(text);
  if (match === null) throw new TargetError('EINVAL', `"${text}" is no PCI address, such as 0000:01:00.0`);
  const [, domain = '0', bus = '', device = '', fn = ''] = match;
  const hex = (digits: string, width: number): string => digits.toLowerCase().padStart(width, '0');
  return `${hex(domain, 4)}:${hex(bus, 2)}:${hex(device, 2)}.${fn}`;
}
