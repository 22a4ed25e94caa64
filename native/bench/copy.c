// Ways to copy a round's blocks, and how fast each is alone: the limit of every target that moves data.
#include "bench.h"

#include <stdlib.h>
#include <sys/mman.h>

#define LINE_BYTES 64
#define CHUNK_BYTES 512
// How far ahead the next source is fetched: beyond that the hardware's own prefetcher has caught up.
#define AHEAD_BYTES 16384
#define OPS_MAX 1024

static void copy_prefetch(const struct copy_op *ops, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *to = ops[i].to;
    const uint8_t *from = ops[i].from, *line = NULL, *line_end = NULL;
    if (i + 1 < count) {
      line = ops[i + 1].from;
      line_end = line + (ops[i + 1].length < AHEAD_BYTES ? ops[i + 1].length : AHEAD_BYTES);
    }
    for (size_t left = ops[i].length; left > 0;) {
      size_t chunk = left < CHUNK_BYTES ? left : CHUNK_BYTES;
      for (int k = 0; k < CHUNK_BYTES / LINE_BYTES && line < line_end; k++, line += LINE_BYTES)
        __builtin_prefetch(line, 0, 3);
      memcpy(to, from, chunk);
      to += chunk;
      from += chunk;
      left -= chunk;
    }
  }
}

static void copy_rep_movsb(uint8_t *to, const uint8_t *from, size_t length) {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
#else
  memcpy(to, from, length);
#endif
}

// Past the caches, for targets that nobody reads soon. Addresses that are not aligned are copied the ordinary way.
static void copy_stream(uint8_t *to, const uint8_t *from, size_t length) {
#if defined(__x86_64__)
  if (((uintptr_t)to | length) % LINE_BYTES == 0) {
    for (size_t i = 0; i < length; i += 16)
      _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
    return;
  }
#endif
  memcpy(to, from, length);
}

void copy_batch(const struct copy_op *ops, uint32_t count, enum copy_way way) {
  switch (way) {
    case COPY_PREFETCH:
      copy_prefetch(ops, count);
      return;
    case COPY_REP_MOVSB:
      for (uint32_t i = 0; i < count; i++) copy_rep_movsb(ops[i].to, ops[i].from, ops[i].length);
      return;
    case COPY_STREAM:
      for (uint32_t i = 0; i < count; i++) copy_stream(ops[i].to, ops[i].from, ops[i].length);
#if defined(__x86_64__)
      _mm_sfence(); // streamed stores must be there before anybody is told
#endif
      return;
    default:
      for (uint32_t i = 0; i < count; i++) memcpy(ops[i].to, ops[i].from, ops[i].length);
  }
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
      ops[i] = is_write ? (struct copy_op){at, buffer, block_bytes} : (struct copy_op){buffer, at, block_bytes};
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
