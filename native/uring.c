// Files as disks: io_uring's three system calls, a batch of transfers that do not wait, what a file says of itself, and
// its lock.
//
// The rings are mapped by mapMemory and driven from TypeScript. The kernel itself checks every address in them, and
// those of transferNow: a wrong one is an -EFAULT, not a crash.
#include "addon.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

// struct statx of Linux 6.1, whatever the headers here know.
#define STATX_BYTES 256
#define STATX_DIO_ALIGNMENT 0x2000
#define STATX_DIO_MEMORY_AT 152
#define STATX_DIO_OFFSET_AT 156

// uringSetup(entries, params Uint8Array(120)): fd; the kernel fills in the params
static napi_value uring_setup(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t entries;
  uint8_t *params;
  size_t length;
  if (!addon_i32(env, argv[0], &entries) || entries < 1 || !addon_bytes(env, argv[1], &params, &length) ||
      length != sizeof(struct io_uring_params))
    return addon_throw(env, "uringSetup(entries, Uint8Array(120))");
  long fd = syscall(SYS_io_uring_setup, entries, params);
  return ADDON_RESULT(fd < 0 ? -errno : fd);
}

// uringEnter(fd, toSubmit, flags): entries submitted. Never waits.
static napi_value uring_enter(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t fd, submit, flags;
  if (!addon_i32(env, argv[0], &fd) || !addon_i32(env, argv[1], &submit) || submit < 0 ||
      !addon_i32(env, argv[2], &flags))
    return addon_throw(env, "uringEnter(fd, toSubmit, flags)");
  long count = syscall(SYS_io_uring_enter, fd, submit, 0, flags, NULL, 0);
  return ADDON_RESULT(count < 0 ? -errno : count);
}

// uringWait(fd, count, timeoutNs): 0 when so many completed, or a negative errno: -ETIME for fewer in that time.
static napi_value uring_wait(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t fd, count, timeout_ns;
  if (!addon_i32(env, argv[0], &fd) || !addon_i32(env, argv[1], &count) || count < 1 ||
      !addon_i32(env, argv[2], &timeout_ns) || timeout_ns < 0 || timeout_ns > 999999999)
    return addon_throw(env, "uringWait(fd, count, timeoutNs below a second)");
  struct __kernel_timespec timeout = {.tv_nsec = timeout_ns};
  struct io_uring_getevents_arg argument = {.ts = (uint64_t)(uintptr_t)&timeout};
  long result = syscall(SYS_io_uring_enter, fd, 0, count, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
                        sizeof argument);
  return ADDON_RESULT(result < 0 ? -errno : 0);
}

// uringRegister(fd, opcode, Int32Array): 0. Files, no files any more, or one eventfd: what takes descriptors at most.
static napi_value uring_register(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t fd, opcode, *fds;
  size_t count;
  if (!addon_i32(env, argv[0], &fd) || !addon_i32(env, argv[1], &opcode) ||
      !addon_i32_array(env, argv[2], &fds, &count) || count < 1 ||
      opcode < IORING_REGISTER_FILES || opcode > IORING_REGISTER_EVENTFD)
    return addon_throw(env, "uringRegister(fd, opcode, Int32Array)");
  bool has_fds = opcode != IORING_UNREGISTER_FILES;
  long result = syscall(SYS_io_uring_register, fd, opcode, has_fds ? fds : NULL, has_fds ? count : 0);
  return ADDON_RESULT(result < 0 ? -errno : 0);
}

// transferNow(fd, flags, Float64Array, count): undefined. Each record is 5 elements: isWrite, address of the iovecs,
// how many, offset in the file, and room for the result: bytes, or a negative errno.
static napi_value transfer_now(napi_env env, napi_callback_info info) {
  ADDON_ARGS(4);
  int32_t fd, flags, count;
  double *record;
  size_t length;
  if (!addon_i32(env, argv[0], &fd) || !addon_i32(env, argv[1], &flags) ||
      !addon_f64_array(env, argv[2], &record, &length) || !addon_i32(env, argv[3], &count) || count < 0 ||
      (size_t)count > length / 5)
    return addon_throw(env, "transferNow(fd, flags, Float64Array, count)");
  for (; count > 0; count--, record += 5) {
    const struct iovec *iov = (const struct iovec *)(uintptr_t)record[1];
    ssize_t done = record[0] != 0 ? pwritev2(fd, iov, (int)record[2], (off_t)record[3], flags)
                                  : preadv2(fd, iov, (int)record[2], (off_t)record[3], flags);
    record[4] = done < 0 ? -(double)errno : (double)done;
  }
  return NULL;
}

// diskInfo(fd, out Float64Array(6)): 0; out is size, logical and physical block size (0 for a file), what O_DIRECT
// wants of addresses and of offsets (0: cannot, or the kernel does not say), and the file system's type
static napi_value disk_info(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t fd;
  double *out;
  size_t length;
  if (!addon_i32(env, argv[0], &fd) || !addon_f64_array(env, argv[1], &out, &length) || length < 6)
    return addon_throw(env, "diskInfo(fd, Float64Array(6))");
  struct stat stat;
  struct statfs fs;
  if (fstat(fd, &stat) < 0 || fstatfs(fd, &fs) < 0) return ADDON_RESULT(-errno);
  uint64_t size = (uint64_t)stat.st_size;
  int logical = 0;
  unsigned physical = 0;
  if (S_ISBLK(stat.st_mode) && (ioctl(fd, BLKGETSIZE64, &size) < 0 || ioctl(fd, BLKSSZGET, &logical) < 0 ||
                                ioctl(fd, BLKPBSZGET, &physical) < 0))
    return ADDON_RESULT(-errno);
  uint8_t statx[STATX_BYTES] = {0};
  uint32_t alignment[2] = {0};
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIO_ALIGNMENT, statx) == 0) {
    memcpy(&alignment[0], statx + STATX_DIO_MEMORY_AT, sizeof alignment[0]);
    memcpy(&alignment[1], statx + STATX_DIO_OFFSET_AT, sizeof alignment[1]);
  }
  double values[6] = {(double)size, logical, physical, alignment[0], alignment[1], (double)fs.f_type};
  memcpy(out, values, sizeof values);
  return ADDON_RESULT(0);
}

// lockFile(fd, isShared): 0. A lock of this open file, held until its last descriptor is closed and the kernel has
// ended every request on it: a shared one on its first byte, an exclusive one on all of it. Never waits.
static napi_value lock_file(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t fd, is_shared;
  if (!addon_i32(env, argv[0], &fd) || !addon_i32(env, argv[1], &is_shared))
    return addon_throw(env, "lockFile(fd, isShared)");
  struct flock lock = {.l_type = is_shared ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET, .l_len = is_shared ? 1 : 0};
  return ADDON_RESULT(fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0);
}

void uring_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "uringSetup", uring_setup);
  addon_export(env, exports, "uringEnter", uring_enter);
  addon_export(env, exports, "uringWait", uring_wait);
  addon_export(env, exports, "uringRegister", uring_register);
  addon_export(env, exports, "transferNow", transfer_now);
  addon_export(env, exports, "diskInfo", disk_info);
  addon_export(env, exports, "lockFile", lock_file);
}
