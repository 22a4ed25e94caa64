/**
 * The fixed newstyle handshake up to an open export, on a stream that its owner drives: STARTTLS if wanted, structured
 * replies where the server has them, and NBD_OPT_GO. Whatever a server sends is checked; what is wrong ends it.
 */
import type { NbdStream } from './nbd-stream.ts';
import {
  GREETING_BYTES,
  HandshakeFlag,
  InfoType,
  Magic,
  NAME_BYTES_MAX,
  OPTION_BYTES,
  OPTION_ERROR,
  OPTION_REPLY_BYTES,
  OptionCode,
  OptionReply,
  optionErrorText,
  PAYLOAD_BYTES_MAX,
} from './protocol.ts';

/** An export as its server describes it. */
export interface ExportInfo {
  readonly sizeBytes: number;
  /** `ExportFlag`s. */
  readonly flags: number;
  readonly hasStructuredReplies: boolean;
  readonly blockBytesMin: number;
  readonly blockBytesPreferred: number;
  /** Of one request with data. */
  readonly payloadBytesMax: number;
}

/** What `step` wants next. */
export type HandshakeStep = 'more' | 'tls' | 'done' | 'failed';

/** The longest reply to an option that is looked at. */
const REPLY_BYTES_MAX = 16 * 1024;
const TWO_32 = 2 ** 32;
/** Room that the options need in the stream's own bytes. */
export const HANDSHAKE_BYTES = 4 + 2 * OPTION_BYTES + 16 + NAME_BYTES_MAX;

type State = 'greeting' | 'tls' | 'structured' | 'go' | 'over';

export class Handshake {
  /** Why it failed, for people. */
  reason = '';
  /** Once it is done. */
  info: ExportInfo | null = null;
  readonly #stream: NbdStream;
  /** Where in the stream's own bytes ours begin. */
  readonly #base: number;
  readonly #name: Buffer;
  readonly #wantsTls: boolean;
  #state: State = 'greeting';
  #used = 0;
  #hasStructured = false;
  #size = -1;
  #flags = 0;
  #blockSizes: readonly [min: number, preferred: number, max: number] = [1, 4096, PAYLOAD_BYTES_MAX];

  constructor(stream: NbdStream, base: number, name: string, wantsTls: boolean) {
    this.#stream = stream;
    this.#base = base;
    this.#name = Buffer.from(name);
    this.#wantsTls = wantsTls;
  }

  /** Goes on with what was received. `tls`: put TLS around the stream, then call `secured`. */
  step(): HandshakeStep {
    for (;;) {
      const step = this.#state === 'greeting' ? this.#greeting() : this.#reply();
      if (step !== 'next') return step;
    }
  }

  /** TLS is there. */
  secured(): void {
    this.#sendStructured();
  }

  #greeting(): HandshakeStep | 'next' {
    const { inputView: view, start, available } = this.#stream;
    if (available < GREETING_BYTES) return 'more';
    if (!this.#hasMagic(start, Magic.greeting) || !this.#hasMagic(start + 8, Magic.option)) {
      return this.#fail('it does not speak NBD, or only its oldstyle');
    }
    const flags = view.getUint16(start + 16);
    if ((flags & HandshakeFlag.fixedNewstyle) === 0) return this.#fail('it is too old: no fixed newstyle handshake');
    this.#stream.start += GREETING_BYTES;
    const own = this.#stream.view;
    own.setUint32(this.#base, flags & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes));
    this.#stream.queue(this.#base, 4);
    this.#used = 4;
    if (this.#wantsTls) {
      this.#state = 'tls';
      this.#sendOption(OptionCode.startTls, 0);
    } else {
      this.#sendStructured();
    }
    return 'next';
  }

  #reply(): HandshakeStep | 'next' {
    const stream = this.#stream;
    const { inputView: view, start } = stream;
    if (this.#state === 'over') return 'done';
    if (stream.available < OPTION_REPLY_BYTES) return 'more';
    const option = view.getUint32(start + 8);
    const type = view.getUint32(start + 12);
    const length = view.getUint32(start + 16);
    if (!this.#hasMagic(start, Magic.optionReply)) return this.#fail('its answer is no option reply');
    if (length > REPLY_BYTES_MAX) return this.#fail(`its answer of ${length} bytes is too long`);
    if (stream.available < OPTION_REPLY_BYTES + length) return 'more';
    stream.start += OPTION_REPLY_BYTES + length;
    if (option !== this.#expectedOption) return this.#fail(`it answers option ${option}, which was not asked`);
    if (this.#state === 'structured') {
      if (type !== OptionReply.ack && type < OPTION_ERROR) return this.#fail('its answer makes no sense');
      this.#hasStructured = type === OptionReply.ack;
      this.#sendGo();
      return 'next';
    }
    if (type >= OPTION_ERROR) return this.#fail(optionErrorText(type));
    if (this.#state === 'tls') {
      if (type !== OptionReply.ack || stream.available > 0) return this.#fail('it sends more before TLS than it may');
      return 'tls';
    }
    if (type === OptionReply.info) return this.#takeInfo(start + OPTION_REPLY_BYTES, length);
    return type === OptionReply.ack ? this.#finish() : this.#fail('its answer makes no sense');
  }

  #takeInfo(at: number, length: number): HandshakeStep | 'next' {
    const { inputView: view } = this.#stream;
    if (length < 2) return this.#fail('its information is too short');
    const type = view.getUint16(at);
    if (type === InfoType.export) {
      if (length !== 12) return this.#fail('its information about the export has a wrong length');
      this.#size = view.getUint32(at + 2) * TWO_32 + view.getUint32(at + 6);
      this.#flags = view.getUint16(at + 10);
    } else if (type === InfoType.blockSize) {
      if (length !== 14) return this.#fail('its information about block sizes has a wrong length');
      this.#blockSizes = [view.getUint32(at + 2), view.getUint32(at + 6), view.getUint32(at + 10)];
    }
    return 'next';
  }

  #finish(): HandshakeStep {
    const [min, preferred, max] = this.#blockSizes;
    if (this.#size < 0) return this.#fail('it does not say how large the export is');
    if (!Number.isSafeInteger(this.#size)) return this.#fail('the export is larger than 2^53 bytes');
    const isPowerOfTwo = min > 0 && (min & (min - 1)) === 0;
    if (!isPowerOfTwo || max < min) return this.#fail(`its block sizes ${min}, ${preferred}, ${max} make no sense`);
    this.info = {
      sizeBytes: this.#size,
      flags: this.#flags,
      hasStructuredReplies: this.#hasStructured,
      blockBytesMin: min,
      blockBytesPreferred: preferred,
      payloadBytesMax: Math.min(max, PAYLOAD_BYTES_MAX),
    };
    this.#state = 'over';
    return 'done';
  }

  get #expectedOption(): number {
    if (this.#state === 'tls') return OptionCode.startTls;
    return this.#state === 'structured' ? OptionCode.structuredReply : OptionCode.go;
  }

  #sendStructured(): void {
    this.#state = 'structured';
    this.#used = 4;
    this.#sendOption(OptionCode.structuredReply, 0);
  }

  /** Asks for the export, and for its block sizes. */
  #sendGo(): void {
    this.#state = 'go';
    const data = Buffer.alloc(4 + this.#name.length + 4);
    data.writeUInt32BE(this.#name.length, 0);
    this.#name.copy(data, 4);
    data.writeUInt16BE(1, 4 + this.#name.length);
    data.writeUInt16BE(InfoType.blockSize, 6 + this.#name.length);
    this.#stream.bytes.set(data, this.#base + this.#used + OPTION_BYTES);
    this.#sendOption(OptionCode.go, data.length);
  }

  #sendOption(code: number, length: number): void {
    const at = this.#base + this.#used;
    const { view } = this.#stream;
    view.setUint32(at, Magic.option[0]);
    view.setUint32(at + 4, Magic.option[1]);
    view.setUint32(at + 8, code);
    view.setUint32(at + 12, length);
    this.#stream.queue(at, OPTION_BYTES + length);
    this.#used += OPTION_BYTES + length;
  }

  #hasMagic(at: number, magic: readonly [number, number]): boolean {
    const { inputView: view } = this.#stream;
    return view.getUint32(at) === magic[0] && view.getUint32(at + 4) === magic[1];
  }

  #fail(reason: string): HandshakeStep {
    this.reason = reason;
    this.#state = 'over';
    return 'failed';
  }
}
