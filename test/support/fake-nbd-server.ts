/** An NBD server in this process that answers as a test tells it to: for what no real server does. */
import { createServer, type Server, type Socket } from 'node:net';

export interface NbdRequest {
  readonly command: number;
  readonly cookie: Buffer;
  readonly offset: number;
  readonly length: number;
}

export interface FakeNbdOptions {
  /** Instead of the greeting; empty: none at all. */
  readonly greeting?: Buffer;
  /** The greeting comes after it. `connection` counts from 1. */
  readonly beforeGreeting?: (connection: number) => Promise<void>;
  /** Instead of the answer to an option; null: the usual one. */
  readonly onOption?: (option: number) => Buffer | null;
  /** Instead of the answer to a request; null: the usual one. `connection` counts from 1. */
  readonly onRequest?: (request: NbdRequest, connection: number, socket: Socket) => Buffer | null;
  readonly hasStructuredReplies?: boolean;
}

const OPTION_STRUCTURED = 8;
const OPTION_GO = 7;
const FLAGS = 0x1 | 0x4 | 0x20 | 0x40 | 0x100;
const GREETING = Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1');

export class FakeNbdServer {
  readonly disk: Buffer;
  connections = 0;
  readonly #options: FakeNbdOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(sizeBytes: number, options: FakeNbdOptions) {
    this.disk = Buffer.alloc(sizeBytes);
    this.#options = options;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async listen(sizeBytes: number, options: FakeNbdOptions = {}): Promise<FakeNbdServer> {
    const server = new FakeNbdServer(sizeBytes, options);
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get uri(): string {
    const address = this.#server.address();
    return `nbd://127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}/any`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(socket: Socket): void {
    const connection = ++this.connections;
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
    const { greeting = GREETING, beforeGreeting } = this.#options;
    if (beforeGreeting === undefined) socket.write(greeting);
    else void beforeGreeting(connection).then(() => socket.write(greeting));
    let input = Buffer.alloc(0);
    let phase: 'flags' | 'options' | 'requests' = 'flags';
    socket.on('data', (bytes: Buffer) => {
      input = Buffer.concat([input, bytes]);
      for (;;) {
        const used: number =
          phase === 'flags'
            ? takeFlags(input)
            : phase === 'options'
              ? this.#takeOption(input, socket)
              : this.#takeRequest(input, socket, connection);
        if (used === 0) return;
        if (phase === 'flags') phase = 'options';
        else if (phase === 'options' && input.readUInt32BE(8) === OPTION_GO) phase = 'requests';
        input = input.subarray(used);
      }
    });
  }

  #takeOption(input: Buffer, socket: Socket): number {
    if (input.length < 16) return 0;
    const length = input.readUInt32BE(12);
    if (input.length < 16 + length) return 0;
    const option = input.readUInt32BE(8);
    const { onOption, hasStructuredReplies = true } = this.#options;
    const answer = onOption?.(option) ?? null;
    if (answer !== null) socket.write(answer);
    else if (option === OPTION_STRUCTURED) socket.write(optionReply(option, hasStructuredReplies ? 1 : 0x8000_0001));
    else socket.write(Buffer.concat([exportInfo(this.disk.length), optionReply(OPTION_GO, 1)]));
    return 16 + length;
  }

  #takeRequest(input: Buffer, socket: Socket, connection: number): number {
    if (input.length < 28) return 0;
    const request: NbdRequest = {
      command: input.readUInt16BE(6),
      cookie: Buffer.from(input.subarray(8, 16)),
      offset: Number(input.readBigUInt64BE(16)),
      length: input.readUInt32BE(24),
    };
    const data = request.command === 1 ? request.length : 0;
    if (input.length < 28 + data) return 0;
    if (request.command === 2) socket.end();
    else {
      input.copy(this.disk, request.offset, 28, 28 + data);
      socket.write(this.#options.onRequest?.(request, connection, socket) ?? this.answer(request));
    }
    return 28 + data;
  }

  /** The usual one. */
  answer(request: NbdRequest): Buffer {
    const data = this.disk.subarray(request.offset, request.offset + request.length);
    if (this.#options.hasStructuredReplies === false) {
      return Buffer.concat([simpleReply(request.cookie), ...(request.command === 0 ? [data] : [])]);
    }
    return request.command === 0 ? dataChunk(request, request.offset, data, 1) : chunk(request.cookie, 1, 0);
  }
}

function takeFlags(input: Buffer): number {
  return input.length < 4 ? 0 : 4;
}

export function optionReply(option: number, type: number, data = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(0x0003_e889_0455_65a9n, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(data.length, 16);
  return Buffer.concat([head, data]);
}

export function exportInfo(sizeBytes: number | bigint, flags = FLAGS): Buffer {
  const data = Buffer.alloc(12);
  data.writeBigUInt64BE(BigInt(sizeBytes), 2);
  data.writeUInt16BE(flags, 10);
  return optionReply(OPTION_GO, 3, data);
}

export function simpleReply(cookie: Buffer, error = 0): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32BE(0x6744_6698, 0);
  head.writeUInt32BE(error, 4);
  cookie.copy(head, 8);
  return head;
}

/** A structured reply chunk; `length` may lie. */
export function chunk(
  cookie: Buffer,
  flags: number,
  type: number,
  data = Buffer.alloc(0),
  length = data.length,
): Buffer {
  const head = Buffer.alloc(20);
  head.writeUInt32BE(0x668e_33ef, 0);
  head.writeUInt16BE(flags, 4);
  head.writeUInt16BE(type, 6);
  cookie.copy(head, 8);
  head.writeUInt32BE(length, 16);
  return Buffer.concat([head, data]);
}

export function dataChunk({ cookie }: NbdRequest, offset: number, data: Uint8Array, flags: number): Buffer {
  const place = Buffer.alloc(8);
  place.writeBigInt64BE(BigInt(offset), 0);
  return chunk(cookie, flags, 1, Buffer.concat([place, data]));
}

export function holeChunk({ cookie }: NbdRequest, offset: number, length: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeBigInt64BE(BigInt(offset), 0);
  data.writeUInt32BE(length, 8);
  return chunk(cookie, flags, 2, data);
}

export function errorChunk({ cookie }: NbdRequest, flags: number, error: number, text = ''): Buffer {
  const data = Buffer.alloc(6 + text.length);
  data.writeUInt32BE(error, 0);
  data.writeUInt16BE(text.length, 4);
  data.write(text, 6);
  return chunk(cookie, flags, 0x8001, data);
}
