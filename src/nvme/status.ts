/** What a completion says: 15 bits of status (NVMe base 2.0, §3.3.3.2), as they stand above the phase bit. */
import { TargetError } from '../base/errors.ts';

const TYPE_SHIFT = 8;
/** Do Not Retry. */
export const STATUS_DNR = 1 << 14;

/** Type and code of the states that are told apart here. */
export const Status = {
  success: 0x000,
  invalidOpcode: 0x001,
  invalidField: 0x002,
  abortRequested: 0x007,
  abortedQueueDeleted: 0x008,
  invalidNamespace: 0x00b,
  namespaceNotReady: 0x082,
  /** Path related: what one path cannot do another may. */
  pathInternal: 0x300,
  accessPersistentLoss: 0x301,
  accessInaccessible: 0x302,
  accessTransition: 0x303,
} as const;

const TEXTS: Readonly<Record<number, string>> = {
  0: 'success',
  1: 'invalid command opcode',
  2: 'invalid field in command',
  3: 'command identifier conflict',
  4: 'data transfer error',
  5: 'aborted by power loss',
  6: 'internal error',
  7: 'aborted by request',
  8: 'aborted because its queue was deleted',
  11: 'invalid namespace or format',
  12: 'command sequence error',
  19: 'invalid PRP offset',
  24: 'keep alive timer expired',
  29: 'sanitize in progress',
  32: 'namespace is write protected',
  128: 'LBA out of range',
  129: 'capacity exceeded',
  130: 'namespace not ready',
  131: 'reservation conflict',
  132: 'format in progress',
  256: 'completion queue invalid',
  257: 'invalid queue identifier',
  258: 'invalid queue size',
  261: 'asynchronous event request limit exceeded',
  265: 'invalid log page',
  269: 'feature not changeable',
  384: 'conflicting attributes, or incompatible format',
  386: 'invalid parameters of Connect',
  388: 'invalid host: the subsystem does not allow this host NQN',
  640: 'write fault',
  641: 'unrecovered read error',
  642: 'guard check error',
  645: 'compare failure',
  646: 'access denied',
  647: 'deallocated or unwritten block',
  768: 'internal path error',
  769: 'asymmetric access: persistent loss',
  770: 'asymmetric access: inaccessible',
  771: 'asymmetric access: transition',
};

/** Type and code, without the bits that say what to do next. */
export function statusCode(status: number): number {
  return status & 0x7ff;
}

/** `LBA out of range (status type 0, code 80h)`. */
export function statusText(status: number): string {
  const code = statusCode(status);
  const numbers = `status type ${code >>> TYPE_SHIFT}, code ${(code & 0xff).toString(16).padStart(2, '0')}h`;
  const text = TEXTS[code];
  return text === undefined ? numbers : `${text} (${numbers})`;
}

/** Throws unless a command of the control plane succeeded. */
export function checkStatus(status: number, what: string): void {
  if (statusCode(status) === Status.success) return;
  throw new TargetError('EIO', `${what}: ${statusText(status)}`, { fields: { status } });
}
