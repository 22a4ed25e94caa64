/** The bdev channels of one reactor: one per bdev, opened by its first user here, closed with its last. */
import { TargetError } from '../base/errors.ts';
import type { BdevDescription, ChannelContext } from '../bdev/bdev.ts';
import { BdevChannel } from '../bdev/channel.ts';
import { CHANNEL_FACTORIES } from '../bdev/modules/channels.ts';
import type { Reactor } from '../reactor/reactor.ts';

interface OpenChannel {
  readonly channel: BdevChannel;
  users: number;
}

export class ChannelTable {
  readonly #reactor: Reactor;
  readonly #reactorIndex: number;
  readonly #context: ChannelContext;
  readonly #channels = new Map<number, OpenChannel>();

  constructor(reactor: Reactor, reactorIndex: number, context: ChannelContext) {
    this.#reactor = reactor;
    this.#reactorIndex = reactorIndex;
    this.#context = context;
  }

  /** Opens the bdev's channel, or shares it. Give it back with `release`. */
  take(bdev: BdevDescription): BdevChannel {
    let open = this.#channels.get(bdev.id);
    if (open === undefined) {
      const factory = CHANNEL_FACTORIES[bdev.kind];
      if (factory === undefined) throw new TargetError('ENOSYS', `a reactor cannot open a bdev of kind "${bdev.kind}"`);
      open = { channel: new BdevChannel(bdev, factory, this.#context, this.#reactorIndex), users: 0 };
      this.#channels.set(bdev.id, open);
      this.#reactor.addDrive(open.channel);
    }
    open.users++;
    return open.channel;
  }

  release(channel: BdevChannel): void {
    const open = this.#channels.get(channel.id);
    if (open === undefined || --open.users > 0) return;
    this.#reactor.removeDrive(channel);
    this.#channels.delete(channel.id);
    channel.close();
  }

  /** Undefined when nobody here uses the bdev. */
  find(bdevId: number): BdevChannel | undefined {
    return this.#channels.get(bdevId)?.channel;
  }
}
