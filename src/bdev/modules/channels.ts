/** The channel factory of every kind of bdev: what a reactor thread needs to know of the modules. */
import type { ChannelFactory } from '../bdev.ts';
import { CryptoChannel } from './crypto/crypto-channel.ts';
import { DelayChannel } from './delay/delay-channel.ts';
import { ErrorChannel } from './error/error-channel.ts';
import { FileChannel } from './file/file-channel.ts';
import { LvolChannel } from './lvol/lvol-channel.ts';
import { MallocChannel } from './malloc/malloc-channel.ts';
import { ModuleChannel } from './module/module-channel.ts';
import { NbdChannel } from './nbd/nbd-channel.ts';
import { NullChannel } from './null/null-channel.ts';
import { PcieChannel } from './nvme/pcie-channel.ts';
import { TcpChannel } from './nvme/tcp-channel.ts';
import { PassthruChannel } from './passthru/passthru-channel.ts';
import { PowerCutChannel } from './powercut/powercut-channel.ts';
import { MirrorChannel } from './raid/mirror-channel.ts';
import { RaidChannel } from './raid/raid-channel.ts';
import { RbdChannel } from './rbd/rbd-channel.ts';
import { SplitChannel } from './split/split-channel.ts';
import { BlkChannel } from './virtio/blk-channel.ts';
import { ScsiChannel } from './virtio/scsi-channel.ts';

export const CHANNEL_FACTORIES: Readonly<Record<string, ChannelFactory>> = {
  crypto: (description, context) => new CryptoChannel(description, context),
  delay: (description, context) => new DelayChannel(description, context),
  error: (description, context) => new ErrorChannel(description, context),
  file: (description, context) => new FileChannel(description, context),
  gpt: (description, context) => new SplitChannel(description, context),
  lvol: (description, context) => new LvolChannel(description, context),
  malloc: (description, context) => new MallocChannel(description, context),
  mirror: (description, context) => new MirrorChannel(description, context),
  module: (description, context) => new ModuleChannel(description, context),
  nbd: (description, context) => new NbdChannel(description, context),
  'nvme-pcie': (description, context) => new PcieChannel(description, context),
  null: () => new NullChannel(),
  'nvme-tcp': (description, context) => new TcpChannel(description, context),
  raid: (description, context) => new RaidChannel(description, context),
  rbd: (description, context) => new RbdChannel(description, context),
  passthru: (description, context) => new PassthruChannel(description, context),
  split: (description, context) => new SplitChannel(description, context),
  powercut: (description, context) => new PowerCutChannel(description, context),
  'virtio-blk': (description, context) => new BlkChannel(description, context),
  'virtio-scsi': (description, context) => new ScsiChannel(description, context),
};
