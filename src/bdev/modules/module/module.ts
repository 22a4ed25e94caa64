/** A disk that a user wrote in TypeScript (docs/write-a-bdev.md): its thread, and what reactors need to reach it. */
import { basename } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Logger } from '../../../base/log.ts';
import type { Bdev, BdevConfig, PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import { ModuleHost } from './module-host.ts';

export interface ModuleParams {
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  readonly options: Readonly<Record<string, string>>;
  readonly uuid?: string | undefined;
  /** Longest request in seconds; 0: none. */
  readonly timeoutS: number;
}

export class ModuleBdev implements Bdev {
  readonly kind = 'module';
  readonly productName = 'TypeScript disk';
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  readonly host: ModuleHost;
  readonly #params: ModuleParams;

  /** Use `open`. */
  constructor(params: ModuleParams, host: ModuleHost) {
    const { blockSizeBytes, canWrite, canFlush, canDiscard } = host.geometry;
    this.#params = params;
    this.host = host;
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? uuidOfText(`${params.name} of ${params.path}`);
    this.blockSizeBytes = blockSizeBytes;
    this.physicalBlockSizeBytes = blockSizeBytes;
    this.hasWriteCache = canFlush;
    this.ioTypes = [
      IoType.read,
      IoType.flush,
      ...(canWrite ? [IoType.write, IoType.writeZeroes] : []),
      ...(canDiscard ? [IoType.unmap] : []),
    ];
  }

  /** Loads the user's file into a thread. Throws what it throws. */
  static async open(params: ModuleParams, reactors: number, log: Logger): Promise<ModuleBdev> {
    const { name, path, options, timeoutS } = params;
    const file = pathToFileURL(path).href;
    return new ModuleBdev(
      params,
      await ModuleHost.start({ name, file, options, reactors, requestMsMax: timeoutS * 1000, log }),
    );
  }

  get blockCount(): number {
    return this.host.geometry.sizeBytes / this.blockSizeBytes;
  }

  params(): PlainParams {
    return { rings: this.host.rings.memory };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { path, options, timeoutS } = this.#params;
    const { state, restarts } = this.host;
    return { module: { path, options, timeout_sec: timeoutS, thread: state, restarts } };
  }

  toConfig(): BdevConfig {
    const { name, path, options, timeoutS } = this.#params;
    return {
      method: 'bdev_module_create',
      params: { name, path, options, timeout_sec: timeoutS, uuid: this.uuid },
    };
  }

  async destruct(): Promise<void> {
    await this.host.close();
  }
}

/** The name that a disk has when it is given none: that of its file. */
export function nameOfFile(path: string): string {
  return basename(path).replace(/\.[cm]?[jt]s$/, '');
}
