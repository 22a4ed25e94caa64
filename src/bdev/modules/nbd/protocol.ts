/** The NBD protocol as a client needs it (the NBD project's doc/proto.md). All numbers are big-endian. */

/** "NBDMAGIC", "IHAVEOPT" and the magic of option replies, as pairs of words. */
export const Magic = {
  greeting: [0x4e42_444d, 0x4147_4943],
  option: [0x4948_4156, 0x454f_5054],
  optionReply: [0x0003_e889, 0x0455_65a9],
} as const;
export const REQUEST_MAGIC = 0x2560_9513;
export const SIMPLE_REPLY_MAGIC = 0x6744_6698;
export const CHUNK_MAGIC = 0x668e_33ef;

export const GREETING_BYTES = 18;
export const OPTION_BYTES = 16;
export const OPTION_REPLY_BYTES = 20;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_BYTES = 20;

/** In the greeting and in the client's answer to it. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const OptionCode = { startTls: 5, go: 7, structuredReply: 8 } as const;
export const OptionReply = { ack: 1, info: 3 } as const;
/** Replies above are errors. */
export const OPTION_ERROR = 0x8000_0000;
const OPTION_ERRORS: Readonly<Record<number, string>> = {
  1: 'it does not know the option',
  2: 'its policy forbids it',
  3: 'it finds the option invalid',
  4: 'its platform cannot do it',
  5: 'it wants TLS: use nbds://',
  6: 'it has no such export',
  7: 'it is shutting down',
  8: 'it wants a client that keeps to its block sizes',
  9: 'the option is too long',
};

export function optionErrorText(type: number): string {
  return OPTION_ERRORS[type - OPTION_ERROR] ?? `it answered error ${type - OPTION_ERROR}`;
}

export const InfoType = { export: 0, blockSize: 3 } as const;

/** What an export can do. */
export const ExportFlag = {
  readOnly: 1 << 1,
  flush: 1 << 2,
  trim: 1 << 5,
  writeZeroes: 1 << 6,
  multiConn: 1 << 8,
} as const;

export const Command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6 } as const;

export const CHUNK_DONE = 1;
export const ChunkType = { none: 0, data: 1, hole: 2 } as const;
/** Types from here on are errors. */
export const CHUNK_ERROR = 1 << 15;
/** Of an error chunk: the error and the length of its text. */
export const CHUNK_ERROR_BYTES = 6;
/** Errors may have a text, which nobody needs. */
export const CHUNK_TEXT_MAX = 4096 + 64;

/** The server shuts down: the request is for the next one. */
export const ESHUTDOWN = 108;

/** The most that a server must take that says nothing about it. */
export const PAYLOAD_BYTES_MAX = 32 * 2 ** 20;
/** Ranges that carry no data go in pieces of so much at most. */
export const RANGE_BYTES_MAX = 2 ** 30;
/** Names of exports. */
export const NAME_BYTES_MAX = 4096;
