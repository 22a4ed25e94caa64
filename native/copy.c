// The copy engine: one call carries out a round's copies between RAM disks and guest memory.
//
// JavaScript fills two arrays in native memory: struct iovec entries (guest segments) and operations. Guest memory is
// shared with a hostile guest, so the bytes may change during the copy; addresses and lengths were checked before and
// live in memory that no guest can reach.
#include "addon.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define ENGINES_MAX 1024
#define CHUNK_BYTES 512
#define LINE_BYTES 64
// From here on zeroing gives whole pages back to the system instead of writing them.
#define PUNCH_BYTES_MIN (64 * 1024)
#define PAGE_BYTES 4096

enum { COPY_READ = 0, COPY_WRITE = 1, COPY_ZERO = 2 };

// 32 bytes; sys/copy-engine.ts writes it as Float64Array and Uint32Array elements.
struct copy_operation {
  double address; // of the disk's bytes
  double length;  // bytes
  uint32_t kind;
  uint32_t iov_first;
  uint32_t iov_count;
  uint32_t unused;
};

struct engine {
  const struct iovec *iovs;
  uint32_t iov_capacity;
  const struct copy_operation *operations;
  uint32_t operation_capacity;
};

static struct engine engines[ENGINES_MAX];
static pthread_mutex_t engines_lock = PTHREAD_MUTEX_INITIALIZER;

// Copies, and meanwhile asks for the bytes that the next operation will read.
static inline void copy_and_prefetch(uint8_t *to, const uint8_t *from, size_t length, const uint8_t **next,
                                     const uint8_t *next_end) {
  while (length > 0) {
    size_t chunk = length < CHUNK_BYTES ? length : CHUNK_BYTES;
    const uint8_t *line = *next;
    for (size_t i = 0; i < CHUNK_BYTES && line < next_end; i += LINE_BYTES, line += LINE_BYTES)
      __builtin_prefetch(line, 0, 3);
    *next = line;
    memcpy(to, from, chunk);
    to += chunk;
    from += chunk;
    length -= chunk;
  }
}

static void zero(uint8_t *start, size_t length) {
  if (length >= PUNCH_BYTES_MIN) {
    uint8_t *page = (uint8_t *)(((uintptr_t)start + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    uint8_t *page_end = (uint8_t *)(((uintptr_t)start + length) & ~(uintptr_t)(PAGE_BYTES - 1));
    if (madvise(page, (size_t)(page_end - page), MADV_REMOVE) == 0) {
      memset(start, 0, (size_t)(page - start));
      memset(page_end, 0, (size_t)(start + length - page_end));
      return;
    }
  }
  memset(start, 0, length);
}

static void run(const struct engine *engine, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    const struct copy_operation *operation = &engine->operations[i];
    uint8_t *disk = (uint8_t *)(uintptr_t)operation->address;
    size_t left = (size_t)operation->length;
    if (operation->kind == COPY_ZERO) {
      zero(disk, left);
      continue;
    }
    const uint8_t *next = NULL, *next_end = NULL;
    if (i + 1 < count && operation[1].kind == COPY_READ) {
      next = (const uint8_t *)(uintptr_t)operation[1].address;
      next_end = next + (operation[1].length < 16384 ? (size_t)operation[1].length : 16384);
    }
    if (operation->iov_first > engine->iov_capacity ||
        operation->iov_count > engine->iov_capacity - operation->iov_first)
      continue;
    const struct iovec *iov = &engine->iovs[operation->iov_first];
    for (uint32_t s = 0; s < operation->iov_count && left > 0; s++) {
      size_t length = iov[s].iov_len < left ? iov[s].iov_len : left;
      if (operation->kind == COPY_READ) {
        copy_and_prefetch(iov[s].iov_base, disk, length, &next, next_end);
      } else {
        copy_and_prefetch(disk, iov[s].iov_base, length, &next, next_end);
      }
      disk += length;
      left -= length;
    }
  }
}

// copyEngineCreate(iovsAddress, iovCapacity, operationsAddress, operationCapacity): id
static napi_value copy_engine_create(napi_env env, napi_callback_info info) {
  ADDON_ARGS(4);
  uint64_t iovs, iov_capacity, operations, operation_capacity;
  if (!addon_u53(env, argv[0], &iovs) || !addon_u53(env, argv[1], &iov_capacity) ||
      !addon_u53(env, argv[2], &operations) || !addon_u53(env, argv[3], &operation_capacity) || iovs == 0 ||
      operations == 0 || iov_capacity > UINT32_MAX || operation_capacity > UINT32_MAX)
    return addon_throw(env, "copyEngineCreate(iovsAddress, iovCapacity, operationsAddress, operationCapacity)");
  int id = -ENOSPC;
  pthread_mutex_lock(&engines_lock);
  for (int i = 0; i < ENGINES_MAX; i++) {
    if (engines[i].iovs != NULL) continue;
    engines[i] = (struct engine){(const struct iovec *)(uintptr_t)iovs, (uint32_t)iov_capacity,
                                 (const struct copy_operation *)(uintptr_t)operations, (uint32_t)operation_capacity};
    id = i;
    break;
  }
  pthread_mutex_unlock(&engines_lock);
  return ADDON_RESULT(id);
}

static struct engine *engine_of(napi_env env, napi_value value) {
  int32_t id;
  if (!addon_i32(env, value, &id) || id < 0 || id >= ENGINES_MAX || engines[id].iovs == NULL) {
    addon_throw(env, "no such copy engine");
    return NULL;
  }
  return &engines[id];
}

// copyEngineClose(id): 0
static napi_value copy_engine_close(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct engine *engine = engine_of(env, argv[0]);
  if (engine == NULL) return NULL;
  pthread_mutex_lock(&engines_lock);
  engine->iovs = NULL;
  pthread_mutex_unlock(&engines_lock);
  return ADDON_RESULT(0);
}

// copyEngineRun(id, count): undefined. Carries out the first `count` operations in order.
static napi_value copy_engine_run(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t count;
  struct engine *engine = engine_of(env, argv[0]);
  if (engine == NULL) return NULL;
  if (!addon_i32(env, argv[1], &count) || count < 0 || (uint32_t)count > engine->operation_capacity)
    return addon_throw(env, "count is outside the operations");
  run(engine, (uint32_t)count);
  return NULL;
}

void copy_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "copyEngineCreate", copy_engine_create);
  addon_export(env, exports, "copyEngineClose", copy_engine_close);
  addon_export(env, exports, "copyEngineRun", copy_engine_run);
}
