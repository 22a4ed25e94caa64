// The driver's side of a packed ring (virtio 1.3 §2.8), for the client's loop.
#pragma once

#include "bench.h"

enum { PACKED_AVAIL = 0x80, PACKED_USED = 0x8000, EVENT_DISABLE = 1, EVENT_AT_OFFSET = 2, WRAP_SHIFT = 15 };

struct packed_desc {
  uint64_t address;
  uint32_t length;
  uint16_t id;
  uint16_t flags;
};

struct packed_event {
  uint16_t offset; // wrap counter in bit 15
  uint16_t flags;
};

struct packed_place {
  uint32_t place;
  bool wrap;
};

struct packed_ring {
  struct packed_desc *ring;
  struct packed_event *driver, *device;
  uint32_t size;
  struct packed_place avail, used;
  uint32_t published;
  // The first descriptor that the device cannot see yet, and the flags that will show it; 0 for none.
  struct packed_desc *hidden;
  uint16_t hidden_flags;
};

static inline struct packed_place packed_place_of(uint32_t half) {
  return (struct packed_place){half & 0x7fff, half >> WRAP_SHIFT != 0};
}

static inline uint32_t packed_half(struct packed_place at) {
  return at.place | (at.wrap ? 1u << WRAP_SHIFT : 0);
}

static inline void packed_advance(const struct packed_ring *r, struct packed_place *at, uint32_t slots) {
  at->place += slots;
  if (at->place < r->size) return;
  at->place -= r->size;
  at->wrap = !at->wrap;
}

static inline void packed_expose(struct packed_ring *r, const struct packed_desc *chain, uint32_t count, uint16_t id) {
  for (uint32_t i = 0; i < count; i++) {
    struct packed_desc *to = &r->ring[r->avail.place];
    uint16_t flags = chain[i].flags | (r->avail.wrap ? PACKED_AVAIL : PACKED_USED);
    to->address = chain[i].address;
    to->length = chain[i].length;
    to->id = id;
    if (r->hidden == NULL) {
      r->hidden = to;
      r->hidden_flags = flags;
    } else {
      to->flags = flags;
    }
    packed_advance(r, &r->avail, 1);
  }
}

// Shows what was exposed. True when the device wants a kick for it.
static inline bool packed_publish(struct packed_ring *r, bool has_event_idx) {
  __atomic_store_n(&r->hidden->flags, r->hidden_flags, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the flags must be seen before the device's wish for kicks is read
  r->hidden = NULL;
  int32_t now = (int32_t)r->avail.place, old = (int32_t)r->published;
  r->published = r->avail.place;
  uint16_t wish = __atomic_load_n(&r->device->flags, __ATOMIC_RELAXED);
  if (!has_event_idx || wish != EVENT_AT_OFFSET) return wish != EVENT_DISABLE;
  struct packed_place at = packed_place_of(__atomic_load_n(&r->device->offset, __ATOMIC_RELAXED));
  int32_t event = (int32_t)at.place - (at.wrap == r->avail.wrap ? 0 : (int32_t)r->size);
  if (old >= now) old -= (int32_t)r->size;
  return vring_needs_event((uint16_t)event, (uint16_t)now, (uint16_t)old);
}

static inline bool packed_has_used(const struct packed_ring *r) {
  uint16_t flags = __atomic_load_n(&r->ring[r->used.place].flags, __ATOMIC_ACQUIRE) & (PACKED_AVAIL | PACKED_USED);
  return flags == (r->used.wrap ? PACKED_AVAIL | PACKED_USED : 0);
}

static inline void packed_refuse_calls(struct packed_ring *r) {
  __atomic_store_n(&r->driver->flags, EVENT_DISABLE, __ATOMIC_RELAXED);
}
