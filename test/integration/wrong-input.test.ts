/** Every command, given something wrong, says what it is and what to do next, on standard error, and fails. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const RINGHOST = join(import.meta.dirname, '../../bin/ringhost');

let daemon: RinghostDaemon;
let target: BlkTarget;
/** `@` in an argument is the daemon's directory. */
const at = (text: string): string => text.replaceAll('@', daemon.directory);

beforeAll(async () => {
  daemon = await RinghostDaemon.start();
  target = await daemon.create({ blockBytes: 512, sizeBytes: 1 << 20 });
  writeFileSync(at('@/text'), 'hello\n');
  writeFileSync(at('@/array.json'), '[]');
  writeFileSync(at('@/unknown.json'), '{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_foo"}]}]}');
  mkdirSync(at('@/directory'));
});

afterAll(async () => {
  await target.close();
  await daemon.close();
});

function run(args: string): Promise<{ code: number; stderr: string }> {
  return new Promise((resolve) => {
    const words = at(args).split(' ');
    execFile(process.execPath, [RINGHOST, ...words], (error, _, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stderr });
    });
  });
}

const SOCKET = '-s @/rpc.sock';
const NO_DAEMON = ['does not exist. Is ringhost running? Start it with -r PATH'] as const;
const RECORD = `record disk.1 ${SOCKET}`;

/** What is typed, and what the answer says. */
const CASES: readonly (readonly [args: string, ...said: string[]])[] = [
  ['frob', 'there is no command frob', 'ringhost --help lists the commands'],
  ['serve --frob', "unknown option '--frob'", 'ringhost --help'],
  ['serve /nowhere.ts', 'there is no file /nowhere.ts'],
  ['serve -m zz', 'a mask is hexadecimal (give 0x3, 0-3,8 or [0,1])'],
  ['serve -S /nowhere', '-S /nowhere is not a directory: create it first'],
  ['serve -r /nowhere/x -S @/directory', 'its directory does not exist: create it, or choose another path with -r'],
  [
    `serve -r @/rpc.sock -S @/directory`,
    'another process answers on it: stop that one, or choose another path with -r',
  ],
  ['serve -c /nowhere -r @/1 -S @/directory', 'there is no file /nowhere: ringhost rpc save_config writes one'],
  ['serve -c @/array.json -r @/2 -S @/directory', 'expected object, received array (docs/configuration.md shows one)'],
  ['serve --mode fast', 'Allowed choices are poll, adaptive, interrupt'],
  ['serve -s abc', 'give a whole number of MiB, such as 1024'],
  ['serve --http 9009', 'give an address and a port, such as 127.0.0.1:9009'],
  ['serve --http 0.0.0.0:0', 'give --http-token-file FILE, or listen on 127.0.0.1'],
  ['serve --http 0.0.0.0:0 --http-token-file /nowhere', 'openssl rand -hex 32 > /nowhere makes one'],
  ['serve --rpc-https 127.0.0.1:0', 'it needs --rpc-cert FILE, --rpc-key FILE and --rpc-token-file FILE'],
  ['serve --user no-such', 'this machine knows no such user: useradd --system no-such makes it'],
  ['serve --socket-mode 9', 'give an octal mode with which the owner can connect, such as 0660'],
  ['serve --log-level loud', 'choose of error, warning, notice, info, debug'],
  ['serve --trace-protocol vhost.0,', 'name controllers, such as vhost.0,vhost.1, or all'],
  ['serve --allow-path /tmp', '--allow-path is of use with --confine only'],
  ['serve --state-dir /nowhere/x -r @/3 -S @/directory', 'there is no directory /nowhere: create it first'],
  ['top -s /nowhere', ...NO_DAEMON],
  ['trace -s /nowhere', ...NO_DAEMON],
  ['record vhost.0 -o @/o -s /nowhere', ...NO_DAEMON],
  ['upgrade -s /nowhere', ...NO_DAEMON],
  ['erase Malloc0 -s /nowhere', ...NO_DAEMON],
  ['jobs -s /nowhere', ...NO_DAEMON],
  ['copy Malloc0', "missing required argument 'destination-bdev'", '(ringhost copy --help lists what it takes)'],
  ['qemu vhost.0 -s /nowhere', ...NO_DAEMON],
  ['config apply @/array.json -s /nowhere', 'expected object, received array'],
  ['rpc -s /nowhere bdev_get_bdevs', ...NO_DAEMON],
  ['top -s @/text', 'nobody answers on it. Is ringhost running? Its socket may be elsewhere: name it with -s PATH'],
  ['top -s localhost:1', 'RPC goes over TCP with TLS and a token only: https://HOST:PORT'],
  ['top -s https://localhost:1', 'give --token-file FILE with that of its operator'],
  ['top -s https://localhost:1 --token-file /nowhere', '--token-file: there is no file /nowhere'],
  [`top ${SOCKET} -d 0`, 'give 0.1 to 3600 seconds'],
  [
    `trace ${SOCKET} -o @/t --controller none`,
    'there is no controller "none": vhost_get_controllers lists those there are',
  ],
  [`trace ${SOCKET} -o @/t --type frob`, 'choose of read, write, flush'],
  [`trace ${SOCKET} -o @/t --slower-than 5`, 'give a time, such as 500us, 2ms or 1s'],
  [`trace ${SOCKET} -o /nowhere/t`, '-o: there is no directory /nowhere: create it first'],
  [`${RECORD} -o @/directory`, 'is a directory: name a file'],
  [RECORD, "required option '-o, --output <file>' not specified", '(ringhost record --help lists what it takes)'],
  [`replay /nowhere @/disk.1`, 'there is no file /nowhere: ringhost record makes recordings'],
  [`replay @/text @/disk.1`, 'it is not a recording: ringhost record makes one'],
  [`qemu none ${SOCKET}`, 'there is no controller none: there are disk.1'],
  [`rpc bdev_get_bdevs ${SOCKET}`, 'unknown flag: -s: it stands before the method: ringhost rpc -s … METHOD'],
  [`rpc -s @/rpc.sock bdev_get_bdev`, 'did you mean bdev_get_bdevs?'],
  [`rpc -s @/rpc.sock bdev_malloc_create`, 'missing: total_size, block_size', 'usage: ringhost rpc bdev_malloc_create'],
  [`rpc -s @/rpc.sock load_config -j /nowhere`, 'cannot read JSON from /nowhere: there is no file /nowhere'],
  [`config apply @/unknown.json ${SOCKET}`, 'there is no method bdev_foo: ringhost rpc --help lists those there are'],
  ['config apply', "missing required argument 'file'", '(ringhost config apply --help lists what it takes)'],
  ['setup config --devices nope', 'there is no PCI device nope: ringhost setup status lists the NVMe drives'],
  ['completion csh', 'Allowed choices are bash, zsh, fish'],
];

describe('a command that is given something wrong', () => {
  it.for(CASES)('ringhost %s', { concurrent: true }, async ([args, ...said]) => {
    const { code, stderr } = await run(args);
    expect(code).toBeGreaterThan(0);
    for (const text of said) expect(stderr).toContain(text);
    // No stack: it is not the program's fault.
    expect(stderr).not.toMatch(/^ +at .*:\d+:\d+\)?$/m);
  });

  it('ringhost top, when the daemon refuses its calls', async () => {
    const refusing = createServer((connection) => {
      // The client leaves in the middle of its calls.
      connection.on('error', () => {});
      connection.on('data', (chunk) => {
        for (const [, id] of chunk.toString().matchAll(/"id":\s*(\d+)/g)) {
          connection.write(`{"jsonrpc":"2.0","id":${id},"error":{"code":-32601,"message":"Method not found"}}`);
        }
      });
    });
    await new Promise<void>((resolve) => refusing.listen(at('@/refusing.sock'), resolve));
    const { code, stderr } = await run('top -s @/refusing.sock --once');
    await new Promise((resolve) => refusing.close(resolve));
    expect(code).toBe(1);
    expect(stderr).toMatch(/^ringhost top: .*Method not found.*\n$/);
  });

  it.each([
    ['trace', '--controller none -o'],
    ['record', 'none -o'],
  ])('ringhost %s makes no file, and leaves one that is there, when it is refused', async (command, args) => {
    const kept = at('@/text');
    for (const file of [at('@/unmade'), kept]) {
      expect((await run(`${command} ${SOCKET} ${args} ${file}`)).code).toBe(1);
    }
    expect(existsSync(at('@/unmade'))).toBe(false);
    expect(readFileSync(kept, 'utf8')).toBe('hello\n');
  });

  it('is one of all commands that take something', async () => {
    const { createProgram } = await import('../../src/cli/program.ts');
    const names = createProgram().commands.map((command) => command.name());
    const tried = new Set(CASES.map(([args]) => args.split(' ')[0]));
    // The other formats of `qemu`; what takes nothing that could be wrong; what cannot be called by hand.
    const others = ['libvirt', 'cloud-hypervisor', 'systemd', 'doctor', 'complete'];
    expect(names.filter((name) => !tried.has(name) && !others.includes(name))).toEqual([]);
  });
});
