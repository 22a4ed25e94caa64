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
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#define ENGINES_MAX 1024
#define LINE_BYTES 64
// Of a copy's source, what is asked for before its turn: the processor's own prefetcher follows a block once it has
// begun, but does not see the next one.
#define HEAD_BYTES 512
// How early: so many bytes of other copies, or so many other copies, come before it.
#define AHEAD_BYTES 8192
#define AHEAD 8
// From here on zeroing gives whole pages back to the system instead of writing them.
#define RETURN_BYTES_MIN (64 * 1024)
#define PAGE_BYTES 4096

// COPY_STREAM writes past the caches.
enum { COPY_READ = 0, COPY_WRITE = 1, COPY_ZERO = 2, COPY_STREAM = 3, COPY_FILL = 4 };

// 24 bytes; sys/copy-engine.ts writes it as Float64Array and Uint32Array elements.
struct copy_operation {
  double address; // of the disk's bytes
  double length;  // bytes
  uint32_t iov_first;
  uint16_t iov_count;
  uint16_t kind;
};

struct engine {
  const struct iovec *iovs;
  uint32_t iov_capacity;
  const struct copy_operation *operations;
  uint32_t operation_capacity;
};

static struct engine engines[ENGINES_MAX];
static pthread_mutex_t engines_lock = PTHREAD_MUTEX_INITIALIZER;

// Copies that wait for their sources to arrive, made in the order in which they entered.
struct pipeline {
  uint32_t head, tail; // free-running
  size_t bytes;
  bool has_streamed;
  struct copy {
    uint8_t *to;
    const uint8_t *from;
    size_t length;
    bool is_stream;
  } copies[AHEAD];
};

static inline void copy_oldest(struct pipeline *pipeline) {
  const struct copy *copy = &pipeline->copies[pipeline->head++ % AHEAD];
  pipeline->bytes -= copy->length;
#if defined(__x86_64__)
  if (copy->is_stream) {
    for (size_t i = 0; i < copy->length; i += LINE_BYTES) {
      const __m128i *from = (const __m128i *)(copy->from + i);
      __m128i *to = (__m128i *)(copy->to + i);
      __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
      __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
      _mm_stream_si128(to, a);
      _mm_stream_si128(to + 1, b);
      _mm_stream_si128(to + 2, c);
      _mm_stream_si128(to + 3, d);
    }
    return;
  }
#endif
  memcpy(copy->to, copy->from, copy->length);
}

static inline void drain(struct pipeline *pipeline) {
  while (pipeline->head != pipeline->tail) copy_oldest(pipeline);
#if defined(__x86_64__)
  // Streamed stores are ordered with nothing else: they must be there before a completion is.
  if (pipeline->has_streamed) _mm_sfence();
#endif
  pipeline->has_streamed = false;
}

static inline void enter(struct pipeline *pipeline, uint8_t *to, const uint8_t *from, size_t length, bool stream) {
  bool is_stream = stream && ((uintptr_t)to | length) % LINE_BYTES == 0;
  for (size_t i = 0; i < HEAD_BYTES && i < length; i += LINE_BYTES) __builtin_prefetch(from + i, 0, 3);
  if (pipeline->tail - pipeline->head == AHEAD) copy_oldest(pipeline);
  pipeline->copies[pipeline->tail++ % AHEAD] = (struct copy){to, from, length, is_stream};
  pipeline->has_streamed |= is_stream;
  pipeline->bytes += length;
  while (pipeline->bytes - pipeline->copies[pipeline->head % AHEAD].length >= AHEAD_BYTES) copy_oldest(pipeline);
}

// Private anonymous memory: pages that are given back read as zeroes.
static void zero(uint8_t *start, size_t length) {
  if (length >= RETURN_BYTES_MIN) {
    uint8_t *page = (uint8_t *)(((uintptr_t)start + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    uint8_t *page_end = (uint8_t *)(((uintptr_t)start + length) & ~(uintptr_t)(PAGE_BYTES - 1));
    if (madvise(page, (size_t)(page_end - page), MADV_DONTNEED) == 0) {
      memset(start, 0, (size_t)(page - start));
      memset(page_end, 0, (size_t)(start + length - page_end));
      return;
    }
  }
  memset(start, 0, length);
}

static void run(const struct engine *engine, uint32_t count) {
  struct pipeline pipeline = {.bytes = 0, .has_streamed = false};
  for (uint32_t i = 0; i < count; i++) {
    const struct copy_operation *operation = &engine->operations[i];
    uint8_t *disk = (uint8_t *)(uintptr_t)operation->address;
    size_t left = (size_t)operation->length;
    if (operation->kind == COPY_ZERO || operation->kind == COPY_FILL) {
      drain(&pipeline);
      // Pages of shared memory that are given back keep their content in its file.
      if (operation->kind == COPY_FILL) memset(disk, 0, left);
      else zero(disk, left);
      continue;
    }
    if (operation->iov_first > engine->iov_capacity ||
        operation->iov_count > engine->iov_capacity - operation->iov_first)
      continue;
    const struct iovec *iov = &engine->iovs[operation->iov_first];
    for (uint32_t s = 0; s < operation->iov_count && left > 0; s++) {
      size_t length = iov[s].iov_len < left ? iov[s].iov_len : left;
      if (operation->kind == COPY_READ) {
        enter(&pipeline, iov[s].iov_base, disk, length, false);
      } else {
        enter(&pipeline, disk, iov[s].iov_base, length, operation->kind == COPY_STREAM);
      }
      disk += length;
      left -= length;
    }
  }
  drain(&pipeline);
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
