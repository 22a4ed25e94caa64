/** NBD servers that people have: nbdkit and qemu-nbd, each on a Unix socket in a directory of its own. */
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestChild } from '../e2e/child.ts';
import { waitUntil } from '../e2e/wait.ts';

const START_MAX_MS = 30_000;

export class NbdServer {
  readonly directory = mkdtempSync(join(tmpdir(), 'ringhost-nbd-'));
  readonly #argsOf: (directory: string) => readonly string[];
  readonly #program: string;
  #child: TestChild | null = null;

  private constructor(program: string, argsOf: (directory: string) => readonly string[]) {
    this.#program = program;
    this.#argsOf = argsOf;
  }

  /** `args`: the plugin with its options, and filters. */
  static async nbdkit(...args: readonly string[]): Promise<NbdServer> {
    return await NbdServer.#startNew('nbdkit', (directory) => [
      ...['--foreground', '--exit-with-parent', '--threads', '4', '--unix', join(directory, 'socket'), ...args],
    ]);
  }

  /**
   * nbdkit over a file in the server's directory, so that a restart finds what was written. `args`: filters and their
   * options, in which DIRECTORY is that directory.
   */
  static async nbdkitFile(sizeBytes: number, ...args: readonly string[]): Promise<NbdServer> {
    return await NbdServer.#startNew(
      'nbdkit',
      (directory) => [
        ...['--foreground', '--exit-with-parent', '--threads', '4', '--unix', join(directory, 'socket')],
        ...args.filter((arg) => arg.startsWith('--')),
        ...['file', join(directory, 'disk')],
        ...args.filter((arg) => !arg.startsWith('--')).map((arg) => arg.replace('DIRECTORY', directory)),
      ],
      sizeBytes,
    );
  }

  /** nbdkit over a file, with TLS only. `makeCertificates` puts them into the directory. */
  static async nbdkitTls(sizeBytes: number, makeCertificates: (directory: string) => void): Promise<NbdServer> {
    let isMade = false;
    return await NbdServer.#startNew(
      'nbdkit',
      (directory) => {
        if (!isMade) makeCertificates(directory);
        isMade = true;
        return [
          ...['--foreground', '--exit-with-parent', '--unix', join(directory, 'socket'), '--tls=require'],
          ...[`--tls-certificates=${directory}`, 'file', join(directory, 'disk')],
        ];
      },
      sizeBytes,
    );
  }

  /** qemu-nbd over a raw file. */
  static async qemuNbd(sizeBytes: number, ...args: readonly string[]): Promise<NbdServer> {
    return await NbdServer.#startNew(
      'qemu-nbd',
      (directory) => [
        ...['--format=raw', '--persistent', '--shared=16', '--discard=unmap', `--socket=${join(directory, 'socket')}`],
        ...['--export-name=disk', ...args, join(directory, 'disk')],
      ],
      sizeBytes,
    );
  }

  static async #startNew(
    program: string,
    argsOf: (directory: string) => readonly string[],
    sizeBytes = 0,
  ): Promise<NbdServer> {
    const server = new NbdServer(program, argsOf);
    if (sizeBytes > 0) {
      writeFileSync(server.filePath, '');
      truncateSync(server.filePath, sizeBytes);
    }
    await server.start();
    return server;
  }

  /** The file behind it, if it has one. */
  get filePath(): string {
    return join(this.directory, 'disk');
  }

  get socketPath(): string {
    return join(this.directory, 'socket');
  }

  /** Resolves when it has ended by itself. */
  async ended(): Promise<void> {
    await this.#child?.exited;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  uri(exportName = this.#program === 'qemu-nbd' ? 'disk' : ''): string {
    return `nbd+unix:///${exportName}?socket=${this.socketPath}`;
  }

  /** Starts it again after `kill`. */
  async start(): Promise<void> {
    const child = new TestChild(this.#program, this.#program, [...this.#argsOf(this.directory)]);
    this.#child = child;
    let hasEnded = false;
    void child.exited.then(() => {
      hasEnded = true;
    });
    await waitUntil(() => hasEnded || existsSync(this.socketPath), START_MAX_MS, `${this.#program}'s socket`);
    if (hasEnded) throw new Error(`${this.#program} ended:\n${child.tail()}`);
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
}
