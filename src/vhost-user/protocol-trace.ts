/**
 * Messages of one session as people read them: `-> SET_VRING_NUM index 0, num 128`. An arrow to the right is what the
 * front-end sends, one to the left what the back-end does.
 */
import type { LogFields } from '../base/log.ts';
import type { Fields, Struct } from '../base/struct.ts';
import { VirtioFeature } from '../virtio/features.ts';
import {
  BACKEND_REQUESTS,
  ConfigHead,
  Header,
  HeaderFlag,
  InflightDescription,
  MemoryRegion,
  MemoryTableHead,
  ProtocolFeature,
  REQUESTS,
  type RequestName,
  type RequestSpec,
  requestName,
  U64,
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VRING_INDEX_MASK,
  VRING_NO_FD,
  VringState,
} from './messages.ts';

type Bits = Readonly<Record<string, number>>;

/** virtio 1.3 §2.1. */
const STATUS_BITS: Bits = { ACKNOWLEDGE: 0, DRIVER: 1, DRIVER_OK: 2, FEATURES_OK: 3, NEEDS_RESET: 6, FAILED: 7 };
const BYTES_SHOWN_MAX = 64;
/** Fields that are addresses or sizes of memory: hexadecimal is what they are known by. */
const IS_ADDRESS = /address|bytes|offset|^descriptor$|^used$|^available$|^log$|^mmap/i;
const IS_PADDING = /^padding/;
/** What a reply carries, where that is not a u64. */
const REPLIES: Readonly<Partial<Record<RequestName, Struct<Fields>>>> = {
  GET_VRING_BASE: VringState,
  GET_CONFIG: ConfigHead,
  GET_INFLIGHT_FD: InflightDescription,
};

export class ProtocolTrace {
  readonly #write: (message: string, fields?: LogFields) => void;
  readonly #features: Bits;

  /** `deviceFeatures`: names of the feature bits below 24, which are the device's own. */
  constructor(write: (message: string, fields?: LogFields) => void, deviceFeatures: Bits) {
    this.#write = write;
    const transport = { ...VirtioFeature, PROTOCOL_FEATURES: VHOST_USER_F_PROTOCOL_FEATURES, LOG_ALL: VHOST_F_LOG_ALL };
    this.#features = { ...deviceFeatures, ...transport };
  }

  received(code: number, flags: number, payload: Uint8Array, fdCount: number): void {
    const name = requestName(code);
    const what = name === undefined ? ` ${hex(payload)}` : this.#request(name, payload);
    const wantsReply = (flags & HeaderFlag.needReply) !== 0 ? ', wants a reply' : '';
    this.#write(`-> ${name ?? `request ${code}`}${what}${fdsText(fdCount)}${wantsReply}`);
  }

  /** A whole message, on the front-end's connection. */
  sent(message: Uint8Array, fdCount: number): void {
    const { request } = Header.decode(message);
    const payload = message.subarray(Header.size);
    const name = requestName(request);
    this.#write(`<- ${name ?? `request ${request}`} reply${this.#reply(name, payload)}${fdsText(fdCount)}`);
  }

  /** On the back-end's own socket. */
  sentRequest(code: number, payload: Uint8Array): void {
    const [name] = Object.entries(BACKEND_REQUESTS).find(([, spec]) => spec.code === code) ?? [`request ${code}`];
    const state = payload.length === VringState.size ? ` ${structText(VringState, payload)}` : '';
    this.#write(`<- ${name}${state}`);
  }

  #request(name: RequestName, payload: Uint8Array): string {
    const spec: RequestSpec = REQUESTS[name];
    // What a front-end gets wrong is shown as it is.
    if (spec.payload === null || payload.length < spec.payload.size) return hex(payload, ' ');
    if (name === 'SET_MEM_TABLE') return memoryTable(payload);
    if (spec.payload !== U64) {
      const rest = payload.subarray(spec.payload.size);
      return ` ${structText(spec.payload, payload)}${name === 'SET_CONFIG' ? hex(rest, ', ') : ''}`;
    }
    const { value } = U64.decode(payload);
    return ` ${this.#number(name, value)}`;
  }

  #reply(name: RequestName | undefined, payload: Uint8Array): string {
    const struct = name === undefined ? undefined : REPLIES[name];
    if (struct !== undefined && payload.length >= struct.size) {
      return ` ${structText(struct, payload)}${hex(payload.subarray(struct.size), ', ')}`;
    }
    if (name === undefined || payload.length !== U64.size) return hex(payload, ' ');
    const { value } = U64.decode(payload);
    if (REQUESTS[name].hasReply) return ` ${this.#number(name, value)}`;
    return value === 0n ? ' ok' : ' refused';
  }

  #number(name: RequestName, value: bigint): string {
    if (name.endsWith('_PROTOCOL_FEATURES')) return bitsText(value, ProtocolFeature);
    if (name.endsWith('_FEATURES')) return bitsText(value, this.#features);
    if (name.endsWith('_STATUS')) return bitsText(value, STATUS_BITS);
    if (/^SET_VRING_(KICK|CALL|ERR)$/.test(name)) {
      const isPolled = (value & BigInt(VRING_NO_FD)) !== 0n;
      return `index ${value & BigInt(VRING_INDEX_MASK)}${isPolled ? ', no descriptor' : ''}`;
    }
    return String(value);
  }
}

function fdsText(count: number): string {
  return count === 0 ? '' : `, ${count} descriptor${count === 1 ? '' : 's'}`;
}

/** `0x30000000 = INDIRECT_DESC EVENT_IDX`; bits without a name by their number. */
function bitsText(value: bigint, names: Bits): string {
  const nameOf = new Map(Object.entries(names).map(([name, bit]) => [bit, name]));
  const set = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => ((value >> BigInt(bit)) & 1n) === 1n);
  return `0x${value.toString(16)}${set.length === 0 ? '' : ` = ${set.map((bit) => nameOf.get(bit) ?? bit).join(' ')}`}`;
}

function structText(struct: Struct<Fields>, payload: Uint8Array): string {
  return Object.entries(struct.decode(payload))
    .filter(([name]) => !IS_PADDING.test(name))
    .map(([name, value]) => `${name} ${IS_ADDRESS.test(name) ? `0x${(value as number).toString(16)}` : value}`)
    .join(', ');
}

function memoryTable(payload: Uint8Array): string {
  const { regionCount } = MemoryTableHead.decode(payload);
  const whole = Math.floor((payload.length - MemoryTableHead.size) / MemoryRegion.size);
  const regions = Array.from({ length: Math.min(regionCount, whole) }, (_, index) => {
    return structText(MemoryRegion, payload.subarray(MemoryTableHead.size + index * MemoryRegion.size));
  });
  return ` regions ${regionCount}${regions.map((text) => `; ${text}`).join('')}`;
}

function hex(bytes: Uint8Array, before = ''): string {
  if (bytes.length === 0) return '';
  const shown = Buffer.from(bytes.subarray(0, BYTES_SHOWN_MAX)).toString('hex');
  return `${before}${shown}${bytes.length > BYTES_SHOWN_MAX ? `… (${bytes.length} bytes)` : ''}`;
}
