// Landlock (Linux 5.13): after it the calling thread and what it starts reach only the files beneath given descriptors.
#include "addon.h"

#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Rights of later versions than the headers may know: REFER 2, TRUNCATE 3, IOCTL_DEV 5.
#define FS_REFER (1ULL << 13)
#define FS_TRUNCATE (1ULL << 14)
#define FS_IOCTL_DEV (1ULL << 15)
#define FS_READ (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_OF_FILES                                                                                   \
  (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |        \
   FS_TRUNCATE | FS_IOCTL_DEV)

static int allow(int ruleset, uint64_t rights, const int32_t *fds, size_t count) {
  for (size_t i = 0; i < count; i++) {
    struct stat stat;
    if (fstat(fds[i], &stat) < 0) return -errno;
    struct landlock_path_beneath_attr rule = {
        .allowed_access = S_ISDIR(stat.st_mode) ? rights : rights & FS_OF_FILES, .parent_fd = fds[i]};
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0) return -errno;
  }
  return 0;
}

// confine(readable Int32Array, writable Int32Array): 0. Descriptors of directories and files.
static napi_value confine(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t *readable, *writable;
  size_t readable_count, writable_count;
  if (!addon_i32_array(env, argv[0], &readable, &readable_count) ||
      !addon_i32_array(env, argv[1], &writable, &writable_count))
    return addon_throw(env, "confine(Int32Array, Int32Array)");
  long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 0) return ADDON_RESULT(-errno);
  uint64_t all = FS_REFER - 1;
  if (version >= 2) all |= FS_REFER;
  if (version >= 3) all |= FS_TRUNCATE;
  if (version >= 5) all |= FS_IOCTL_DEV;
  struct landlock_ruleset_attr handled = {.handled_access_fs = all};
  int ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
  if (ruleset < 0) return ADDON_RESULT(-errno);
  int error = allow(ruleset, FS_READ, readable, readable_count);
  if (error == 0) error = allow(ruleset, all, writable, writable_count);
  if (error == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) error = -errno;
  if (error == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0) error = -errno;
  close(ruleset);
  return ADDON_RESULT(error);
}

void confine_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "confine", confine);
}
