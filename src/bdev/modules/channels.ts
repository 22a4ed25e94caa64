/** The channel factory of every kind of bdev: what a reactor thread needs to know of the modules. */
import type { ChannelFactory } from '../bdev.ts';
import { FileChannel } from './file/file-channel.ts';
import { MallocChannel } from './malloc/malloc-channel.ts';
import { NbdChannel } from './nbd/nbd-channel.ts';
import { NullChannel } from './null/null-channel.ts';
import { PcieChannel } from './nvme/pcie-channel.ts';
import { TcpChannel } from './nvme/tcp-channel.ts';
import { RbdChannel } from './rbd/rbd-channel.ts';
import { VirtioChannel } from './virtio/virtio-channel.ts';

export const CHANNEL_FACTORIES: Readonly<Record<string, ChannelFactory>> = {
  file: (description, context) => new FileChannel(description, context),
  malloc: (description, context) => new MallocChannel(description, context),
  nbd: (description, context) => new NbdChannel(description, context),
  'nvme-pcie': (description, context) => new PcieChannel(description, context),
  null: () => new NullChannel(),
  'nvme-tcp': (description, context) => new TcpChannel(description, context),
  rbd: (description, context) => new RbdChannel(description, context),
  virtio: (description, context) => new VirtioChannel(description, context),
};
