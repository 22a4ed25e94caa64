/** A disk over an NBD export: its server is asked once what it has, then every reactor connects by itself. */
import { lookup } from 'node:dns/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { strerror, TargetError } from '../../../base/errors.ts';
import type { Bdev, BdevConfig, Handover } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import { type NbdChannelParams, readAddress } from './channel-params.ts';
import { type ExportAddress, NbdConnection } from './connection.ts';
import type { ExportInfo } from './handshake.ts';
import { ExportFlag } from './protocol.ts';
import { parseNbdUri } from './uri.ts';

export interface NbdParams {
  readonly name: string;
  readonly uri: string;
  readonly uuid?: string | undefined;
  /** Default: 512, or what the server wants at least. */
  readonly blockSizeBytes?: number | undefined;
  readonly isReadonly?: boolean | undefined;
  /** Seconds; 0: none. */
  readonly ioTimeoutS?: number | undefined;
  readonly reconnectTimeoutS?: number | undefined;
  readonly tlsHostname?: string | undefined;
  readonly tlsCaFile?: string | undefined;
  readonly tlsCertFile?: string | undefined;
  readonly tlsKeyFile?: string | undefined;
}

const BLOCK_BYTES_MIN = 512;
const BLOCK_BYTES_MAX = 4096;
const PROBE_MS_MAX = 10_000;
const PROBE_STEP_MS = 1;

export class NbdBdev implements Bdev {
  readonly kind = 'nbd';
  readonly productName = 'NBD disk';
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  blockCount: number;
  readonly #params: NbdParams;
  readonly #info: ExportInfo;
  readonly #channel: NbdChannelParams;

  private constructor(params: NbdParams, channel: NbdChannelParams, info: ExportInfo) {
    this.#params = params;
    this.#info = info;
    this.#channel = channel;
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? uuidOfText(params.uri);
    this.blockSizeBytes = blockSizeOf(params, info);
    this.physicalBlockSizeBytes = Math.max(
      this.blockSizeBytes,
      Math.min(powerOfTwoUpTo(info.blockBytesPreferred), BLOCK_BYTES_MAX),
    );
    this.blockCount = blocksOf(params.uri, info, this.blockSizeBytes);
    const has = (flag: number): boolean => (info.flags & flag) !== 0;
    const isReadonly = params.isReadonly === true || has(ExportFlag.readOnly);
    this.hasWriteCache = has(ExportFlag.flush) && !isReadonly;
    this.ioTypes = [
      IoType.read,
      IoType.flush,
      ...(isReadonly ? [] : [IoType.write]),
      ...(!isReadonly && has(ExportFlag.trim) ? [IoType.unmap] : []),
      ...(!isReadonly && has(ExportFlag.writeZeroes) ? [IoType.writeZeroes] : []),
    ];
  }

  /**
   * Asks the server what the export is, unless that is known: a server may have one client only, and that is the daemon
   * before. Throws what is wrong with the URI, the server or the export.
   */
  static async open(params: NbdParams, known?: ExportInfo): Promise<NbdBdev> {
    const { isTls, path, host, port, exportName } = parseNbdUri(params.uri);
    const channel = {
      path,
      host: host === '' ? '' : await addressOf(host),
      port,
      exportName,
      isTls,
      serverName: params.tlsHostname ?? (host === '' ? 'localhost' : host),
      caFile: params.tlsCaFile ?? '',
      certFile: params.tlsCertFile ?? '',
      keyFile: params.tlsKeyFile ?? '',
      ioTimeoutMs: (params.ioTimeoutS ?? 0) * 1000,
      holdMs: (params.reconnectTimeoutS ?? 0) * 1000,
      claim: new SharedArrayBuffer(4),
    };
    const info = known ?? (await probe(params.uri, readAddress({ ...channel, isShared: true })));
    const isShared = (info.flags & (ExportFlag.multiConn | ExportFlag.readOnly)) !== 0;
    return new NbdBdev(params, { ...channel, isShared }, info);
  }

  /** What the export's size is now, in blocks. */
  async measure(): Promise<number> {
    const { uri } = this.#params;
    return blocksOf(uri, await probe(uri, readAddress(this.#channel)), this.blockSizeBytes);
  }

  get isExclusive(): boolean {
    return !this.#channel.isShared;
  }

  params(): NbdChannelParams {
    return this.#channel;
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { flags, hasStructuredReplies, blockBytesMin, blockBytesPreferred, payloadBytesMax } = this.#info;
    return {
      nbd: {
        uri: this.#params.uri,
        readonly: (flags & ExportFlag.readOnly) !== 0,
        multi_conn: (flags & ExportFlag.multiConn) !== 0,
        structured_replies: hasStructuredReplies,
        minimum_block_size: blockBytesMin,
        preferred_block_size: blockBytesPreferred,
        maximum_payload: payloadBytesMax,
      },
    };
  }

  toConfig(): BdevConfig {
    const { name, uri, isReadonly, ioTimeoutS, reconnectTimeoutS } = this.#params;
    const { tlsHostname, tlsCaFile, tlsCertFile, tlsKeyFile } = this.#params;
    const all = {
      name,
      uri,
      block_size: this.blockSizeBytes,
      uuid: this.uuid,
      readonly: isReadonly,
      io_timeout_sec: ioTimeoutS,
      reconnect_timeout_sec: reconnectTimeoutS,
      tls_hostname: tlsHostname,
      tls_ca: tlsCaFile,
      tls_cert: tlsCertFile,
      tls_key: tlsKeyFile,
    };
    const params = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
    return { method: 'bdev_nbd_create', params };
  }

  handOver(): Handover {
    return { fds: [], about: { ...this.#info, sizeBytes: this.blockCount * this.blockSizeBytes } };
  }

  async destruct(): Promise<void> {}
}

/** Connects, asks and goes away again: some milliseconds, while which it looks again and again. */
async function probe(uri: string, address: ExportAddress): Promise<ExportInfo> {
  const connection = new NbdConnection(address, 0);
  try {
    connection.open();
    for (const deadline = Date.now() + PROBE_MS_MAX; !connection.isReady; await sleep(PROBE_STEP_MS)) {
      connection.step();
      if (connection.isClosed || Date.now() > deadline) {
        const reason = connection.reason || 'it did not answer in time';
        const code = connection.stream.socket.error === 0 ? 'EINVAL' : 'ECONNREFUSED';
        throw new TargetError(code, `cannot open ${uri}: ${reason}`);
      }
    }
    return connection.info as ExportInfo;
  } finally {
    connection.free();
  }
}

async function addressOf(host: string): Promise<string> {
  try {
    return (await lookup(host)).address;
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).errno ?? 0;
    throw new TargetError('EINVAL', `cannot find ${host}: ${strerror(errno)}`, { cause: error });
  }
}

function blockSizeOf({ uri, blockSizeBytes }: NbdParams, { blockBytesMin: min }: ExportInfo): number {
  const size = blockSizeBytes || Math.max(min, BLOCK_BYTES_MIN);
  if (size < min) throw new TargetError('EINVAL', `block_size ${size} is below the ${min} bytes that ${uri} wants`);
  if (size > BLOCK_BYTES_MAX) {
    throw new TargetError('EINVAL', `${uri} wants blocks of ${size} bytes: ${BLOCK_BYTES_MAX} is the most here`);
  }
  return size;
}

function blocksOf(uri: string, { sizeBytes }: ExportInfo, blockSizeBytes: number): number {
  const count = Math.floor(sizeBytes / blockSizeBytes);
  if (count === 0) throw new TargetError('EINVAL', `${uri} is smaller than a block`);
  return count;
}

function powerOfTwoUpTo(bytes: number): number {
  return bytes < 1 ? 1 : 2 ** Math.floor(Math.log2(bytes));
}
