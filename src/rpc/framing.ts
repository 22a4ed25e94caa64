/**
 * SPDK's framing of JSON-RPC: JSON values follow one another on the stream, pretty-printed or not, with no length and
 * no separator. The end of a value is where its grammar (RFC 8259) ends it, so every byte is looked at as it comes,
 * whatever the pieces it comes in. A byte that no JSON text could have at its place is an error at once, not when the
 * peer stops.
 *
 * There is no way to find the next value after an error: the parser then takes no more input.
 */
import { NESTING_MAX, NUMBER_MAX_CHARS, REQUEST_MAX_BYTES } from './limits.ts';

export interface FramingOptions {
  /** Longest value. Default: that of a request. */
  readonly maxBytes?: number;
  readonly maxDepth?: number;
  /** Whether integers that a double cannot hold become BigInt. Default: true. Else they are rounded. */
  readonly exactIntegers?: boolean;
}

export interface FramingError {
  readonly kind: 'syntax' | 'too_large' | 'too_deep';
  /** What is wrong and where, for the peer's operator. */
  readonly detail: string;
}

export interface ParsedInput {
  /** Complete values, in order. */
  readonly values: readonly unknown[];
  readonly error: FramingError | null;
}

/** What the next byte may be. */
const State = {
  top: 0,
  value: 1,
  valueOrEnd: 2,
  keyOrEnd: 3,
  key: 4,
  colon: 5,
  after: 6,
  string: 7,
  escape: 8,
  hex: 9,
  literal: 10,
  minus: 11,
  zero: 12,
  integer: 13,
  point: 14,
  fraction: 15,
  exponent: 16,
  exponentSign: 17,
  exponentDigits: 18,
  failed: 19,
} as const;
type State = (typeof State)[keyof typeof State];

const TAB = 0x09;
const LF = 0x0a;
const CR = 0x0d;
const SPACE = 0x20;
const QUOTE = 0x22;
const PLUS = 0x2b;
const COMMA = 0x2c;
const MINUS = 0x2d;
const POINT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const COLON = 0x3a;
const OPEN_ARRAY = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_ARRAY = 0x5d;
const LOWER_U = 0x75;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

const LITERALS: ReadonlyMap<number, Uint8Array> = new Map(
  ['true', 'false', 'null'].map((text) => [text.charCodeAt(0), Buffer.from(text)]),
);
const ESCAPES: ReadonlySet<number> = new Set(Buffer.from('"\\/bfnrt'));
const NO_BYTES = new Uint8Array(0);

/** Cuts a byte stream into JSON values. */
export class JsonStreamParser {
  readonly #maxBytes: number;
  readonly #exactIntegers: boolean;
  /** One entry a level: whether it is an object. */
  readonly #isObject: Uint8Array;
  #depth = 0;
  #state: State = State.top;
  #stringIsKey = false;
  #literal: Uint8Array = NO_BYTES;
  /** Characters seen of the literal, the hexadecimal escape or the number. */
  #tokenLength = 0;
  /** Bytes of the unfinished value that came in earlier pieces. */
  #pieces: Uint8Array[] = [];
  #pieceBytes = 0;
  #error: FramingError | null = null;

  constructor(options: FramingOptions = {}) {
    this.#maxBytes = options.maxBytes ?? REQUEST_MAX_BYTES;
    this.#isObject = new Uint8Array(options.maxDepth ?? NESTING_MAX);
    this.#exactIntegers = options.exactIntegers ?? true;
  }

  /** Whether the input so far ends within a value. */
  get isPartial(): boolean {
    return this.#state !== State.top && this.#state !== State.failed;
  }

  /** Takes the next piece of the stream. Never throws; after an error all further input is ignored. */
  push(chunk: Uint8Array): ParsedInput {
    const values: unknown[] = [];
    let start = 0;
    let index = 0;
    while (index < chunk.length && this.#error === null) {
      const byte = chunk[index] as number;
      if (this.#state === State.top) {
        start = index;
        this.#openValue(byte, true);
        index++;
        continue;
      }
      // A number alone ends with the byte after it, which is looked at again as the start of something new.
      if (this.#depth === 0 && this.#isCompleteNumber() && !isNumberByte(byte)) {
        this.#finish(chunk.subarray(start, index), values);
        continue;
      }
      this.#step(byte);
      index++;
      if (this.#state === State.after && this.#depth === 0) this.#finish(chunk.subarray(start, index), values);
      else if (this.#pieceBytes + index - start > this.#maxBytes) this.#failTooLarge();
    }
    if (this.isPartial) {
      // Copied, which `slice` of a Buffer would not do: the caller may use the chunk's memory again.
      this.#pieces.push(new Uint8Array(chunk.subarray(start, index)));
      this.#pieceBytes += index - start;
    }
    return { values, error: this.#error };
  }

  /** The stream has ended: a number alone is complete now. */
  end(): ParsedInput {
    const values: unknown[] = [];
    if (this.#error === null && this.#depth === 0 && this.#isCompleteNumber()) this.#finish(NO_BYTES, values);
    return { values, error: this.#error };
  }

  #finish(last: Uint8Array, values: unknown[]): void {
    const bytes = this.#pieces.length === 0 ? last : Buffer.concat([...this.#pieces, last]);
    this.#pieces = [];
    this.#pieceBytes = 0;
    this.#state = State.top;
    try {
      values.push(parseJson(bytes, this.#exactIntegers));
    } catch (error) {
      this.#fail('syntax', error instanceof Error ? error.message : String(error));
    }
  }

  #fail(kind: FramingError['kind'], detail: string): void {
    this.#error = { kind, detail };
    this.#state = State.failed;
    this.#pieces = [];
  }

  #failTooLarge(): void {
    this.#fail('too_large', `one JSON value may have at most ${this.#maxBytes} bytes: send smaller requests`);
  }

  #failByte(byte: number): void {
    const shown = byte > SPACE && byte < 0x7f ? `'${String.fromCharCode(byte)}'` : `byte 0x${byte.toString(16)}`;
    this.#fail('syntax', `${shown} cannot stand here in a JSON text`);
  }

  #step(byte: number): void {
    switch (this.#state) {
      case State.string:
        this.#inString(byte);
        return;
      case State.escape:
        if (byte === LOWER_U) {
          this.#state = State.hex;
          this.#tokenLength = 0;
        } else if (ESCAPES.has(byte)) this.#state = State.string;
        else this.#failByte(byte);
        return;
      case State.hex:
        if (!isHexDigit(byte)) this.#failByte(byte);
        else if (++this.#tokenLength === 4) this.#state = State.string;
        return;
      case State.literal:
        if (byte !== this.#literal[this.#tokenLength]) this.#failByte(byte);
        else if (++this.#tokenLength === this.#literal.length) this.#state = State.after;
        return;
      default:
        if (this.#state >= State.minus) this.#inNumber(byte);
        else if (!isSpace(byte)) this.#structural(byte);
    }
  }

  #inString(byte: number): void {
    if (byte === QUOTE) this.#state = this.#stringIsKey ? State.colon : State.after;
    else if (byte === BACKSLASH) this.#state = State.escape;
    else if (byte < SPACE) this.#failByte(byte);
  }

  #structural(byte: number): void {
    switch (this.#state) {
      case State.value:
        this.#openValue(byte, false);
        return;
      case State.valueOrEnd:
        if (byte === CLOSE_ARRAY) this.#close();
        else this.#openValue(byte, false);
        return;
      case State.keyOrEnd:
      case State.key:
        if (byte === QUOTE) {
          this.#state = State.string;
          this.#stringIsKey = true;
        } else if (byte === CLOSE_OBJECT && this.#state === State.keyOrEnd) this.#close();
        else this.#failByte(byte);
        return;
      case State.colon:
        if (byte === COLON) this.#state = State.value;
        else this.#failByte(byte);
        return;
      default:
        this.#afterValue(byte);
    }
  }

  #afterValue(byte: number): void {
    const inObject = this.#isObject[this.#depth - 1] === 1;
    if (byte === COMMA) this.#state = inObject ? State.key : State.value;
    else if (byte === (inObject ? CLOSE_OBJECT : CLOSE_ARRAY)) this.#close();
    else this.#failByte(byte);
  }

  #openValue(byte: number, skipSpace: boolean): void {
    const literal = LITERALS.get(byte);
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) this.#open(byte === OPEN_OBJECT);
    else if (byte === QUOTE) {
      this.#state = State.string;
      this.#stringIsKey = false;
    } else if (literal !== undefined) {
      this.#state = State.literal;
      this.#literal = literal;
      this.#tokenLength = 1;
    } else if (byte === MINUS || isDigit(byte)) {
      this.#state = byte === MINUS ? State.minus : byte === ZERO ? State.zero : State.integer;
      this.#tokenLength = 1;
    } else if (!(skipSpace && isSpace(byte))) this.#failByte(byte);
  }

  #open(isObject: boolean): void {
    if (this.#depth === this.#isObject.length) {
      this.#fail('too_deep', `arrays and objects may be nested at most ${this.#isObject.length} deep`);
      return;
    }
    this.#isObject[this.#depth++] = isObject ? 1 : 0;
    this.#state = isObject ? State.keyOrEnd : State.valueOrEnd;
  }

  #close(): void {
    this.#depth--;
    this.#state = State.after;
  }

  #isCompleteNumber(): boolean {
    const state = this.#state;
    return (
      state === State.zero || state === State.integer || state === State.fraction || state === State.exponentDigits
    );
  }

  #inNumber(byte: number): void {
    if (!isNumberByte(byte)) {
      // Within a container the number ends here, and this byte belongs to the container.
      if (!this.#isCompleteNumber()) this.#failByte(byte);
      else {
        this.#state = State.after;
        if (!isSpace(byte)) this.#structural(byte);
      }
      return;
    }
    const next = nextInNumber(this.#state, byte);
    if (next === State.failed) this.#failByte(byte);
    else if (++this.#tokenLength > NUMBER_MAX_CHARS) {
      this.#fail('syntax', `a number may have at most ${NUMBER_MAX_CHARS} characters`);
    } else this.#state = next;
  }
}

function nextInNumber(state: State, byte: number): State {
  const isExponent = byte === 0x65 || byte === 0x45;
  if (isDigit(byte)) {
    if (state === State.minus) return byte === ZERO ? State.zero : State.integer;
    if (state === State.zero) return State.failed;
    if (state === State.point) return State.fraction;
    if (state === State.exponent || state === State.exponentSign) return State.exponentDigits;
    return state;
  }
  if (byte === POINT) return state === State.zero || state === State.integer ? State.point : State.failed;
  if (isExponent) {
    return state === State.zero || state === State.integer || state === State.fraction ? State.exponent : State.failed;
  }
  return state === State.exponent ? State.exponentSign : State.failed;
}

function isSpace(byte: number): boolean {
  return byte === SPACE || byte === LF || byte === CR || byte === TAB;
}

function isDigit(byte: number): boolean {
  return byte >= ZERO && byte <= NINE;
}

function isHexDigit(byte: number): boolean {
  return isDigit(byte) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66);
}

function isNumberByte(byte: number): boolean {
  return isDigit(byte) || byte === POINT || byte === MINUS || byte === PLUS || byte === 0x65 || byte === 0x45;
}

/** A byte order mark is not white space in JSON, so it is not dropped. */
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** `context.source` is the text of the number (ECMAScript "JSON.parse source text access"). */
function exactIntegers(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  const source = context?.source ?? '';
  return /^-?\d+$/.test(source) ? BigInt(source) : value;
}

/** Throws a `SyntaxError` or, for bytes that are not UTF-8, a `TypeError`. */
function parseJson(bytes: Uint8Array, exact: boolean): unknown {
  const text = utf8.decode(bytes);
  return exact && /\d{16}/.test(text) ? JSON.parse(text, exactIntegers) : JSON.parse(text);
}

/** Not yet in TypeScript's library: JSON text that `JSON.stringify` copies as it is. */
const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };

/** For `JSON.stringify`: a BigInt as a plain integer. */
export function writeBigInt(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? rawJSON(value.toString()) : value;
}

/**
 * JSON text in ASCII, BigInts as plain integers. SPDK escapes all else, and rpc.py relies on it: it decodes what it
 * receives in pieces of 4096 bytes and loses a piece that ends within a character.
 */
export function encodeJson(value: unknown, indent?: number): string {
  const text = JSON.stringify(value, writeBigInt, indent);
  return text.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
