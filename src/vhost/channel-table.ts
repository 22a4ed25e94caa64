/**
 * The bdev channels of one reactor: one per bdev, opened by its first user here, closed with its last. Users are
 * queues, and the channels of stacked bdevs.
 */
import { TargetError } from '../base/errors.ts';
import type { BdevDescription, ChannelContext } from '../bdev/bdev.ts';
import type { BaseChannel, BaseChannels } from '../bdev/bdev-io.ts';
import { BdevChannel } from '../bdev/channel.ts';
import { CHANNEL_FACTORIES } from '../bdev/modules/channels.ts';
import type { Reactor } from '../reactor/reactor.ts';

interface OpenChannel {
  readonly channel: BdevChannel;
  users: number;
  /** Users that go. */
  leaving: number;
}

export class ChannelTable implements BaseChannels {
  readonly #reactor: Pick<Reactor, 'addDrive' | 'removeDrive'>;
  readonly #reactorIndex: number;
  readonly #context: ChannelContext;
  readonly #channels = new Map<number, OpenChannel>();
  #held: BdevChannel[] = [];

  constructor(
    reactor: Pick<Reactor, 'addDrive' | 'removeDrive'>,
    reactorIndex: number,
    context: Omit<ChannelContext, 'bases'>,
  ) {
    this.#reactor = reactor;
    this.#reactorIndex = reactorIndex;
    this.#context = { ...context, bases: this };
  }

  /** Opens the bdev's channel, or shares it. Give it back with `release`. */
  take(bdev: BdevDescription): BdevChannel {
    let open = this.#channels.get(bdev.id);
    if (open === undefined) {
      const factory = CHANNEL_FACTORIES[bdev.kind];
      if (factory === undefined) throw new TargetError('ENOSYS', `a reactor cannot open a bdev of kind "${bdev.kind}"`);
      open = { channel: new BdevChannel(bdev, factory, this.#context, this.#reactorIndex), users: 0, leaving: 0 };
      this.#channels.set(bdev.id, open);
      this.#reactor.addDrive(open.channel);
    }
    open.users++;
    return open.channel;
  }

  abandon({ id }: BaseChannel): void {
    const open = this.#channels.get(id);
    if (open !== undefined && ++open.leaving === open.users) open.channel.abandon();
  }

  release({ id }: BaseChannel): void {
    const open = this.#channels.get(id);
    if (open === undefined || --open.users > 0) return;
    this.#reactor.removeDrive(open.channel);
    this.#channels.delete(id);
    open.channel.close();
  }

  // ---- upgrade (docs/upgrade.md) -----------------------------------------------------------------------------------

  /**
   * Opens the bdev's channel before its first user comes, until `unhold`, and makes the connections of the devices
   * under it.
   */
  async openEarly(bdev: BdevDescription): Promise<void> {
    this.#held.push(this.take(bdev));
    await Promise.all(devicesOf(bdev).map(({ id }) => this.find(id)?.connect()));
  }

  /** While guests work: what `letGo` flushes will not be much. */
  async flushEarly(): Promise<void> {
    await Promise.all([...this.#channels.values()].map(({ channel }) => channel.flushEarly()));
  }

  /** What is open stays open until `unhold`, though its users go. */
  hold(): void {
    this.#held = [...this.#channels.values()].map((open) => {
      open.users++;
      return open.channel;
    });
  }

  /** After `hold`, when guests wait: another process may have the bdevs. Throws `EIO` when one cannot be flushed. */
  async letGo(): Promise<void> {
    await Promise.all(this.#held.map((channel) => channel.letGo()));
  }

  /** Guests go on here. */
  unhold(): void {
    const held = this.#held;
    this.#held = [];
    // A flush that failed the upgrade may take its time.
    for (const channel of held) void channel.drained().then(() => this.release(channel));
  }

  /** Undefined when nobody here uses the bdev. */
  find(bdevId: number): BdevChannel | undefined {
    return this.#channels.get(bdevId)?.channel;
  }
}

/** What a stacked bdev stands on in the end; of another, itself. */
function devicesOf(bdev: BdevDescription): readonly BdevDescription[] {
  return bdev.bases.length === 0 ? [bdev] : bdev.bases.flatMap(devicesOf);
}
