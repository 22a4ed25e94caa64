/** How controllers of one transport are attached: what the RPC methods and discovery need of it. */
import type { ControllerEvents, NvmeController, TransportId, TransportType } from '../../../nvme/controller.ts';
import type { Params } from '../../../rpc/methods.ts';

export type AttachParams = Params<'bdev_nvme_attach_controller'>;

export interface NvmeTransport {
  readonly trtype: TransportType;
  /** Where these parameters point to, checked and completed. */
  transportId(params: AttachParams): TransportId;
  connect(id: TransportId, params: AttachParams, events: ControllerEvents): Promise<NvmeController>;
  /** Adds another way to the subsystem of a controller of this transport. */
  addPath?(controller: NvmeController, id: TransportId): Promise<void>;
}
