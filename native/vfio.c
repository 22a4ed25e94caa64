// Control of a device by ioctl: what VFIO wants beyond mmap, pread and pwrite, which others do. The structures are laid
// out in TypeScript; the kernel checks them, and copies as many bytes as they say of themselves.
#include "addon.h"

#include <sys/ioctl.h>

// deviceControl(fd, request, bytes Uint8Array): what the ioctl returns, with the bytes as it left them
static napi_value device_control(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t fd;
  uint64_t request;
  uint8_t *bytes;
  size_t length;
  if (!addon_i32(env, argv[0], &fd) || !addon_u53(env, argv[1], &request) ||
      !addon_bytes(env, argv[2], &bytes, &length) || length == 0)
    return addon_throw(env, "deviceControl(fd, request, Uint8Array)");
  int result = ioctl(fd, (unsigned long)request, bytes);
  return ADDON_RESULT(result < 0 ? -errno : result);
}

// deviceControlValue(fd, request, value): the same with a number in place of a structure
static napi_value device_control_value(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t fd;
  uint64_t request, value;
  if (!addon_i32(env, argv[0], &fd) || !addon_u53(env, argv[1], &request) || !addon_u53(env, argv[2], &value))
    return addon_throw(env, "deviceControlValue(fd, request, value)");
  int result = ioctl(fd, (unsigned long)request, (unsigned long)value);
  return ADDON_RESULT(result < 0 ? -errno : result);
}

void vfio_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "deviceControl", device_control);
  addon_export(env, exports, "deviceControlValue", device_control_value);
}
