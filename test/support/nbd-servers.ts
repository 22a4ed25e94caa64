/** NBD servers that people have: nbdkit and qemu-nbd, on Unix sockets in directories of their own, or on TCP ports. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DiskServer } from './disk-server.ts';

/** There when a server has no socket file, and can be connected to. */
const READY_FILE = 'pid';

export class NbdServer extends DiskServer {
  readonly #argsOf: (directory: string) => readonly string[];

  private constructor(program: string, argsOf: (directory: string) => readonly string[]) {
    super(program, 'ringhost-nbd-');
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

  /** nbdkit's memory on a TCP port: no `uri` names it. */
  static async nbdkitTcp(host: string, port: number, sizeBytes: number): Promise<NbdServer> {
    return await NbdServer.#startNew('nbdkit', (directory) => [
      ...['--foreground', '--exit-with-parent', '--ipaddr', host, '--port', String(port)],
      ...['--pidfile', join(directory, READY_FILE), 'memory', String(sizeBytes)],
    ]);
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
    if (sizeBytes > 0) server.makeFile(sizeBytes);
    await server.start();
    return server;
  }

  uri(exportName = this.program === 'qemu-nbd' ? 'disk' : ''): string {
    return `nbd+unix:///${exportName}?socket=${this.socketPath}`;
  }

  protected override args(): readonly string[] {
    return this.#argsOf(this.directory);
  }

  protected override isReady(): boolean {
    return existsSync(this.socketPath) || existsSync(join(this.directory, READY_FILE));
  }
}
