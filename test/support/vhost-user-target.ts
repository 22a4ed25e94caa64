/** qemu-storage-daemon with one vhost-user-blk disk over a file, which may be killed and started again. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestChild } from '../e2e/child.ts';
import { waitUntil } from '../e2e/wait.ts';

const START_MAX_MS = 30_000;
/** Of a socket that listens, in /proc/net/unix. */
const LISTENS = '00010000';

export class VhostUserTarget {
  readonly directory = mkdtempSync(join(tmpdir(), 'ringhost-target-'));
  readonly #blockBytes: number;
  #child: TestChild | null = null;

  private constructor(blockBytes: number) {
    this.#blockBytes = blockBytes;
  }

  static async start(sizeBytes: number, blockBytes = 512): Promise<VhostUserTarget> {
    const target = new VhostUserTarget(blockBytes);
    writeFileSync(target.filePath, '');
    truncateSync(target.filePath, sizeBytes);
    await target.start();
    return target;
  }

  get filePath(): string {
    return join(this.directory, 'disk');
  }

  get socketPath(): string {
    return join(this.directory, 'socket');
  }

  async start(): Promise<void> {
    const device = `type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=${this.socketPath}`;
    const child = new TestChild('qemu-storage-daemon', 'qemu-storage-daemon', [
      ...['--blockdev', `driver=file,node-name=f,filename=${this.filePath},discard=unmap`],
      ...['--export', `${device},logical-block-size=${this.#blockBytes},num-queues=4,writable=on`],
    ]);
    this.#child = child;
    await waitUntil(() => !child.isRunning || this.#listens(), START_MAX_MS, 'listening qemu-storage-daemon');
    if (!child.isRunning) throw new Error(`qemu-storage-daemon ended:\n${child.tail()}`);
  }

  async kill(): Promise<void> {
    await this.#child?.stop('SIGKILL');
    this.#child = null;
    rmSync(this.socketPath, { force: true });
  }

  async close(): Promise<void> {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Without connecting, which it would take for a front-end. */
  #listens(): boolean {
    const lines = readFileSync('/proc/net/unix', 'utf8').split('\n');
    return lines.some((line) => line.endsWith(this.socketPath) && line.includes(LISTENS));
  }
}
