// A file through a bare io_uring, with no rings of virtio, no client and no library: what a back-end could reach on it,
// by the way in which it learns of completions.
#include "bench.h"

#include <linux/io_uring.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Ways: look again and again; wait in io_uring_enter; sleep in epoll_wait on the ring's eventfd; look again and again,
// but offer the core to others after each look that found nothing.
enum { LEARN_POLL = 0, LEARN_WAIT = 1, LEARN_EVENT = 2, LEARN_OFFER = 3 };
enum { DEPTH_MAX = 256, BUFFER_ALIGNMENT = 4096 };

struct bare_ring {
  int fd, event_fd, epoll_fd;
  uint8_t *rings;
  size_t rings_bytes;
  struct io_uring_sqe *entries;
  struct io_uring_params params;
  uint32_t tail, head;
};

static inline uint32_t *word_at(const struct bare_ring *ring, uint32_t offset) {
  return (uint32_t *)(ring->rings + offset);
}

static int enter(const struct bare_ring *ring, uint32_t submit, uint32_t wait) {
  return (int)syscall(SYS_io_uring_enter, ring->fd, submit, wait, IORING_ENTER_GETEVENTS, NULL, 0);
}

// 0, or a negative errno. One thread uses the ring, which has the file as its only one.
static int open_ring(struct bare_ring *ring, int file, bool has_event) {
  ring->params.flags = 1 << 12 | 1 << 13; // SINGLE_ISSUER, DEFER_TASKRUN: Linux 6.1
  ring->fd = (int)syscall(SYS_io_uring_setup, DEPTH_MAX, &ring->params);
  if (ring->fd < 0) return -errno;
  const struct io_uring_params *params = &ring->params;
  ring->rings_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
  int both = PROT_READ | PROT_WRITE;
  ring->rings = mmap(NULL, ring->rings_bytes, both, MAP_SHARED, ring->fd, IORING_OFF_SQ_RING);
  ring->entries = mmap(NULL, params->sq_entries * sizeof *ring->entries, both, MAP_SHARED, ring->fd, IORING_OFF_SQES);
  if (ring->rings == MAP_FAILED || ring->entries == MAP_FAILED) return -errno;
  for (uint32_t i = 0; i < params->sq_entries; i++) word_at(ring, params->sq_off.array)[i] = i;
  if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_FILES, &file, 1) < 0) return -errno;
  if (!has_event) return 0;
  struct epoll_event event = {.events = EPOLLIN};
  ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  ring->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  epoll_ctl(ring->epoll_fd, EPOLL_CTL_ADD, ring->event_fd, &event);
  return syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_EVENTFD, &ring->event_fd, 1) < 0 ? -errno : 0;
}

static void close_ring(struct bare_ring *ring) {
  if (ring->event_fd > 0) close(ring->event_fd);
  if (ring->epoll_fd > 0) close(ring->epoll_fd);
  if (ring->entries != NULL) munmap(ring->entries, ring->params.sq_entries * sizeof *ring->entries);
  if (ring->rings != NULL) munmap(ring->rings, ring->rings_bytes);
  if (ring->fd >= 0) close(ring->fd);
}

static void queue_one(struct bare_ring *ring, struct iovec *iov, uint64_t offset, bool is_write) {
  struct io_uring_sqe *entry = &ring->entries[ring->tail & (ring->params.sq_entries - 1)];
  memset(entry, 0, sizeof *entry);
  entry->opcode = is_write ? IORING_OP_WRITEV : IORING_OP_READV;
  entry->flags = IOSQE_FIXED_FILE;
  entry->off = offset;
  entry->addr = (uint64_t)(uintptr_t)iov;
  entry->len = 1;
  entry->user_data = (uint64_t)(uintptr_t)iov;
  __atomic_store_n(word_at(ring, ring->params.sq_off.tail), ++ring->tail, __ATOMIC_RELEASE);
}

static void learn(const struct bare_ring *ring, uint32_t submit, int way) {
  enter(ring, submit, way == LEARN_WAIT ? 1 : 0);
  if (__atomic_load_n(word_at(ring, ring->params.cq_off.tail), __ATOMIC_ACQUIRE) != ring->head) return;
  if (way == LEARN_OFFER) sched_yield();
  if (way != LEARN_EVENT) return;
  struct epoll_event event;
  uint64_t count;
  epoll_wait(ring->epoll_fd, &event, 1, -1);
  if (read(ring->event_fd, &count, sizeof count) > 0) enter(ring, 0, 0);
}

// Requests that ended in that time, or a negative errno.
static int64_t work(struct bare_ring *ring, struct iovec *iovs, uint32_t depth, uint64_t blocks, bool is_write, int way,
                    uint64_t *ticks) {
  const struct io_uring_cqe *cqes = (const void *)(ring->rings + ring->params.cq_off.cqes);
  size_t block_bytes = iovs[0].iov_len;
  uint64_t random = clock_ticks() | 1, start = clock_ticks(), now = start, end = start + *ticks;
  uint32_t to_submit = depth, in_flight = depth;
  int64_t done = 0;
  for (uint32_t i = 0; i < depth; i++) queue_one(ring, &iovs[i], (i % blocks) * block_bytes, is_write);
  while (in_flight > 0) {
    learn(ring, to_submit, way);
    to_submit = 0;
    now = clock_ticks();
    for (; ring->head != __atomic_load_n(word_at(ring, ring->params.cq_off.tail), __ATOMIC_ACQUIRE); in_flight--) {
      const struct io_uring_cqe *cqe = &cqes[ring->head++ & (ring->params.cq_entries - 1)];
      if (cqe->res != (int)block_bytes) return cqe->res < 0 ? cqe->res : -EIO;
      done += now < end;
      if (now >= end) continue;
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      queue_one(ring, (struct iovec *)(uintptr_t)cqe->user_data, random % blocks * block_bytes, is_write);
      to_submit++;
      in_flight++;
    }
    __atomic_store_n(word_at(ring, ring->params.cq_off.head), ring->head, __ATOMIC_RELEASE);
    if (now < end) *ticks = now - start;
  }
  return done;
}

// fileRate(fd, blocks, blockBytes, depth, isWrite, way, durationNs): random blocks a second, or a negative errno. The
// file is open with O_DIRECT; the ring is the calling thread's.
static napi_value file_rate(napi_env env, napi_callback_info info) {
  BENCH_ARGS(7);
  double values[7];
  for (int i = 0; i < 7; i++) {
    values[i] = bench_f64(env, argv[i]);
    if (!(values[i] >= 0)) return bench_throw(env, "fileRate takes seven numbers");
  }
  uint32_t depth = (uint32_t)values[3];
  size_t block_bytes = (size_t)values[2];
  if (values[1] < 1 || block_bytes < 512 || block_bytes > 1 << 20 || depth < 1 || depth > DEPTH_MAX ||
      values[5] > LEARN_OFFER)
    return bench_throw(env, "fileRate: a size, the depth or the way is out of range");
  struct bare_ring ring = {.fd = -1};
  struct iovec iovs[DEPTH_MAX];
  size_t bytes = (depth * block_bytes + BUFFER_ALIGNMENT - 1) & ~(size_t)(BUFFER_ALIGNMENT - 1);
  uint8_t *buffers = aligned_alloc(BUFFER_ALIGNMENT, bytes);
  if (buffers == NULL) return bench_number(env, -ENOMEM);
  memset(buffers, 0x5a, depth * block_bytes);
  for (uint32_t i = 0; i < depth; i++) iovs[i] = (struct iovec){buffers + i * block_bytes, block_bytes};
  double ns_per_tick = clock_ns_per_tick();
  uint64_t ticks = (uint64_t)(values[6] / ns_per_tick);
  int64_t result = open_ring(&ring, (int)values[0], values[5] == LEARN_EVENT);
  if (result == 0) result = work(&ring, iovs, depth, (uint64_t)values[1], values[4] != 0, (int)values[5], &ticks);
  // Closing the ring ends what a failed request left in flight before its buffers go.
  close_ring(&ring);
  if (result >= 0) free(buffers);
  return bench_number(env, result < 0 ? (double)result : (double)result / ((double)ticks * ns_per_tick) * 1e9);
}

void disk_exports(napi_env env, napi_value exports) {
  bench_export(env, exports, "fileRate", file_rate);
}
