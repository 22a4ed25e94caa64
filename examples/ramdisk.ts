/** A RAM disk: `ringhost serve examples/ramdisk.ts mib=256`. */
import { defineDisk } from 'ringhost';

export default defineDisk(({ mib = '64' }) => {
  const bytes = new Uint8Array(Number(mib) * 2 ** 20);
  return {
    size: bytes.length,
    isVolatile: true,

    read(offset, buffers) {
      let at = offset;
      for (const buffer of buffers) {
        buffer.set(bytes.subarray(at, at + buffer.length));
        at += buffer.length;
      }
    },

    write(offset, buffers) {
      let at = offset;
      for (const buffer of buffers) {
        bytes.set(buffer, at);
        at += buffer.length;
      }
    },

    discard(offset, length) {
      bytes.fill(0, offset, offset + length);
    },
  };
});
