/**
 * The control queue of a vhost-user-scsi controller in its reactor: task management functions and asynchronous
 * notification requests (virtio 1.3 §5.6.6.2). A function is answered when the commands it affects have ended, so
 * several may be in flight. Rare requests: they may allocate.
 */
import { Chain } from '../virtio/chain.ts';
import {
  decodeLun,
  decodeTarget,
  NO_LUN,
  SCSI_AN_BYTES,
  SCSI_AN_RESPONSE_BYTES,
  SCSI_TMF_BYTES,
  SCSI_TMF_RESPONSE_BYTES,
  ScsiAnOffset,
  ScsiControlType,
  ScsiResponse,
  ScsiTmfOffset,
} from '../virtio/scsi.ts';
import { type QueueOptions, RequestQueue } from './request-queue.ts';
import type { ScsiDevice } from './scsi-device.ts';

const REQUEST = new Uint8Array(SCSI_TMF_BYTES);
const REQUEST_VIEW = new DataView(REQUEST.buffer);
const TYPE_BYTES = 4;

export interface ScsiControlQueueOptions extends QueueOptions {
  readonly device: ScsiDevice;
}

export class ScsiControlQueue extends RequestQueue {
  readonly #device: ScsiDevice;

  constructor(options: ScsiControlQueueOptions) {
    super(options);
    this.#device = options.device;
  }

  protected override accept(chain: Chain): boolean {
    if (chain.writableBytes < SCSI_TMF_RESPONSE_BYTES) return this.refuse(chain, 'has no room for the response');
    if (chain.readableBytes < TYPE_BYTES || !this.data.gather(chain, 0, REQUEST, 0, TYPE_BYTES)) {
      return this.#answer(chain, Uint8Array.of(ScsiResponse.FAILURE));
    }
    const type = REQUEST_VIEW.getUint32(ScsiTmfOffset.type, true);
    if (type === ScsiControlType.TMF) return this.#manage(chain);
    if (type === ScsiControlType.AN_QUERY || type === ScsiControlType.AN_SUBSCRIBE) return this.#notifications(chain);
    return this.#answer(chain, Uint8Array.of(ScsiResponse.FUNCTION_REJECTED));
  }

  #manage(chain: Chain): true {
    if (chain.readableBytes < SCSI_TMF_BYTES || !this.data.gather(chain, 0, REQUEST, 0, SCSI_TMF_BYTES)) {
      return this.#answer(chain, Uint8Array.of(ScsiResponse.FAILURE));
    }
    const target = this.isDetached ? NO_LUN : decodeTarget(REQUEST, ScsiTmfOffset.lun);
    const request = {
      function: REQUEST_VIEW.getUint32(ScsiTmfOffset.subtype, true),
      lun: decodeLun(REQUEST, ScsiTmfOffset.lun),
      tagLow: REQUEST_VIEW.getInt32(ScsiTmfOffset.tag, true),
      tagHigh: REQUEST_VIEW.getInt32(ScsiTmfOffset.tag + 4, true),
    };
    const own = new Chain(chain.count);
    own.copyFrom(chain);
    this.#device.manage(target, request, (response) => {
      this.#answer(own, Uint8Array.of(response));
    });
    return true;
  }

  /** No asynchronous notification exists for disks: none is sent, and none can be subscribed to. */
  #notifications(chain: Chain): true {
    const response = new Uint8Array(SCSI_AN_RESPONSE_BYTES);
    const isWhole = chain.readableBytes >= SCSI_AN_BYTES && chain.writableBytes >= SCSI_AN_RESPONSE_BYTES;
    if (!isWhole || !this.data.gather(chain, 0, REQUEST, 0, SCSI_AN_BYTES)) {
      response[SCSI_AN_RESPONSE_BYTES - 1] = ScsiResponse.FAILURE;
      return this.#answer(chain, response.subarray(Math.max(0, SCSI_AN_RESPONSE_BYTES - chain.writableBytes)));
    }
    const target = this.isDetached ? null : this.#device.target(decodeTarget(REQUEST, ScsiAnOffset.lun));
    const hasLun = target?.lun(decodeLun(REQUEST, ScsiAnOffset.lun)) !== undefined;
    const ofLun = hasLun ? ScsiResponse.OK : ScsiResponse.INCORRECT_LUN;
    response[SCSI_AN_RESPONSE_BYTES - 1] = target === null ? ScsiResponse.BAD_TARGET : ofLun;
    return this.#answer(chain, response);
  }

  #answer(chain: Chain, response: Uint8Array): true {
    const isWritten = this.data.scatter(chain, 0, response, 0, response.length);
    this.complete(chain.head, isWritten ? response.length : 0);
    return true;
  }
}
