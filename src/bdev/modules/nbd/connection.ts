/**
 * One connection to an NBD export, from connecting to the open export, driven by whoever reaps its ring: `completed`
 * of the stream for each completion of its tags, then `step`.
 */
import { strerror } from '../../../base/errors.ts';
import { closeFd, signalEventFd } from '../../../sys/events.ts';
import type { IoUring } from '../../../sys/io-uring.ts';
import { type StreamAddress, StreamSocket } from '../../../sys/stream-socket.ts';
import { type ExportInfo, HANDSHAKE_BYTES, Handshake } from './handshake.ts';
import { type TlsSettings, wrapInTls } from './tls.ts';

/** Where an export is, as plain data for a reactor. */
export interface ExportAddress {
  readonly server: StreamAddress;
  readonly exportName: string;
  /** Null: as the bytes are. */
  readonly tls: TlsSettings | null;
}

type State = 'closed' | 'opening' | 'securing' | 'ready' | 'closing';

export class NbdConnection {
  readonly stream: StreamSocket;
  /** Of the export, once ready. */
  info: ExportInfo | null = null;
  /** Why it ended last, for people. */
  reason = '';
  readonly #ring: IoUring;
  readonly #address: ExportAddress;
  readonly #handshakeAt: number;
  #state: State = 'closed';
  #handshake: Handshake | null = null;
  /** Of the TLS around the stream. */
  #endTls: (() => void) | null = null;
  #attempt = 0;

  /** `ownBytes` of the stream's `bytes` are the owner's; tags of the ring from `firstTag` on are the stream's. */
  constructor(ring: IoUring, address: ExportAddress, ownBytes: number, firstTag: number) {
    this.#ring = ring;
    this.#address = address;
    this.#handshakeAt = ownBytes;
    this.stream = new StreamSocket(ring, { firstTag, ownBytes: ownBytes + HANDSHAKE_BYTES });
  }

  get isReady(): boolean {
    return this.#state === 'ready';
  }

  /** Nothing of it is in the ring. */
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
    this.stream.open(server);
  }

  /** Goes on as far as it goes. What was received once it is ready is the owner's. */
  step(): void {
    const { stream } = this;
    if (this.#state === 'opening' && stream.available > 0) this.#shake();
    if (stream.error !== 0 && this.#state !== 'securing') this.close(`the connection ended: ${strerror(stream.error)}`);
    if (this.#state === 'closing' && !stream.isOpen) this.#state = 'closed';
    if (this.#state === 'opening' || this.#state === 'ready') stream.flush();
    if (this.#state === 'opening') stream.receive();
  }

  /** `isClosed` turns true with a later `step`. */
  close(reason: string): void {
    if (this.#state === 'closed' || this.#state === 'closing') return;
    this.reason = reason;
    this.#endTls?.();
    this.#endTls = null;
    this.#state = 'closing';
    this.stream.close();
  }

  /** The ring has nothing in flight. */
  free(): void {
    this.#attempt++;
    this.#endTls?.();
    this.stream.free();
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
    const wrapped = wrapInTls(this.stream.release(), tls);
    this.#endTls = wrapped.end;
    wrapped.ready.then(
      (fd) => {
        if (attempt !== this.#attempt || this.#state !== 'securing') {
          wrapped.end();
          closeFd(fd);
          return;
        }
        this.stream.adopt(fd);
        this.#state = 'opening';
        handshake.secured();
        this.stream.flush();
        this.stream.receive();
        signalEventFd(this.#ring.wakeFd);
      },
      (error: Error) => {
        if (attempt !== this.#attempt) return;
        this.close(`TLS failed: ${error.message}`);
        signalEventFd(this.#ring.wakeFd);
      },
    );
  }
}
