// Ways to copy a round's blocks, and how fast each is alone: the limit of every target that moves data.
#include "bench.h"

#include <stdlib.h>
#include <sys/mman.h>

#define LINE_BYTES 64
// Of a source, what is fetched before its turn: the hardware's own prefetcher follows a block once it has begun, but
// does not see the next one.
#define HEAD_BYTES 512
// How early: so many bytes of other blocks are copied meanwhile.
#define AHEAD_BYTES 4096
#define OPS_MAX 1024

static inline void fetch_head(const struct copy_op *op) {
  size_t head = op->length < HEAD_BYTES ? op->length : HEAD_BYTES;
  for (size_t at = 0; at < head; at += LINE_BYTES) __builtin_prefetch(op->from + at, 0, 3);
}

static inline void copy_rep_movsb(uint8_t *to, const uint8_t *from, size_t length) {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
#else
  memcpy(to, from, length);
#endif
}

// Past the caches: the target's lines are neither read before nor kept after. Odd addresses go the ordinary way.
static inline void copy_stream(uint8_t *to, const uint8_t *from, size_t length) {
#if defined(__x86_64__)
  if (((uintptr_t)to | length) % LINE_BYTES == 0) {
    for (size_t i = 0; i < length; i += LINE_BYTES) {
      const __m128i *source = (const __m128i *)(from + i);
      __m128i *target = (__m128i *)(to + i);
      __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
      __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
      _mm_stream_si128(target, a);
      _mm_stream_si128(target + 1, b);
      _mm_stream_si128(target + 2, c);
      _mm_stream_si128(target + 3, d);
    }
    return;
  }
#endif
  memcpy(to, from, length);
}

static inline void copy_one(const struct copy_op *op, enum copy_way way) {
  bool is_stream = way == COPY_STREAM || (way == COPY_STREAM_WRITES && op->is_to_disk);
  if (way == COPY_REP_MOVSB) copy_rep_movsb(op->to, op->from, op->length);
  else if (is_stream) copy_stream(op->to, op->from, op->length);
  else memcpy(op->to, op->from, op->length);
}

void copy_batch(const struct copy_op *ops, uint32_t count, enum copy_way way) {
  if (count == 0) return;
  // Far enough for small blocks, and not so far that a large one drives the next head out of the cache.
  uint32_t ahead = ops[0].length * 2 >= AHEAD_BYTES ? 2 : (uint32_t)(AHEAD_BYTES / ops[0].length);
  bool is_fetching = way != COPY_MEMCPY;
  for (uint32_t i = 1; is_fetching && i < ahead && i < count; i++) fetch_head(&ops[i]);
  for (uint32_t i = 0; i < count; i++) {
    if (is_fetching && i + ahead < count) fetch_head(&ops[i + ahead]);
    copy_one(&ops[i], way);
  }
#if defined(__x86_64__)
  _mm_sfence(); // what was streamed must be there before anybody is told
#endif
}

// copyRate(diskBytes, blockBytes, depth, writePercent, isSequential, way, durationNs): blocks a second between a disk
// and `depth` buffers, with no ring and no other core.
static napi_value copy_rate(napi_env env, napi_callback_info info) {
  BENCH_ARGS(7);
  double values[7];
  for (int i = 0; i < 7; i++) {
    values[i] = bench_f64(env, argv[i]);
    if (!(values[i] >= 0)) return bench_throw(env, "copyRate takes seven numbers");
  }
  size_t disk_bytes = (size_t)values[0], block_bytes = (size_t)values[1];
  uint32_t depth = (uint32_t)values[2], write_percent = (uint32_t)values[3];
  if (block_bytes == 0 || disk_bytes < block_bytes || depth == 0 || depth > OPS_MAX)
    return bench_throw(env, "copyRate: a size or the depth is out of range");
  size_t bytes = disk_bytes + depth * block_bytes;
  uint8_t *disk = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (disk == MAP_FAILED) return bench_number(env, -errno);
  madvise(disk, disk_bytes, MADV_HUGEPAGE);
  memset(disk, 1, bytes);
  uint8_t *buffers = disk + disk_bytes;
  uint64_t blocks = disk_bytes / block_bytes, random = 0x9e3779b97f4a7c15u, cursor = 0, copied = 0;
  double ns_per_tick = clock_ns_per_tick();
  uint64_t start = clock_ticks(), now = start, end = start + (uint64_t)(values[6] / ns_per_tick);
  struct copy_op ops[OPS_MAX];
  while (now < end) {
    for (uint32_t i = 0; i < depth; i++) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      uint64_t block = values[4] != 0 ? cursor++ % blocks : (uint64_t)(((unsigned __int128)random * blocks) >> 64);
      uint8_t *at = disk + block * block_bytes, *buffer = buffers + i * block_bytes;
      bool is_write = random % 100 < write_percent;
      ops[i] = (struct copy_op){is_write ? at : buffer, is_write ? buffer : at, block_bytes, is_write};
    }
    copy_batch(ops, depth, (enum copy_way)values[5]);
    copied += depth;
    now = clock_ticks();
  }
  munmap(disk, bytes);
  return bench_number(env, (double)copied / ((double)(now - start) * ns_per_tick) * 1e9);
}

void copy_exports(napi_env env, napi_value exports) {
  bench_export(env, exports, "copyRate", copy_rate);
}
