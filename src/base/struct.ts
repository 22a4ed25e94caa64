/**
 * Wire layouts as tables: `struct(name, size, fields)` checks that the field sizes add up to the size the specification
 * gives, and infers the TypeScript type. Little-endian, no implicit padding. For the control plane; the data path reads
 * words directly.
 */
import { AssertionError } from './assert.ts';

export interface FieldType<T> {
  readonly size: number;
  read(view: DataView, offset: number): T;
  write(view: DataView, offset: number, value: T): void;
}

export const u8: FieldType<number> = {
  size: 1,
  read: (view, offset) => view.getUint8(offset),
  write: (view, offset, value) => view.setUint8(offset, value),
};

export const u16: FieldType<number> = {
  size: 2,
  read: (view, offset) => view.getUint16(offset, true),
  write: (view, offset, value) => view.setUint16(offset, value, true),
};

export const u32: FieldType<number> = {
  size: 4,
  read: (view, offset) => view.getUint32(offset, true),
  write: (view, offset, value) => view.setUint32(offset, value, true),
};

/** A mask: every bit counts. */
export const u64: FieldType<bigint> = {
  size: 8,
  read: (view, offset) => view.getBigUint64(offset, true),
  write: (view, offset, value) => view.setBigUint64(offset, value, true),
};

/**
 * An address or a size as a Number. From 2^53 up the value is rounded: no such address exists, so it fails whatever
 * range check follows, as it must.
 */
export const addr64: FieldType<number> = {
  size: 8,
  read: (view, offset) => view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true),
  write: (view, offset, value) => {
    view.setUint32(offset, value % 2 ** 32, true);
    view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
  },
};

// biome-ignore lint/suspicious/noExplicitAny: each field has its own type, which StructValue infers again
export type Fields = Readonly<Record<string, FieldType<any>>>;
export type StructValue<F extends Fields> = { -readonly [K in keyof F]: F[K] extends FieldType<infer T> ? T : never };

export interface Struct<F extends Fields> {
  readonly name: string;
  readonly size: number;
  /** Reads the struct at `offset`; throws a RangeError when the bytes do not hold it. */
  decode(bytes: Uint8Array, offset?: number): StructValue<F>;
  encode(value: StructValue<F>, bytes?: Uint8Array, offset?: number): Uint8Array;
}

export function struct<F extends Fields>(name: string, size: number, fields: F): Struct<F> {
  const entries = Object.entries(fields);
  const total = entries.reduce((sum, [, type]) => sum + type.size, 0);
  if (total !== size) throw new AssertionError(`${name}: fields take ${total} bytes, not ${size}`);
  const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    name,
    size,
    decode(bytes, offset = 0) {
      const view = viewOf(bytes);
      const value: Record<string, unknown> = {};
      let at = offset;
      for (const [key, type] of entries) {
        value[key] = type.read(view, at);
        at += type.size;
      }
      return value as StructValue<F>;
    },
    encode(value, bytes = new Uint8Array(size), offset = 0) {
      const view = viewOf(bytes);
      let at = offset;
      for (const [key, type] of entries) {
        type.write(view, at, value[key as keyof F]);
        at += type.size;
      }
      return bytes;
    },
  };
}
