/** An image on a web server, in pieces as they are needed: `ringhost serve examples/http-image.ts url=http://…`. */
import { defineDisk } from 'ringhost';

const PIECE = 256 * 1024;

export default defineDisk(async ({ url = '', cachedPieces = '256' }) => {
  const head = await fetch(url, { method: 'HEAD' });
  const bytes = Number(head.headers.get('content-length'));
  if (!head.ok || head.headers.get('accept-ranges') !== 'bytes') throw new Error(`${url} cannot be read in ranges`);
  const pieces = new Map<number, Promise<Uint8Array>>();

  async function load(index: number): Promise<Uint8Array> {
    const last = Math.min((index + 1) * PIECE, bytes) - 1;
    const response = await fetch(url, { headers: { range: `bytes=${index * PIECE}-${last}` } });
    if (response.status !== 206) throw new Error(`${url} answered ${response.status} to a range`);
    return new Uint8Array(await response.arrayBuffer());
  }

  /** The piece that was used longest ago makes room. A piece that did not come is asked for again. */
  function pieceOf(index: number): Promise<Uint8Array> {
    const piece = pieces.get(index) ?? load(index);
    pieces.delete(index);
    pieces.set(index, piece);
    piece.catch(() => pieces.delete(index));
    const [oldest] = pieces.keys();
    if (pieces.size > Number(cachedPieces) && oldest !== undefined) pieces.delete(oldest);
    return piece;
  }

  return {
    size: bytes - (bytes % 512),

    async read(offset, buffers) {
      let at = offset;
      for (const buffer of buffers) {
        for (let done = 0; done < buffer.length; ) {
          const piece = await pieceOf(Math.floor(at / PIECE));
          const part = piece.subarray(at % PIECE, (at % PIECE) + buffer.length - done);
          if (part.length === 0) throw new Error(`${url} is shorter than it was`);
          buffer.set(part, done);
          done += part.length;
          at += part.length;
        }
      }
    },
  };
});
