/**
 * The one error class of Ringhost. Match on `code`, never on the message.
 *
 * Not for the data path: what a guest gets wrong is a status byte, sense data or a stopped session, not an exception.
 */

/** Negative Linux errno values that the control plane reports (asm-generic/errno-base.h, errno.h). */
export const Errno = {
  EPERM: -1,
  ENOENT: -2,
  EINTR: -4,
  EIO: -5,
  ENXIO: -6,
  EBADF: -9,
  EAGAIN: -11,
  ENOMEM: -12,
  EACCES: -13,
  EFAULT: -14,
  EBUSY: -16,
  EEXIST: -17,
  ENODEV: -19,
  EINVAL: -22,
  ENFILE: -23,
  EMFILE: -24,
  EFBIG: -27,
  ENOSPC: -28,
  EROFS: -30,
  EPIPE: -32,
  ERANGE: -34,
  ENAMETOOLONG: -36,
  ENOSYS: -38,
  EOVERFLOW: -75,
  ENOTSUP: -95,
  EADDRINUSE: -98,
  ECONNRESET: -104,
  ESHUTDOWN: -108,
  ETIMEDOUT: -110,
  ECONNREFUSED: -111,
  EDQUOT: -122,
  ECANCELED: -125,
} as const;

export type ErrnoName = keyof typeof Errno;

/** The text of strerror(3) for each value above, as SPDK's clients expect it in RPC error messages. */
const STRERROR: Record<ErrnoName, string> = {
  EPERM: 'Operation not permitted',
  ENOENT: 'No such file or directory',
  EINTR: 'Interrupted system call',
  EIO: 'Input/output error',
  ENXIO: 'No such device or address',
  EBADF: 'Bad file descriptor',
  EAGAIN: 'Resource temporarily unavailable',
  ENOMEM: 'Cannot allocate memory',
  EACCES: 'Permission denied',
  EFAULT: 'Bad address',
  EBUSY: 'Device or resource busy',
  EEXIST: 'File exists',
  ENODEV: 'No such device',
  EINVAL: 'Invalid argument',
  ENFILE: 'Too many open files in system',
  EMFILE: 'Too many open files',
  EFBIG: 'File too large',
  ENOSPC: 'No space left on device',
  EROFS: 'Read-only file system',
  EPIPE: 'Broken pipe',
  ERANGE: 'Numerical result out of range',
  ENAMETOOLONG: 'File name too long',
  ENOSYS: 'Function not implemented',
  EOVERFLOW: 'Value too large for defined data type',
  ENOTSUP: 'Operation not supported',
  EADDRINUSE: 'Address already in use',
  ECONNRESET: 'Connection reset by peer',
  ESHUTDOWN: 'Cannot send after transport endpoint shutdown',
  ECONNREFUSED: 'Connection refused',
  ETIMEDOUT: 'Connection timed out',
  EDQUOT: 'Disk quota exceeded',
  ECANCELED: 'Operation canceled',
};

const NAME_BY_ERRNO = new Map<number, ErrnoName>(
  (Object.entries(Errno) as [ErrnoName, number][]).map(([name, value]) => [value, name]),
);

/** Name of a negative errno (`-16` gives `'EBUSY'`), or `'EIO'` when it has no row above. */
export function errnoName(errno: number): ErrnoName {
  return NAME_BY_ERRNO.get(errno) ?? 'EIO';
}

/** The text of strerror(3) for a negative errno. */
export function strerror(errno: number): string {
  const name = NAME_BY_ERRNO.get(errno);
  return name === undefined ? `Unknown error ${-errno}` : STRERROR[name];
}

export interface TargetErrorOptions {
  /** Negative errno for RPC. Default: the value that `code` names, else `-EINVAL`. */
  readonly errno?: number;
  readonly cause?: unknown;
  /** Where it happened: `{ ctrlr: 'vhost.0', queue: 3 }`. Printed after the message, kept as fields. */
  readonly fields?: Readonly<Record<string, string | number | boolean>>;
}

/** An operating error: bad input, a missing file, a broken peer. `message` says what to do where that helps. */
export class TargetError extends Error {
  override readonly name = 'TargetError';
  /** Stable identifier: an errno name (`'EBUSY'`) or a room's own (`'VHOST_MSG_SIZE'`). */
  readonly code: string;
  /** Negative errno. */
  readonly errno: number;
  readonly fields: Readonly<Record<string, string | number | boolean>>;

  constructor(code: string, message: string, options: TargetErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.errno = options.errno ?? (Object.hasOwn(Errno, code) ? Errno[code as ErrnoName] : Errno.EINVAL);
    this.fields = options.fields ?? {};
  }
}

/** Turns the negative return value of a native call into a thrown `TargetError`; passes others through. */
export function checkErrno(result: number, what: string): number {
  if (result >= 0) return result;
  const code = errnoName(result);
  throw new TargetError(code, `${what}: ${strerror(result)}`, { errno: result });
}
