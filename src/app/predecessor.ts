/** The new side of an upgrade (docs/upgrade.md): the daemon that serves until this one takes over. */
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { type FrozenState, HANDOVER_VERSION, HandoverChannel, type Offer } from './handover-channel.ts';
import type { DaemonOptions } from './options.ts';

/** In the environment of the new daemon: the descriptor of its end of the channel. */
export const HANDOVER_VARIABLE = 'RINGHOST_HANDOVER';

export class Predecessor {
  readonly offer: Offer;
  /** Of the offer. */
  readonly fds: FdList;
  readonly #channel: HandoverChannel;

  private constructor(channel: HandoverChannel, offer: Offer, fds: FdList) {
    this.#channel = channel;
    this.offer = offer;
    this.fds = fds;
  }

  /** Null when this daemon was not started by another one. Throws when it cannot understand that one. */
  static async meet(): Promise<Predecessor | null> {
    const text = process.env[HANDOVER_VARIABLE];
    if (text === undefined) return null;
    delete process.env[HANDOVER_VARIABLE];
    const channel = new HandoverChannel(Number(text));
    const { message, list } = await channel.receive('offer');
    const predecessor = new Predecessor(channel, message, list);
    if (message.version === HANDOVER_VERSION) return predecessor;
    const reason = `it hands over by version ${message.version}, and this one takes over by ${HANDOVER_VERSION}`;
    await predecessor.fail(reason);
    throw new TargetError('ENOTSUP', reason);
  }

  /** Throws `EINVAL` when this daemon would not be found where that one is. */
  checkOptions({ socketDirectory, rpcSocket, stateDirectory }: DaemonOptions): void {
    const { offer } = this;
    const hasState = offer.stateLockFd >= 0;
    if (socketDirectory === offer.socketDirectory && rpcSocket === offer.rpcSocket) {
      if ((stateDirectory !== undefined) === hasState) return;
    }
    const state = hasState ? ' and a --state-dir' : ', and no --state-dir';
    const wanted = `-S ${offer.socketDirectory} -r ${offer.rpcSocket}${state}`;
    throw new TargetError('EINVAL', `an upgrade keeps the places of sockets and state: ${wanted}`);
  }

  /** Everything that was offered is made: resolves with the sessions, once the other one has stopped their rings. */
  async sessions(): Promise<{ state: FrozenState; fds: FdList }> {
    await this.#channel.send({ type: 'prepared' });
    const { message, list } = await this.#channel.receive('state');
    return { state: message, fds: list };
  }

  /** Nothing can fail any more: resolves when the rings are this daemon's. */
  async takeOver(): Promise<void> {
    await this.#channel.send({ type: 'ready' });
    await this.#channel.receive('go');
    // From here on the other one touches no ring. When it is dead it need not hear of it.
    await this.#channel.send({ type: 'taken' }).catch(() => undefined);
  }

  /** Guests are served, since then. Resolves when the other one has left its sockets. */
  async serving(sinceNs: number): Promise<void> {
    await this.#channel.send({ type: 'serving', sinceNs }).catch(() => undefined);
    // Nothing comes any more but the end.
    await this.#channel.receive('go').catch(() => undefined);
    this.#channel.close();
  }

  /** This one ends: the other one serves on, and tells why. */
  async fail(reason: string): Promise<void> {
    await this.#channel.send({ type: 'failed', reason }).catch(() => undefined);
    this.#channel.close();
  }
}
