/** What `ringhost` takes: commands and options. Their help, completion, man pages and docs/cli.md come from here. */
import { existsSync } from 'node:fs';
import { Argument, Command, Option } from 'commander';
import { ATTACH_FORMATS, type AttachFormat } from '../app/attach.ts';
import { VERSION } from '../app/version.ts';
import { clientSocketPath, DEFAULT_SOCKET_PATH } from '../rpc/client.ts';
import { completionScript, SHELLS, type Shell } from './completion-scripts.ts';
import type { ApplyFlags } from './config-command.ts';
import { type DaemonAccess, withDaemonAccess } from './daemon-access.ts';
import type { CopyOptions, EraseOptions, JobsOptions } from './job-commands.ts';
import type { RecordOptions } from './record-command.ts';
import type { ReplayOptions } from './replay-command.ts';
import type { ServeOptions } from './serve-command.ts';
import type { TraceOptions } from './trace-command.ts';

type ServeValues = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

/** Each command loads what carries it out when it runs. */
export function createProgram(): Command {
  const program = new Command('ringhost')
    .description('User-space vhost-user storage target: block devices for virtual machines.')
    .version(VERSION, '--version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .showHelpAfterError('(ringhost --help lists the options)');
  addServe(program);
  addSetup(program);
  addTop(program);
  addTrace(program);
  addRecord(program);
  addReplay(program);
  addErase(program);
  addCopy(program);
  addJobs(program);
  addUpgrade(program);
  addDoctor(program);
  for (const format of ATTACH_FORMATS) addAttach(program, format);
  program.command('rpc').description("call an RPC method, with the arguments of SPDK's rpc.py (ringhost rpc --help)");
  addConfig(program);
  addCompletion(program);
  for (const command of program.commands.flatMap((one) => [one, ...one.commands])) {
    if (command.name() !== 'serve') command.showHelpAfterError(`(${pathOf(command)} --help lists what it takes)`);
  }
  return program;
}

/** `ringhost config apply`. */
function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
}

/** A single word that names nothing: rather a command that is misspelt. */
function isNoFile(word: string): boolean {
  return /^[\w-]+$/.test(word) && !existsSync(word);
}

function addServe(program: Command): void {
  program
    .command('serve', { isDefault: true })
    .description('run the daemon (the default), or serve a disk that is written in TypeScript')
    .argument('[disk]', 'file with a disk: serve it, with sockets of its own (docs/write-a-bdev.md)')
    .argument('[key=value...]', 'what the disk is made with')
    .option('-S, --socket-directory <dir>', "directory of the controllers' sockets", '/var/tmp')
    .option(
      '-m, --core-mask <mask>',
      'cores to run reactors on: a hex mask (0x3) or a list (0-3,8 or [0,1]); default: the first',
    )
    .option('-s, --memory <MiB>', 'most memory for RAM disks; default: no limit')
    .option('-r, --rpc-socket <path>', 'RPC socket', DEFAULT_SOCKET_PATH)
    .option('-c, --config <file>', 'JSON configuration, in SPDK\'s "subsystems" format')
    .option('--json <file>', 'the same, as SPDK spells it')
    .option('--json-ignore-init-errors', 'start although calls of the configuration fail')
    .option('--state-dir <dir>', 'keep what RPC makes in this directory, and make it again at the next start')
    .option('--default-config', 'without -c: serve a 256 MiB RAM disk as vhost.0')
    .addOption(
      new Option('--mode <mode>', 'how reactors wait').choices(['poll', 'adaptive', 'interrupt']).default('adaptive'),
    )
    .option(
      '--socket-mode <mode>',
      'mode of the RPC socket and of controllers; default: 0600, with --socket-group 0660',
    )
    .option('--socket-group <group>', 'group of those sockets')
    .option('--user <name>', 'become this user when everything is started')
    .option('--confine', 'reach no files but those needed, and those of --allow-path (Landlock)')
    .option('--allow-path <path...>', 'with --confine: files and directories for disks and state')
    .option('--http <address:port>', 'serve the dashboard and /metrics there, such as 127.0.0.1:9009')
    .option('--http-token-file <file>', 'who has no token of this file gets nothing; needed where others can connect')
    .option('--rpc-https <address:port>', 'serve RPC over TCP there, with TLS and a token (docs/remote-rpc.md)')
    .option(
      '--rpc-cert <file>',
      'for it: the certificate (PEM), with those of its signers; read again at SIGHUP, as the next two',
    )
    .option('--rpc-key <file>', 'for it: the key of the certificate (PEM)')
    .option('--rpc-token-file <file>', 'for it: who has no token of this file gets nothing')
    .option('--log-level <levels>', 'error, warning, notice or debug; of parts of the daemon: vhost=debug,rpc=error')
    .option(
      '--trace-protocol <controllers>',
      'log the vhost-user messages of these, separated by commas, or of all, as people read them',
    )
    .addOption(new Option('--log-format <format>', 'default: text on a terminal').choices(['text', 'json']))
    .action(async (disk: string | undefined, pairs: readonly string[], options: ServeValues, command: Command) => {
      const isGiven = (name: string): boolean => command.getOptionValueSource(name) !== 'default';
      const hasOwnSockets = !isGiven('socketDirectory') && !isGiven('rpcSocket');
      if (options.allowPath !== undefined && options.confine !== true) {
        command.error('error: --allow-path is of use with --confine only: give both, or neither');
      }
      if (disk !== undefined && isNoFile(disk)) {
        command.error(
          `error: there is no command ${disk}, and no file with a disk: ringhost --help lists the commands`,
        );
      }
      const raw = { ...serveOptions(options), disk, diskOptions: pairs, hasOwnSockets };
      // Before the daemon's modules are loaded: the process may start again.
      if (options.confine === true) {
        const { confineProcess } = await import('../app/confinement.ts');
        confineProcess(raw, (options.allowPath ?? []) as readonly string[]);
      }
      const { runServeCommand } = await import('./serve-command.ts');
      process.exitCode = await runServeCommand(raw);
    });
}

function serveOptions(options: ServeValues): ServeOptions {
  return {
    socketDirectory: options.socketDirectory as string,
    coreMask: options.coreMask as string | undefined,
    memoryMib: options.memory as string | undefined,
    rpcSocket: options.rpcSocket as string,
    configFile: (options.config ?? options.json) as string | undefined,
    ignoreConfigErrors: options.jsonIgnoreInitErrors as boolean | undefined,
    stateDirectory: options.stateDir as string | undefined,
    defaultConfig: options.defaultConfig as boolean | undefined,
    mode: options.mode as string,
    socketMode: options.socketMode as string | undefined,
    socketGroup: options.socketGroup as string | undefined,
    user: options.user as string | undefined,
    http: options.http as string | undefined,
    httpTokenFile: options.httpTokenFile as string | undefined,
    rpcHttps: options.rpcHttps as string | undefined,
    rpcCert: options.rpcCert as string | undefined,
    rpcKey: options.rpcKey as string | undefined,
    rpcTokenFile: options.rpcTokenFile as string | undefined,
    traceProtocol: options.traceProtocol as string | undefined,
    logLevel: options.logLevel as string | undefined,
    logFormat: options.logFormat as string | undefined,
  };
}

function addAttach(program: Command, format: AttachFormat): void {
  const command = program
    .command(format)
    .description(`print how to attach a controller: for ${format}`)
    .argument('<controller>', 'such as vhost.0');
  withDaemonAccess(command).action(async (controller: string, daemon: DaemonAccess) => {
    const { runAttachCommand } = await import('./attach-command.ts');
    process.exitCode = await runAttachCommand(format, controller, daemon);
  });
}

function addUpgrade(program: Command): void {
  const command = program
    .command('upgrade')
    .description(
      'have a running daemon hand everything over to a new one, which guests do not notice (docs/upgrade.md)',
    )
    .argument('[args...]', "after --: arguments of the new daemon, such as serve -S DIR; default: the running one's");
  withDaemonAccess(command)
    .option('--exec <path>', 'the new program; default: the one that the running daemon was started as')
    .option('--max-pause <ms>', 'how long guests may wait at most: otherwise the running daemon serves on')
    .action(async (args: readonly string[], options: DaemonAccess & Record<string, string | undefined>) => {
      const { runUpgradeCommand } = await import('./upgrade-command.ts');
      const { exec, maxPause } = options;
      process.exitCode = await runUpgradeCommand({ daemon: options, exec, args, maxPause });
    });
}

function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('look at this machine for what keeps disks from working or from being fast, and say what to do')
    .option('-s, --socket <path>', 'RPC socket of the daemon', clientSocketPath())
    .action(async (options: { socket: string }) => {
      const { runDoctorCommand } = await import('./doctor-command.ts');
      process.exitCode = await runDoctorCommand(options.socket);
    });
}

function addTop(program: Command): void {
  const command = program
    .command('top')
    .description('what a running daemon does, once a second: reactors, controllers, queues, bdevs');
  withDaemonAccess(command)
    .option('-d, --delay <seconds>', 'between two looks', '1')
    .option('--once', 'look once, print it, and end; so does it without a terminal')
    .option('--json', 'the same as JSON')
    .action(async (options: DaemonAccess & Record<string, string | boolean | undefined>) => {
      const { runTopCommand } = await import('./top-command.ts');
      process.exitCode = await runTopCommand({
        daemon: options,
        delay: options.delay as string,
        isOnce: options.once === true,
        isJson: options.json === true,
      });
    });
}

function addTrace(program: Command): void {
  const command = program
    .command('trace')
    .description('requests of a running daemon, one by one, into a file for ui.perfetto.dev');
  withDaemonAccess(command)
    .option('--controller <name...>', 'only of these controllers')
    .option('--queue <number>', 'only of queues with this number')
    .option('--type <types>', 'only of these, separated by commas: read, write, flush, unmap, write_zeroes, other')
    .option('--from <bytes>', 'only what touches the disk from here on, such as 10G')
    .option('--to <bytes>', 'only what touches the disk below this')
    .option('--slower-than <time>', 'only what took at least so long, such as 500us or 2ms')
    .option('--seconds <seconds>', 'how long', '5')
    .option('-o, --output <file>', 'where to', 'trace.json')
    .action(async (options: TraceOptions) => {
      const { runTraceCommand } = await import('./trace-command.ts');
      process.exitCode = await runTraceCommand(options);
    });
}

function addRecord(program: Command): void {
  const command = program
    .command('record')
    .description('what a guest asks of its disk and when, without the data, into a file for replay')
    .argument('<controller>', 'such as vhost.0');
  withDaemonAccess(command)
    .option('--seconds <seconds>', 'how long; default: until it is interrupted')
    .option('--hash', 'add up what reads bring: replay --verify compares it')
    .requiredOption('-o, --output <file>', 'where to')
    .action(async (controller: string, options: RecordOptions) => {
      const { runRecordCommand } = await import('./record-command.ts');
      process.exitCode = await runRecordCommand(controller, options);
    });
}

function addReplay(program: Command): void {
  program
    .command('replay')
    .description('carry out a recording on a disk, and say how long that took')
    .argument('<file>', 'of ringhost record')
    .argument('<vhost-socket>', 'of a vhost-user-blk target, such as /var/tmp/vhost.0')
    .option('--speed <speed>', 'original: at the times of the recording; max: as fast as it can', 'original')
    .option('--depth <number>', 'requests in flight at most', '128')
    .option('--write', 'carry out requests that write, with a pattern: destroys what is on the disk')
    .option('--reads-only', 'leave out requests that write')
    .option('--verify', 'with --reads-only: compare what reads bring with what the guest read (record --hash)')
    .option('--json', 'the report as JSON')
    .action(async (file: string, socket: string, options: ReplayOptions) => {
      const { runReplayCommand } = await import('./replay-command.ts');
      process.exitCode = await runReplayCommand(file, socket, options);
    });
}

function addErase(program: Command): void {
  const command = program
    .command('erase')
    .description('make all blocks of a disk zeroes; interrupting it ends it')
    .argument('<bdev>', 'disk that nobody uses');
  withDaemonAccess(command)
    .option('--unmap', 'discard the blocks instead: fast, and no promise that nothing is left')
    .option('--limit <MiB/s>', 'bandwidth at most')
    .action(async (bdev: string, options: EraseOptions) => {
      const { runEraseCommand } = await import('./job-commands.ts');
      process.exitCode = await runEraseCommand(bdev, options);
    });
}

function addCopy(program: Command): void {
  const command = program
    .command('copy')
    .description('copy all blocks of a disk to another one; interrupting it ends it')
    .argument('<source-bdev>', 'disk to read')
    .argument('<destination-bdev>', 'disk to overwrite, which nobody uses');
  withDaemonAccess(command)
    .option('--limit <MiB/s>', 'bandwidth at most')
    .action(async (source: string, destination: string, options: CopyOptions) => {
      const { runCopyCommand } = await import('./job-commands.ts');
      process.exitCode = await runCopyCommand(source, destination, options);
    });
}

function addJobs(program: Command): void {
  const command = program
    .command('jobs')
    .description('long work that a running daemon does: erasing, copying, rebuilding; how far it is');
  withDaemonAccess(command)
    .option('--wait', 'until all of them have ended')
    .option('--json', 'as JSON')
    .action(async (options: JobsOptions) => {
      const { runJobsCommand } = await import('./job-commands.ts');
      process.exitCode = await runJobsCommand(options);
    });
}

function addSetup(program: Command): void {
  program
    .command('setup')
    .description("give the machine's NVMe drives to the daemon (config), show them (status), or give them back (reset)")
    .addArgument(new Argument('[action]', 'what to do').choices(['config', 'status', 'reset']).default('config'))
    .option('--devices <addresses>', 'PCI addresses, separated by commas; default: every NVMe drive')
    .option('--hugepages <MiB>', 'reserve so much memory in huge pages')
    .action(async (action: string, options: Record<string, string | undefined>) => {
      const { setUpHost } = await import('./setup-host.ts');
      process.exitCode = setUpHost(action, options.devices, options.hugepages);
    });
}

function addConfig(program: Command): void {
  const apply = program
    .command('config')
    .description('compare what there is with a configuration, and make it so')
    .command('apply')
    .description('make what there is what a configuration says, as a whole or not at all')
    .argument('<file>', 'JSON configuration, as save_config writes it')
    .option('--dry-run', 'only show what would be done')
    .option('--prune', 'take away what the file does not have')
    .option('--replace', 'take away and make again what is otherwise and cannot be changed, with what stands on it')
    .option('--json', 'show it as JSON');
  withDaemonAccess(apply).action(async (file: string, options: DaemonAccess & ApplyFlags) => {
    const { runApplyCommand } = await import('./config-command.ts');
    process.exitCode = await runApplyCommand(file, options);
  });
}

function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print the script that teaches a shell to complete command lines: source <(ringhost completion bash)')
    .addArgument(new Argument('<shell>').choices(SHELLS))
    .action((shell: Shell) => {
      process.stdout.write(completionScript(shell));
    });
  program
    .command('complete', { hidden: true })
    .argument('[word...]')
    .allowUnknownOption()
    .action(async (words: readonly string[]) => {
      const { runCompleteCommand } = await import('./completion-command.ts');
      await runCompleteCommand(program, words);
    });
}
