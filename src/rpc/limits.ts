/** Limits of the RPC room. SPDK's figures are those of lib/jsonrpc/jsonrpc_internal.h and lib/json. */

/** Longest request. SPDK stops at 256 KiB; a batch that loads a large configuration may need more. */
export const REQUEST_MAX_BYTES = 4 * 1024 * 1024;

/** Longest answer that a client takes. */
export const RESPONSE_MAX_BYTES = 64 * 1024 * 1024;

/** Deepest nesting of arrays and objects, as SPDK's parser has it. */
export const NESTING_MAX = 64;

/** Longest number in characters: more digits carry no meaning and cost time to convert. */
export const NUMBER_MAX_CHARS = 128;

/** Requests in one batch array. */
export const BATCH_MAX = 4096;

/** Open connections. SPDK takes 64 and lets others wait; monitoring of many hosts needs more. */
export const CONNECTIONS_MAX = 2048;

/** Requests of one connection that wait for their turn, beyond which its input is no longer read. */
export const QUEUE_MAX = 128;

/** Requests of one connection that wait for an event (`waits` in the table), beyond which they are refused. */
export const WAITING_MAX = 64;

/** Bytes of answers that a client has not read, beyond which its requests are no longer read. */
export const OUTPUT_PAUSE_BYTES = 1024 * 1024;

/** Bytes of answers that a client has not read, beyond which it is disconnected. SPDK's largest answer is 32 MiB. */
export const OUTPUT_MAX_BYTES = 32 * 1024 * 1024;

/** A client that reads nothing for so long while its input is paused is disconnected. */
export const OUTPUT_STALL_MS = 60_000;

/** A client that has closed its sending side is disconnected after this time, answered or not. */
export const HALF_CLOSED_MS = 60_000;

/** Open connections over TCP. A client's library keeps one or two; everybody who can reach the port can open some. */
export const HTTPS_CONNECTIONS_MAX = 256;

/** A connection over TCP whose TLS handshake, or whose request's headers, take longer is closed. */
export const HTTPS_HEADERS_MS = 10_000;

/** A request over TCP that takes longer to come is refused. */
export const HTTPS_REQUEST_MS = 60_000;

/** A connection over TCP on which nothing is asked is closed after this time. */
export const HTTPS_IDLE_MS = 65_000;

/** `sizeof(sockaddr_un.sun_path)` less the terminating NUL (unix(7)). */
export const SOCKET_PATH_MAX_BYTES = 107;
