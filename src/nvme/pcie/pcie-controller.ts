/**
 * A controller on PCIe (NVMe over PCIe 1.0; initialisation of NVMe base 2.0 §3.5.1). It owns the device: registers,
 * DMA memory, admin queue, and the queue pairs that channels in reactors take. Main thread.
 *
 * Several times a second it looks at the controller's status and at the age of every command. A command that is
 * overdue is aborted; when that does not help, or the controller says that it failed, it is reset, and channels drive
 * again what was in flight. A controller that does not come back, or that is not there any more, is given up.
 */
import { TargetError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import { DmaTable } from '../../sys/dma.ts';
import { closeFd, createEventFd, signalEventFd } from '../../sys/events.ts';
import { Mapping, MappingViews } from '../../sys/mapping.ts';
import { type AdminPort, identifyController, identifyNamespaces, requestQueues } from '../admin.ts';
import { getLogPage } from '../command.ts';
import type { ControllerEvents, ControllerState, NvmeController, TransportId } from '../controller.ts';
import type { ControllerIdentity, NamespaceIdentity } from '../identify.ts';
import {
  AdminOpcode,
  ALL_NAMESPACES,
  ASYNC_EVENTS_WANTED,
  AsyncEventNotice,
  AsyncEventType,
  FeatureId,
} from '../spec.ts';
import { checkStatus, Status, statusCode, statusText } from '../status.ts';
import { ADMIN_ENTRIES, AdminQueue } from './admin-queue.ts';
import type { DmaMemory, PcieDevice } from './device.ts';
import {
  PAGE_BYTES,
  QUEUE_ENTRIES_MAX,
  QueueState,
  queueLayout,
  SharedState,
  sharedStateBytes,
  TRANSFER_BYTES_MAX,
} from './queue-memory.ts';
import { type Capabilities, CSTS_CFS, CSTS_RDY, Registers } from './registers.ts';

export interface PcieOptions {
  /** Queue pairs to ask for: one a channel, that is one a disk and reactor. */
  readonly queues: number;
  /** Entries of an I/O queue, at most 256. */
  readonly entries?: number;
  /** Memory of each queue pair for requests that are copied. */
  readonly bounceBytes: number;
  /** Without, completions are polled. */
  readonly hasInterrupts: boolean;
  readonly tickMs?: number;
  /** When a command is aborted, and how long after that the controller is reset. */
  readonly timeoutMs?: number;
  readonly abortMs?: number;
  readonly adminTimeoutMs?: number;
}

const TICK_MS = 250;
const TIMEOUT_MS = 30_000;
const ABORT_MS = 5_000;
const ADMIN_TIMEOUT_MS = 10_000;
/** A controller says how long becoming ready may take; slow machines get at least that. */
const READY_MS_MIN = 10_000;
const SHUTDOWN_MS = 5_000;
const QUIESCE_MS = 10_000;
const RESET_TRIES = 3;
const LOG_BYTES: Readonly<Record<number, number>> = { 1: 64, 2: 512, 3: 512, 4: 4096 };

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class PcieController implements NvmeController {
  readonly transportId: TransportId;
  readonly channelKind = 'nvme-pcie';
  state: ControllerState = 'resetting';
  namespaces: readonly NamespaceIdentity[] = [];
  readonly #device: PcieDevice;
  readonly #options: PcieOptions;
  readonly #events: ControllerEvents;
  readonly #log: Logger;
  readonly #registers: Registers;
  readonly #capabilities: Capabilities;
  readonly #entries: number;
  readonly #queueBytes: number;
  readonly #sharedMemory: Mapping;
  readonly #shared: SharedState;
  readonly #table: DmaTable;
  readonly #adminMemory: DmaMemory;
  readonly #adminViews = new MappingViews();
  readonly #admin: AdminQueue;
  #identity: ControllerIdentity | null = null;
  /** Queues 1, 2, … one behind the other. */
  #queueMemory: DmaMemory | null = null;
  #queues = 0;
  #eventFds: number[] = [];
  #generation = 0;
  #timer: NodeJS.Timeout | null = null;
  #reset: Promise<void> | null = null;
  /** Tick at which overdue commands were aborted, by their word. */
  readonly #aborted = new Map<number, number>();
  readonly #stale = new Map<number, number>();

  private constructor(device: PcieDevice, options: PcieOptions, events: ControllerEvents, log: Logger) {
    this.transportId = { trtype: 'PCIe', traddr: device.address };
    this.#device = device;
    this.#options = options;
    this.#events = events;
    this.#log = log;
    this.#registers = new Registers(device.registers);
    this.#capabilities = this.#registers.capabilities();
    this.#entries = Math.min(options.entries ?? QUEUE_ENTRIES_MAX, this.#capabilities.queueEntriesMax);
    this.#queueBytes = queueLayout(this.#entries, options.bounceBytes).bytes;
    this.#sharedMemory = Mapping.anonymous(sharedStateBytes(options.queues + 1));
    this.#shared = new SharedState(this.#sharedMemory);
    this.#shared.advance();
    this.#table = new DmaTable(device, (error) =>
      log.warn(`requests to ${device.address} are copied: ${error.message}`),
    );
    const layout = queueLayout(ADMIN_ENTRIES, 0);
    this.#adminMemory = device.allocate(layout.bytes + ADMIN_ENTRIES * PAGE_BYTES);
    const { address, iova } = this.#adminMemory;
    this.#admin = new AdminQueue({
      queue: 0,
      entries: ADMIN_ENTRIES,
      registers: device.registers,
      doorbellWords: this.#capabilities.doorbellWords,
      memory: { address, lengthBytes: layout.bytes },
      shared: this.#sharedMemory,
      data: { address: address + layout.bytes, lengthBytes: ADMIN_ENTRIES * PAGE_BYTES },
      dataIova: iova + layout.bytes,
    });
  }

  /** Takes the device, whatever happens. */
  static async open(
    device: PcieDevice,
    options: PcieOptions,
    events: ControllerEvents,
    log: Logger,
  ): Promise<PcieController> {
    const controller = new PcieController(device, options, events, log);
    try {
      await controller.#start();
      return controller;
    } catch (error) {
      await controller.close();
      throw error;
    }
  }

  get identity(): ControllerIdentity {
    if (this.#identity === null) throw new TargetError('ENODEV', 'the controller has not identified itself');
    return this.#identity;
  }

  get admin(): AdminPort {
    return this.#admin;
  }

  channelParams(nsid: number): Readonly<Record<string, string | number | boolean>> {
    const { registers } = this.#device;
    const namespace = this.namespaces.find((candidate) => candidate.nsid === nsid);
    return {
      nsid,
      boundaryBlocks: namespace?.boundaryBlocks ?? 0,
      maxTransferBytes: this.#maxTransferBytes(),
      queues: this.#queues,
      entries: this.#entries,
      queueBytes: this.#queueBytes,
      bounceBytes: this.#options.bounceBytes,
      memoryAddress: this.#queueMemory?.address ?? 0,
      memoryIova: this.#queueMemory?.iova ?? 0,
      registersAddress: registers.address,
      registersBytes: registers.lengthBytes,
      doorbellWords: this.#capabilities.doorbellWords,
      sharedAddress: this.#sharedMemory.address,
      sharedBytes: this.#sharedMemory.lengthBytes,
      tableAddress: this.#table.address,
      wakeFds: this.#eventFds.join(),
    };
  }

  /** One at a time. Rejects when the controller does not come back. */
  reset(): Promise<void> {
    if (this.state === 'failed' || this.state === 'deleting') {
      return Promise.reject(new TargetError('ENODEV', `${this.#device.address} is ${this.state}`));
    }
    this.#reset ??= this.#recover().finally(() => {
      this.#reset = null;
    });
    return this.#reset;
  }

  async close(): Promise<void> {
    const wasUp = this.state === 'enabled';
    this.state = 'deleting';
    if (this.#timer !== null) clearInterval(this.#timer);
    await this.#reset?.catch(() => undefined);
    this.#admin.fail(new TargetError('ENODEV', `${this.#device.address} is being detached`));
    if (!this.#registers.isGone) await this.#stopDevice(wasUp);
    for (const fd of this.#eventFds) closeFd(fd);
    this.#admin.close();
    this.#adminViews.close();
    this.#table.close();
    this.#queueMemory?.close();
    this.#adminMemory.close();
    this.#registers.close();
    this.#shared.close();
    this.#sharedMemory.close();
    this.#device.close();
  }

  async #start(): Promise<void> {
    const { address } = this.#device;
    if (this.#registers.isGone) throw new TargetError('ENODEV', `${address} does not answer: it may have lost power`);
    if (!this.#capabilities.hasNvmCommands || !this.#capabilities.hasSmallPages) {
      throw new TargetError('ENOTSUP', `${address} has no NVM command set, or no pages of 4 KiB`);
    }
    // From here on overdue admin commands are noticed.
    this.#timer = setInterval(() => this.#tick(), this.#options.tickMs ?? TICK_MS);
    await this.#enable();
    this.#identity = await identifyController(this.#admin);
    const vectors = this.#options.hasInterrupts ? this.#device.vectors : 0;
    const wanted = vectors > 1 ? Math.min(this.#options.queues, vectors - 1) : this.#options.queues;
    this.#queues = await requestQueues(this.#admin, wanted);
    this.#queueMemory = this.#device.allocate(this.#queues * this.#queueBytes);
    if (vectors > 1) {
      this.#eventFds = Array.from({ length: this.#queues }, () => createEventFd());
      this.#device.setInterrupts([-1, ...this.#eventFds]);
    }
    await this.#startQueues();
    this.namespaces = await identifyNamespaces(this.#admin, this.identity);
  }

  /** From any state to a controller that takes admin commands. */
  async #enable(): Promise<void> {
    await this.#disable();
    new Uint8Array(this.#adminViews.view(this.#adminMemory, 0, queueLayout(ADMIN_ENTRIES, 0).lists)).fill(0);
    const { iova } = this.#adminMemory;
    this.#registers.setAdminQueues(ADMIN_ENTRIES, iova, iova + queueLayout(ADMIN_ENTRIES, 0).completions);
    this.#registers.enable();
    await this.#until(() => (this.#registers.status & CSTS_RDY) !== 0, 'become ready');
    this.#admin.begin();
  }

  async #disable(): Promise<void> {
    // It must not be disabled while it is on its way to being ready.
    if (this.#registers.isEnabled && (this.#registers.status & (CSTS_RDY | CSTS_CFS)) === 0) {
      await this.#until(() => (this.#registers.status & (CSTS_RDY | CSTS_CFS)) !== 0, 'become ready').catch(
        () => undefined,
      );
    }
    this.#registers.disable();
    await this.#until(() => (this.#registers.status & CSTS_RDY) === 0, 'stop');
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const limitMs = Math.max(this.#capabilities.readyMs, READY_MS_MIN);
    const end = performance.now() + limitMs;
    for (;;) {
      if (this.#registers.isGone) throw new TargetError('ENODEV', `${this.#device.address} does not answer any more`);
      if (condition()) return;
      if (performance.now() > end) {
        throw new TargetError('ETIMEDOUT', `${this.#device.address} did not ${what} in ${limitMs / 1000} s`);
      }
      await sleep(1);
    }
  }

  /** Makes the queue pairs in the controller, lets channels use them, and asks to be told of events. */
  async #startQueues(): Promise<void> {
    const { iova } = this.#queueMemory as DmaMemory;
    const { completions } = queueLayout(this.#entries, 0);
    for (let queue = 1; queue <= this.#queues; queue++) {
      const at = (queue - 1) * this.#queueBytes;
      this.#zeroQueue(at, queueLayout(this.#entries, 0).lists);
      const ids = (queue | ((this.#entries - 1) << 16)) >>> 0;
      const interrupt = this.#eventFds.length > 0 ? (queue << 16) | 2 : 0;
      await this.#createQueue(AdminOpcode.createCompletionQueue, ids, interrupt | 1, iova + at + completions);
      await this.#createQueue(AdminOpcode.createSubmissionQueue, ids, (queue << 16) | 1, iova + at);
    }
    await this.#listen();
    this.#generation++;
    this.state = 'enabled';
    this.#setQueueStates(this.#generation);
  }

  async #createQueue(opcode: number, cdw10: number, cdw11: number, address: number): Promise<void> {
    const { status } = await this.#admin.execute({ opcode, cdw10, cdw11, address });
    checkStatus(status, `${this.#device.address} does not create an I/O queue`);
  }

  #zeroQueue(offset: number, lengthBytes: number): void {
    const views = new MappingViews();
    new Uint8Array(views.view(this.#queueMemory as DmaMemory, offset, lengthBytes)).fill(0);
    views.close();
  }

  /** Every channel hears of it, also one that sleeps. */
  #setQueueStates(state: number): void {
    for (let queue = 1; queue <= this.#queues; queue++) this.#shared.setState(queue, state);
    for (const fd of this.#eventFds) signalEventFd(fd);
  }

  #maxTransferBytes(): number {
    const { mdts } = this.identity;
    return Math.min(mdts === 0 ? TRANSFER_BYTES_MAX : 2 ** mdts * PAGE_BYTES, TRANSFER_BYTES_MAX);
  }

  async #recover(): Promise<void> {
    const { address } = this.#device;
    this.state = 'resetting';
    this.#log.warn(`${address}: the controller is reset`);
    this.#admin.fail(new TargetError('EIO', `${address} is being reset`));
    this.#setQueueStates(QueueState.down);
    this.#aborted.clear();
    try {
      await this.#quiesced();
      for (let tried = 1; ; tried++) {
        try {
          await this.#enable();
          await requestQueues(this.#admin, this.#queues);
          await this.#startQueues();
          this.#log.info(`${address}: the controller is back`);
          await this.#renewNamespaces();
          return;
        } catch (error) {
          if (this.#registers.isGone || tried === RESET_TRIES || (this.state as ControllerState) === 'deleting')
            throw error;
          this.#log.warn(`${address}: ${(error as Error).message}; trying again`);
          this.#device.reset();
          this.#device.setBusMaster(true);
        }
      }
    } catch (error) {
      this.#giveUp(this.#registers.isGone ? QueueState.gone : QueueState.failed, (error as Error).message);
      throw error;
    }
  }

  /** No channel touches its queue. */
  async #quiesced(): Promise<void> {
    const end = performance.now() + QUIESCE_MS;
    for (let queue = 1; queue <= this.#queues; queue++) {
      while (this.#shared.isTaken(queue) && this.#shared.isBusy(queue)) {
        if (performance.now() > end) throw new TargetError('ETIMEDOUT', 'a reactor does not let go of its queue');
        await sleep(1);
      }
    }
  }

  /** No request reaches it any more, and it reaches no memory; its disks go. */
  #giveUp(state: number, reason: string): void {
    if (this.state === 'failed' || this.state === 'deleting') return;
    this.state = 'failed';
    try {
      this.#device.setBusMaster(false);
    } catch {
      // The device is not there: then it does no harm either.
    }
    this.#admin.fail(new TargetError('ENODEV', `${this.#device.address} is gone: ${reason}`));
    this.#setQueueStates(state);
    this.#events.onGone(reason);
  }

  async #stopDevice(isOrderly: boolean): Promise<void> {
    try {
      if (isOrderly) {
        this.#registers.shutDown();
        const end = performance.now() + SHUTDOWN_MS;
        while (!this.#registers.hasShutDown && performance.now() < end) await sleep(1);
      }
      await this.#disable();
    } catch (error) {
      this.#log.warn((error as Error).message);
    }
    try {
      if (this.#eventFds.length > 0) this.#device.setInterrupts([]);
      this.#device.setBusMaster(false);
    } catch (error) {
      this.#log.warn((error as Error).message);
    }
  }

  #tick(): void {
    this.#shared.advance();
    if (this.state === 'failed' || this.state === 'deleting') return;
    if (this.#registers.isGone) {
      this.#giveUp(QueueState.gone, 'it was removed, or has lost power');
      return;
    }
    if (this.#device.isWantedBack()) {
      this.#giveUp(QueueState.failed, 'it is being unplugged, or unbound from vfio-pci');
      return;
    }
    this.#admin.poll();
    this.#lookForOverdue(0, this.#options.adminTimeoutMs ?? ADMIN_TIMEOUT_MS);
    if (this.state !== 'enabled') return;
    if ((this.#registers.status & CSTS_CFS) !== 0) {
      this.#startReset('it says that it failed (CSTS.CFS)');
      return;
    }
    for (let queue = 1; queue <= this.#queues; queue++) {
      if (!this.#shared.isTaken(queue)) continue;
      this.#lookForOverdue(queue, this.#options.timeoutMs ?? TIMEOUT_MS);
      const stale = this.#shared.staleOf(queue);
      if (stale === (this.#stale.get(queue) ?? 0)) continue;
      this.#stale.set(queue, stale);
      this.#log.warn(`${this.#device.address}: ${stale} completions of no command on queue ${queue} so far`);
    }
  }

  #lookForOverdue(queue: number, limitMs: number): void {
    const { words } = this.#shared;
    const first = this.#shared.issuedAt(queue);
    const limit = this.#ticks(limitMs);
    const slots = (queue === 0 ? ADMIN_ENTRIES : this.#entries) - 1;
    for (let word = first; word < first + slots; word++) {
      const issued = Atomics.load(words, word);
      if (issued === 0 || this.#shared.ageOf(issued) < limit) continue;
      if (queue === 0) this.#adminOverdue();
      else this.#overdue(queue, issued);
      return;
    }
  }

  #ticks(ms: number): number {
    return Math.max(1, Math.ceil(ms / (this.#options.tickMs ?? TICK_MS)));
  }

  #adminOverdue(): void {
    const error = new TargetError('ETIMEDOUT', `${this.#device.address} does not answer an admin command`);
    // While it is being started or reset, whoever does that hears of it.
    this.#admin.fail(error);
    if (this.state === 'enabled') this.#startReset(error.message);
  }

  /** Aborts a command that takes too long; resets the controller when that does not end it. */
  #overdue(queue: number, issued: number): void {
    const key = queue * 2 ** 32 + (issued >>> 0);
    const since = this.#aborted.get(key);
    const { address } = this.#device;
    if (since === undefined) {
      this.#aborted.set(key, this.#shared.tick);
      this.#log.warn(`${address}: a command is overdue, and is aborted`, { queue, command: issued & 0xffff });
      const command = { opcode: AdminOpcode.abort, cdw10: (((issued & 0xffff) << 16) | queue) >>> 0 };
      this.#admin.execute(command).catch(() => undefined);
    } else if (this.#shared.ageOf(since << 16) >= this.#ticks(this.#options.abortMs ?? ABORT_MS)) {
      this.#startReset('an aborted command did not end');
    }
  }

  #startReset(reason: string): void {
    this.#log.warn(`${this.#device.address}: ${reason}`);
    this.reset().catch((error: Error) => this.#log.error(error.message));
  }

  /** Asks for events, which then arrive one after another. */
  async #listen(): Promise<void> {
    const { status } = await this.#admin.execute({
      opcode: AdminOpcode.setFeatures,
      cdw10: FeatureId.asyncEventConfiguration,
      cdw11: ASYNC_EVENTS_WANTED,
    });
    if (statusCode(status) !== Status.success) this.#log.debug(`${this.#device.address}: ${statusText(status)}`);
    void this.#awaitEvents();
  }

  /** Ends with the controller, or its reset. */
  async #awaitEvents(): Promise<void> {
    try {
      for (;;) {
        const { status, dword0 } = await this.#admin.awaitEvent();
        if (statusCode(status) !== Status.success) return;
        await this.#handleEvent(dword0);
      }
    } catch {
      // The queue is gone. Who took it away starts anew.
    }
  }

  async #handleEvent(dword0: number): Promise<void> {
    const [type, info, page] = [dword0 & 7, (dword0 >>> 8) & 0xff, (dword0 >>> 16) & 0xff];
    // Reading the log page is what allows the next event of the kind.
    const bytes = LOG_BYTES[page];
    if (bytes !== undefined) await this.#admin.execute(getLogPage(page, bytes, ALL_NAMESPACES), bytes);
    if (type === AsyncEventType.notice && info === AsyncEventNotice.namespaceAttributes) {
      await this.#renewNamespaces();
    } else {
      const fields = { type, info, page };
      this.#log.warn(`${this.#device.address}: the controller reports an event of its health`, fields);
    }
  }

  async #renewNamespaces(): Promise<void> {
    this.namespaces = await identifyNamespaces(this.#admin, this.identity);
    this.#events.onNamespaces();
  }
}
