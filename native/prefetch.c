// Asks for the cache lines that a batch of descriptor chains will need, before JavaScript looks at them one by one.
//
// What a driver on another core has just written must come from that core's caches: the descriptors of a chain, its
// header, the place of its answer, each a miss that depends on the one before. Here the misses of a batch overlap.
// Nothing is decided and nothing written: a guest that lies or changes its mind gets other lines fetched.
#include "addon.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RINGS_MAX 16384
#define BATCH_MAX 128
// A virtqueue has at most so many entries (virtio 1.3 2.7).
#define RING_SIZE_MAX 32768
// Descriptors of a chain that are looked at, and the longest buffer that JavaScript reads or writes itself.
#define DESCRIPTORS_MAX 4
#define SMALL_BYTES_MAX 256
#define LINE_BYTES 64

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_AVAIL = 0x80, DESC_USED = 0x8000 };

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next; // of a packed ring: id, flags
};

struct region {
  uint64_t guest, length;
  const uint8_t *host;
};

struct ring {
  const struct descriptor *descriptors;
  const uint16_t *available; // its entries; NULL: the ring is packed
  uint32_t size;
  uint32_t region_count;
  struct region regions[];
};

static struct ring *rings[RINGS_MAX];
static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;

static inline const uint8_t *host_of(const struct ring *ring, uint64_t guest, uint64_t length) {
  for (uint32_t i = 0; i < ring->region_count; i++) {
    uint64_t offset = guest - ring->regions[i].guest;
    if (offset < ring->regions[i].length && length <= ring->regions[i].length - offset)
      return ring->regions[i].host + offset;
  }
  return NULL;
}

static inline void fetch_buffer(const struct ring *ring, const struct descriptor *descriptor) {
  uint32_t length = descriptor->length;
  if (length == 0 || length > SMALL_BYTES_MAX) return;
  const uint8_t *bytes = host_of(ring, descriptor->address, length);
  if (bytes == NULL) return;
  for (uint32_t i = 0; i < length; i += LINE_BYTES) {
    if ((descriptor->flags & DESC_WRITE) != 0) {
      __builtin_prefetch(bytes + i, 1, 3);
    } else {
      __builtin_prefetch(bytes + i, 0, 3);
    }
  }
}

// As a split ring would have it: packed ones have no next, and no chain ends before its table does.
static inline struct descriptor read_from(const struct ring *ring, const struct descriptor *table, uint32_t index) {
  struct descriptor descriptor;
  memcpy(&descriptor, &table[index], sizeof descriptor);
  if (ring->available != NULL) return descriptor;
  descriptor.flags = descriptor.next | (table == ring->descriptors ? 0 : DESC_NEXT);
  descriptor.next = (uint16_t)(table == ring->descriptors && index + 1 == ring->size ? 0 : index + 1);
  return descriptor;
}

static void fetch(const struct ring *ring, uint32_t *heads, uint32_t count) {
  const struct descriptor *tables[BATCH_MAX];
  uint32_t entries[BATCH_MAX];
  for (uint32_t i = 0; i < count; i++) {
    struct descriptor head = read_from(ring, ring->descriptors, heads[i]);
    tables[i] = ring->descriptors;
    entries[i] = ring->size;
    if ((head.flags & DESC_INDIRECT) == 0) continue;
    tables[i] = (const struct descriptor *)host_of(ring, head.address, head.length);
    entries[i] = head.length / sizeof head;
    heads[i] = 0;
    if (tables[i] != NULL) __builtin_prefetch(tables[i], 0, 3);
  }
  for (uint32_t i = 0; i < count; i++) {
    if (tables[i] == NULL) continue;
    uint32_t index = heads[i];
    for (uint32_t walked = 0; walked < DESCRIPTORS_MAX && index < entries[i]; walked++) {
      struct descriptor descriptor = read_from(ring, tables[i], index);
      fetch_buffer(ring, &descriptor);
      if ((descriptor.flags & DESC_NEXT) == 0) break;
      index = descriptor.next;
    }
  }
}

static void fetch_split(const struct ring *ring, uint32_t first, uint32_t count) {
  uint32_t heads[BATCH_MAX];
  for (uint32_t i = 0; i < count; i++) {
    heads[i] = ring->available[(first + i) & (ring->size - 1)] & (ring->size - 1);
    __builtin_prefetch(&ring->descriptors[heads[i]], 0, 3);
  }
  fetch(ring, heads, count);
}

// How many chains are available from a place on. One alone gains nothing by being fetched.
static uint32_t look_packed(const struct ring *ring, uint32_t place, bool wrap) {
  uint32_t heads[BATCH_MAX], count = 0;
  for (uint32_t walked = 0; count < BATCH_MAX && walked < ring->size; count++) {
    // Acquires the chain, and those before it where the driver showed them all by the flags of the first.
    uint16_t flags = __atomic_load_n(&ring->descriptors[place].next, __ATOMIC_ACQUIRE);
    if ((flags & (DESC_AVAIL | DESC_USED)) != (wrap ? DESC_AVAIL : DESC_USED)) break;
    heads[count] = place;
    for (bool is_last = false; !is_last && walked < ring->size; walked++) {
      is_last = (read_from(ring, ring->descriptors, place).flags & DESC_NEXT) == 0;
      if (++place < ring->size) continue;
      place = 0;
      wrap = !wrap;
    }
  }
  if (count > 1) fetch(ring, heads, count);
  return count;
}

// prefetchCreate(descriptorsAddress, availableEntriesAddress, size, regions Float64Array): id. A region is guest
// address, length and host address. No available entries: the ring is packed.
static napi_value prefetch_create(napi_env env, napi_callback_info info) {
  ADDON_ARGS(4);
  uint64_t descriptors, available, size;
  double *regions;
  size_t length;
  if (!addon_u53(env, argv[0], &descriptors) || !addon_u53(env, argv[1], &available) ||
      !addon_u53(env, argv[2], &size) || !addon_f64_array(env, argv[3], &regions, &length) || descriptors == 0 ||
      size == 0 || size > RING_SIZE_MAX || (available != 0 && (size & (size - 1)) != 0) || length % 3 != 0)
    return addon_throw(env, "prefetchCreate(descriptorsAddress, availableEntriesAddress, size, regions)");
  struct ring *ring = malloc(sizeof *ring + length / 3 * sizeof(struct region));
  if (ring == NULL) return ADDON_RESULT(-ENOMEM);
  ring->descriptors = (const struct descriptor *)(uintptr_t)descriptors;
  ring->available = (const uint16_t *)(uintptr_t)available;
  ring->size = (uint32_t)size;
  ring->region_count = (uint32_t)(length / 3);
  for (size_t i = 0; i < length / 3; i++)
    ring->regions[i] = (struct region){(uint64_t)regions[3 * i], (uint64_t)regions[3 * i + 1],
                                       (const uint8_t *)(uintptr_t)regions[3 * i + 2]};
  int id = -ENOSPC;
  pthread_mutex_lock(&rings_lock);
  for (int i = 0; i < RINGS_MAX && id < 0; i++)
    if (rings[i] == NULL) rings[id = i] = ring;
  pthread_mutex_unlock(&rings_lock);
  if (id < 0) free(ring);
  return ADDON_RESULT(id);
}

static struct ring *ring_of(napi_env env, napi_value value) {
  int32_t id;
  if (addon_i32(env, value, &id) && id >= 0 && id < RINGS_MAX && rings[id] != NULL) return rings[id];
  addon_throw(env, "no such ring");
  return NULL;
}

// prefetchClose(id): 0
static napi_value prefetch_close(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t id;
  struct ring *ring = ring_of(env, argv[0]);
  if (ring == NULL || !addon_i32(env, argv[0], &id)) return NULL;
  pthread_mutex_lock(&rings_lock);
  rings[id] = NULL;
  pthread_mutex_unlock(&rings_lock);
  free(ring);
  return ADDON_RESULT(0);
}

// prefetchRun(id, first, count): undefined. Split ring: of `count` available entries from `first` on, at most 128.
static napi_value prefetch_run(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t first, count;
  struct ring *ring = ring_of(env, argv[0]);
  if (ring == NULL) return NULL;
  if (!addon_i32(env, argv[1], &first) || !addon_i32(env, argv[2], &count) || count < 0 || ring->available == NULL)
    return addon_throw(env, "prefetchRun(id, first, count)");
  fetch_split(ring, (uint32_t)first, count < BATCH_MAX ? (uint32_t)count : BATCH_MAX);
  return NULL;
}

// prefetchLook(id, first, wrap): count. Packed ring: the chains available from place `first` on, at most 128.
static napi_value prefetch_look(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t first, wrap;
  struct ring *ring = ring_of(env, argv[0]);
  if (ring == NULL) return NULL;
  if (!addon_i32(env, argv[1], &first) || !addon_i32(env, argv[2], &wrap) || ring->available != NULL || first < 0 ||
      (uint32_t)first >= ring->size)
    return addon_throw(env, "prefetchLook(id, first, wrap)");
  return ADDON_RESULT((int32_t)look_packed(ring, (uint32_t)first, wrap != 0));
}

void prefetch_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "prefetchCreate", prefetch_create);
  addon_export(env, exports, "prefetchClose", prefetch_close);
  addon_export(env, exports, "prefetchRun", prefetch_run);
  addon_export(env, exports, "prefetchLook", prefetch_look);
}
