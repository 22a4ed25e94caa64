// Memory mappings, views of them as ArrayBuffers, and the SIGBUS guard.
//
// The guard: a front-end may truncate the file behind its memory while we have it mapped; the next access then raises
// SIGBUS. For a guarded mapping the handler puts zero pages in place of the lost ones, so that the access completes,
// marks the guard as hit and writes to an eventfd; the session that owns the memory is then failed by its owner.
#include "addon.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

// 8 sessions of 509 slots each; a mapping beyond it is refused, never left unguarded.
#define GUARDS_MAX 4096
// Guest memory is less; the engine may end the process for a buffer that is too long.
#define VIEW_BYTES_MAX ((uint64_t)1 << 40)

struct guard {
  atomic_uintptr_t start; // 0: free
  atomic_uintptr_t end;
  atomic_size_t page_size;
  atomic_int hit;
};

static struct guard guards[GUARDS_MAX];
static atomic_int guard_event_fd = -1;
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous_action;
static bool guard_installed;

// Async-signal-safe: atomics, mmap and write only.
static void on_sigbus(int signal, siginfo_t *info, void *context) {
  uintptr_t address = (uintptr_t)info->si_addr;
  for (int i = 0; i < GUARDS_MAX; i++) {
    uintptr_t start = atomic_load(&guards[i].start);
    uintptr_t end = atomic_load(&guards[i].end);
    if (start == 0 || address < start || address >= end) continue;
    int saved = errno;
    uintptr_t page = address & ~(atomic_load(&guards[i].page_size) - 1);
    void *mapped = mmap((void *)page, end - page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) break;
    atomic_store(&guards[i].hit, 1);
    uint64_t one = 1;
    ssize_t written = write(atomic_load(&guard_event_fd), &one, sizeof one);
    (void)written;
    errno = saved;
    return;
  }
  // Not ours: hand over to what was there before, and let the access fault again.
  if (previous_action.sa_flags & SA_SIGINFO) {
    previous_action.sa_sigaction(signal, info, context);
  } else {
    sigaction(SIGBUS, &previous_action, NULL);
  }
}

// Caller holds guard_lock.
static int guard_install(void) {
  if (guard_installed) return 0;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return -errno;
  atomic_store(&guard_event_fd, fd);
  struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &previous_action) < 0) return -errno;
  guard_installed = true;
  return 0;
}

// Slot of the guard, or a negative errno.
static int guard_add(uintptr_t start, size_t length, size_t page_size) {
  int result = -ENOSPC;
  pthread_mutex_lock(&guard_lock);
  int error = guard_install();
  for (int i = 0; error == 0 && i < GUARDS_MAX; i++) {
    if (atomic_load(&guards[i].start) != 0) continue;
    atomic_store(&guards[i].hit, 0);
    atomic_store(&guards[i].page_size, page_size);
    atomic_store(&guards[i].end, start + length);
    atomic_store(&guards[i].start, start);
    result = i;
    break;
  }
  pthread_mutex_unlock(&guard_lock);
  return error < 0 ? error : result;
}

// mapMemory(fd, offset, length, pageSize, guarded, out Float64Array(2)): 0; out is address and guard slot (or -1).
// fd -1 is private anonymous memory. pageSize only matters for a guarded mapping.
static napi_value map_memory(napi_env env, napi_callback_info info) {
  ADDON_ARGS(6);
  int32_t fd;
  uint64_t offset, length, page_size;
  bool guarded;
  double *out;
  size_t out_length;
  if (!addon_i32(env, argv[0], &fd) || !addon_u53(env, argv[1], &offset) || !addon_u53(env, argv[2], &length) ||
      !addon_u53(env, argv[3], &page_size) || napi_get_value_bool(env, argv[4], &guarded) != napi_ok ||
      !addon_f64_array(env, argv[5], &out, &out_length) || out_length < 2)
    return addon_throw(env, "mapMemory(fd, offset, length, pageSize, guarded, Float64Array(2))");
  if (page_size < 4096 || (page_size & (page_size - 1)) != 0) return ADDON_RESULT(-EINVAL);
  int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, (off_t)offset);
  if (address == MAP_FAILED) return ADDON_RESULT(-errno);
  int slot = -1;
  if (guarded) {
    slot = guard_add((uintptr_t)address, length, page_size);
    if (slot < 0) {
      munmap(address, length);
      return ADDON_RESULT(slot);
    }
  }
  out[0] = (double)(uintptr_t)address;
  out[1] = slot;
  return ADDON_RESULT(0);
}

// unmapMemory(address, length, guardSlot): 0
static napi_value unmap_memory(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  uint64_t address, length;
  int32_t slot;
  if (!addon_u53(env, argv[0], &address) || !addon_u53(env, argv[1], &length) || !addon_i32(env, argv[2], &slot) ||
      slot >= GUARDS_MAX)
    return addon_throw(env, "unmapMemory(address, length, guardSlot)");
  if (slot >= 0) {
    pthread_mutex_lock(&guard_lock);
    atomic_store(&guards[slot].start, 0);
    pthread_mutex_unlock(&guard_lock);
  }
  return ADDON_RESULT(munmap((void *)(uintptr_t)address, length) < 0 ? -errno : 0);
}

// guardEventFd(): an eventfd that becomes readable when a guarded mapping lost pages
static napi_value guard_event(napi_env env, napi_callback_info info) {
  (void)info;
  pthread_mutex_lock(&guard_lock);
  int error = guard_install();
  pthread_mutex_unlock(&guard_lock);
  return ADDON_RESULT(error < 0 ? error : atomic_load(&guard_event_fd));
}

// guardWasHit(slot): 1 or 0
static napi_value guard_was_hit(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t slot;
  if (!addon_i32(env, argv[0], &slot) || slot < 0 || slot >= GUARDS_MAX) return addon_throw(env, "no such guard");
  return ADDON_RESULT(atomic_load(&guards[slot].hit));
}

// viewMemory(address, length): ArrayBuffer over the bytes, which it does not own
static napi_value view_memory(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  uint64_t address, length;
  if (!addon_u53(env, argv[0], &address) || !addon_u53(env, argv[1], &length) || address == 0 ||
      length > VIEW_BYTES_MAX)
    return addon_throw(env, "viewMemory(address, length)");
  napi_value buffer;
  // SAFETY: sys/ makes views only of live mappings and detaches every view before it unmaps.
  if (napi_create_external_arraybuffer(env, (void *)(uintptr_t)address, length, NULL, NULL, &buffer) != napi_ok)
    return addon_throw(env, "this Node.js cannot make external array buffers");
  return buffer;
}

// detachView(arrayBuffer): 0. The buffer has length 0 afterwards; any later access through it is harmless.
static napi_value detach_view(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  return ADDON_RESULT(napi_detach_arraybuffer(env, argv[0]) == napi_ok ? 0 : -EINVAL);
}

// createMemoryFile(name, size, hugepageSize or 0, sealed): fd of a memfd, of which nobody can change the size if sealed
static napi_value create_memory_file(napi_env env, napi_callback_info info) {
  ADDON_ARGS(4);
  char name[200];
  uint64_t size, huge;
  bool sealed;
  if (!addon_string(env, argv[0], name, sizeof name) || !addon_u53(env, argv[1], &size) ||
      !addon_u53(env, argv[2], &huge) || napi_get_value_bool(env, argv[3], &sealed) != napi_ok)
    return addon_throw(env, "createMemoryFile(name, size, hugepageSize, sealed)");
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge != 0) flags |= MFD_HUGETLB | ((unsigned)__builtin_ctzll(huge) << MFD_HUGE_SHIFT);
  int fd = memfd_create(name, flags);
  if (fd < 0) return ADDON_RESULT(-errno);
  if (ftruncate(fd, (off_t)size) < 0 || (sealed && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)) {
    int error = errno;
    close(fd);
    return ADDON_RESULT(-error);
  }
  return ADDON_RESULT(fd);
}

// truncateFile(fd, size): 0
static napi_value truncate_file(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t fd;
  uint64_t size;
  if (!addon_i32(env, argv[0], &fd) || !addon_u53(env, argv[1], &size))
    return addon_throw(env, "truncateFile(fd, size)");
  return ADDON_RESULT(ftruncate(fd, (off_t)size) < 0 ? -errno : 0);
}

// fileInfo(fd, out Float64Array(3)): 0; out is size, page size for mmap, st_mode
static napi_value file_info(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t fd;
  double *out;
  size_t length;
  if (!addon_i32(env, argv[0], &fd) || !addon_f64_array(env, argv[1], &out, &length) || length < 3)
    return addon_throw(env, "fileInfo(fd, Float64Array(3))");
  struct stat stat;
  struct statfs fs;
  if (fstat(fd, &stat) < 0 || fstatfs(fd, &fs) < 0) return ADDON_RESULT(-errno);
  out[0] = (double)stat.st_size;
  out[1] = fs.f_type == HUGETLBFS_MAGIC ? (double)fs.f_bsize : (double)sysconf(_SC_PAGESIZE);
  out[2] = (double)stat.st_mode;
  return ADDON_RESULT(0);
}

// advise(address, length, advice): 0
static napi_value advise(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  uint64_t address, length;
  int32_t advice;
  if (!addon_u53(env, argv[0], &address) || !addon_u53(env, argv[1], &length) || !addon_i32(env, argv[2], &advice))
    return addon_throw(env, "advise(address, length, advice)");
  return ADDON_RESULT(madvise((void *)(uintptr_t)address, length, advice) < 0 ? -errno : 0);
}

void memory_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "mapMemory", map_memory);
  addon_export(env, exports, "unmapMemory", unmap_memory);
  addon_export(env, exports, "guardEventFd", guard_event);
  addon_export(env, exports, "guardWasHit", guard_was_hit);
  addon_export(env, exports, "viewMemory", view_memory);
  addon_export(env, exports, "detachView", detach_view);
  addon_export(env, exports, "createMemoryFile", create_memory_file);
  addon_export(env, exports, "truncateFile", truncate_file);
  addon_export(env, exports, "fileInfo", file_info);
  addon_export(env, exports, "advise", advise);
}
