/** qemu-storage-daemon with one vhost-user-blk disk over a file, which may be killed and started again. */
import { readFileSync } from 'node:fs';
import { DiskServer } from './disk-server.ts';

/** Of a socket that listens, in /proc/net/unix. */
const LISTENS = '00010000';

export class VhostUserTarget extends DiskServer {
  readonly #blockBytes: number;

  private constructor(blockBytes: number) {
    super('qemu-storage-daemon', 'ringhost-target-');
    this.#blockBytes = blockBytes;
  }

  static async start(sizeBytes: number, blockBytes = 512): Promise<VhostUserTarget> {
    const target = new VhostUserTarget(blockBytes);
    target.makeFile(sizeBytes);
    await target.start();
    return target;
  }

  protected override args(): readonly string[] {
    const device = `type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=${this.socketPath}`;
    return [
      ...['--blockdev', `driver=file,node-name=f,filename=${this.filePath},discard=unmap`],
      ...['--export', `${device},logical-block-size=${this.#blockBytes},num-queues=4,writable=on`],
    ];
  }

  /** Without connecting, which it would take for a front-end. */
  protected override isReady(): boolean {
    const lines = readFileSync('/proc/net/unix', 'utf8').split('\n');
    return lines.some((line) => line.endsWith(this.socketPath) && line.includes(LISTENS));
  }
}
