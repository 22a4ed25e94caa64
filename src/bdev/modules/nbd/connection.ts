/** One connection to an NBD export, from connecting to the open export, driven by `step`. */
import { strerror } from '../../../base/errors.ts';
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../../../sys/events.ts';
import { ReadySet } from '../../../sys/ready-set.ts';
import type { StreamAddress } from '../../../sys/stream-socket.ts';
import { type ExportInfo, HANDSHAKE_BYTES, Handshake } from './handshake.ts';
import { NbdStream } from './nbd-stream.ts';
import { type TlsSettings, wrapInTls } from './tls.ts';

/** Where an export is, as plain data for a reactor. */
export interface ExportAddress {
  readonly server: StreamAddress;
  readonly exportName: string;
  /** Null: as the bytes are. */
  readonly tls: TlsSettings | null;
}

type State = 'closed' | 'opening' | 'securing' | 'ready';

export class NbdConnection {
  readonly stream: NbdStream;
  /** Of the export, once ready. */
  info: ExportInfo | null = null;
  /** Why it ended last, for people. */
  reason = '';
  readonly #ready = new ReadySet();
  /** Wakes who sleeps on `wakeFd` when there is something to do that no byte tells. */
  readonly #nudge = createEventFd();
  readonly #address: ExportAddress;
  readonly #handshakeAt: number;
  #state: State = 'closed';
  #handshake: Handshake | null = null;
  /** Of the TLS around the stream. */
  #endTls: (() => void) | null = null;
  #attempt = 0;

  /** `ownBytes` of the stream's `bytes` are the owner's. */
  constructor(address: ExportAddress, ownBytes: number) {
    this.#address = address;
    this.#handshakeAt = ownBytes;
    this.stream = new NbdStream(ownBytes + HANDSHAKE_BYTES);
    this.#ready.add(this.#nudge);
    this.#ready.watch(this.#nudge, true, false);
  }

  get isReady(): boolean {
    return this.#state === 'ready';
  }

  get isClosed(): boolean {
    return this.#state === 'closed';
  }

  /** Starts to connect. */
  open(): void {
    this.#state = 'opening';
    this.#attempt++;
    this.reason = '';
    const { exportName, server, tls } = this.#address;
    this.#handshake = new Handshake(this.stream, this.#handshakeAt, exportName, tls !== null);
    const { stream } = this;
    stream.open(server);
    if (stream.socket.isOpen) this.#ready.add(stream.socket.fd);
  }

  /** Readable, from `arm` to `disarm`, when `step` has something to do. */
  get wakeFd(): number {
    return this.#ready.fd;
  }

  arm(): void {
    const { socket, isFlushed } = this.stream;
    if (socket.isOpen) this.#ready.watch(socket.fd, true, !isFlushed);
  }

  disarm(): void {
    const { socket } = this.stream;
    if (socket.isOpen) this.#ready.watch(socket.fd, false, false);
    readEventFd(this.#nudge);
  }

  /** Whoever sleeps on `wakeFd` wakes up. */
  nudge(): void {
    signalEventFd(this.#nudge);
  }

  /** Goes on as far as it goes. What was received once it is ready is the owner's. */
  step(): void {
    const { stream } = this;
    if (this.#state === 'opening') {
      stream.receive();
      if (stream.available > 0) this.#shake();
    }
    if (this.#state === 'opening' || this.#state === 'ready') stream.flush();
    const { error } = stream.socket;
    if (error !== 0 && this.#state !== 'securing') this.close(`the connection ended: ${strerror(error)}`);
  }

  close(reason: string): void {
    if (this.#state === 'closed') return;
    this.reason = reason;
    this.#endTls?.();
    this.#endTls = null;
    this.#state = 'closed';
    this.stream.socket.close();
  }

  free(): void {
    this.close('it is not needed any more');
    this.#attempt++;
    this.stream.free();
    this.#ready.close();
    closeFd(this.#nudge);
  }

  #shake(): void {
    const handshake = this.#handshake as Handshake;
    const step = handshake.step();
    if (step === 'failed') this.close(handshake.reason);
    else if (step === 'tls') this.#secure(handshake);
    else if (step === 'done') {
      this.info = handshake.info;
      this.#state = 'ready';
    }
  }

  #secure(handshake: Handshake): void {
    const { tls } = this.#address;
    if (tls === null) return;
    this.#state = 'securing';
    const attempt = this.#attempt;
    const { socket } = this.stream;
    this.#ready.remove(socket.fd);
    const wrapped = wrapInTls(socket.release(), tls);
    this.#endTls = wrapped.end;
    wrapped.ready.then(
      (fd) => {
        if (attempt !== this.#attempt || this.#state !== 'securing') {
          wrapped.end();
          closeFd(fd);
          return;
        }
        socket.adopt(fd);
        this.#ready.add(fd);
        this.#state = 'opening';
        handshake.secured();
        this.stream.flush();
        this.nudge();
      },
      (error: Error) => {
        if (attempt !== this.#attempt) return;
        this.close(`TLS failed: ${error.message}`);
        this.nudge();
      },
    );
  }
}
