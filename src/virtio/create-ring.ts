/** Makes the ring of a virtqueue in the layout and the order that were negotiated. */
import type { GuestMemory } from '../memory/guest-memory.ts';
import { InOrderRing } from './in-order-ring.ts';
import { PackedRing } from './packed-ring.ts';
import type { Ring } from './ring.ts';
import type { RingFormat, RingSetup } from './ring-shape.ts';
import { SplitRing } from './split-ring.ts';

export function createRing(setup: RingSetup & RingFormat, memory: GuestMemory): Ring {
  const ring = setup.isPacked ? new PackedRing(setup, memory) : new SplitRing(setup, memory);
  return setup.isInOrder ? new InOrderRing(ring) : ring;
}
