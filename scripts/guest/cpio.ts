/**
 * Writes cpio archives in the "newc" format, which the Linux kernel unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Several archives may follow one another in one file.
 */

const TYPE_DIRECTORY = 0o040000;
const TYPE_CHARACTER_DEVICE = 0o020000;
const TYPE_FILE = 0o100000;
const TYPE_SYMLINK = 0o120000;
const ALIGNMENT = 4;
const TRAILER = 'TRAILER!!!';

interface Node {
  readonly mode: number;
  readonly data: Uint8Array;
  readonly device: readonly [major: number, minor: number];
}

const EMPTY = new Uint8Array(0);
const NO_DEVICE = [0, 0] as const;

/** One archive. Paths are relative to the root, without a leading slash; parent directories are added by themselves. */
export class CpioArchive {
  readonly #nodes = new Map<string, Node>();

  addDirectory(path: string): void {
    this.#add(path, { mode: TYPE_DIRECTORY | 0o755, data: EMPTY, device: NO_DEVICE });
  }

  addFile(path: string, data: Uint8Array | string, { isExecutable = false } = {}): void {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
    this.#add(path, { mode: TYPE_FILE | (isExecutable ? 0o755 : 0o644), data: bytes, device: NO_DEVICE });
  }

  addSymlink(path: string, target: string): void {
    this.#add(path, { mode: TYPE_SYMLINK | 0o777, data: new TextEncoder().encode(target), device: NO_DEVICE });
  }

  addCharacterDevice(path: string, major: number, minor: number): void {
    this.#add(path, { mode: TYPE_CHARACTER_DEVICE | 0o600, data: EMPTY, device: [major, minor] });
  }

  has(path: string): boolean {
    return this.#nodes.has(path);
  }

  toBuffer(): Buffer {
    const parts: Uint8Array[] = [];
    let inode = 1;
    for (const [path, node] of this.#nodes) parts.push(...encodeNode(path, node, inode++));
    parts.push(...encodeNode(TRAILER, { mode: 0, data: EMPTY, device: NO_DEVICE }, 0));
    return Buffer.concat(parts);
  }

  #add(path: string, node: Node): void {
    const slash = path.lastIndexOf('/');
    const parent = slash > 0 ? path.slice(0, slash) : '';
    if (parent !== '' && !this.#nodes.has(parent)) this.addDirectory(parent);
    this.#nodes.set(path, node);
  }
}

function encodeNode(path: string, node: Node, inode: number): Uint8Array[] {
  const name = Buffer.from(`${path}\0`);
  const [major, minor] = node.device;
  // inode, mode, uid, gid, links, mtime, size, device of the file (2), device that it is (2), name size, checksum
  const fields = [inode, node.mode, 0, 0, 1, 0, node.data.length, 0, 0, major, minor, name.length, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return [Buffer.from(header), name, padding(header.length + name.length), node.data, padding(node.data.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT);
}
