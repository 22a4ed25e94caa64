// Entry of the addon. Context-aware: the main thread and every reactor thread load it.
#include "addon.h"

#include <math.h>

napi_value addon_throw(napi_env env, const char *message) {
  napi_throw_type_error(env, "ERR_ADDON_ARGUMENT", message);
  return NULL;
}

napi_value addon_number(napi_env env, double value) {
  napi_value result;
  return napi_create_double(env, value, &result) == napi_ok ? result : NULL;
}

bool addon_i32(napi_env env, napi_value value, int32_t *out) {
  // Not napi_get_value_int32: it makes a 0 of NaN, and 0 is a descriptor.
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) return false;
  if (!(number >= INT32_MIN && number <= INT32_MAX) || number != (double)(int32_t)number) return false;
  *out = (int32_t)number;
  return true;
}

bool addon_f64(napi_env env, napi_value value, double *out) {
  return napi_get_value_double(env, value, out) == napi_ok;
}

bool addon_u53(napi_env env, napi_value value, uint64_t *out) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) return false;
  if (!(number >= 0 && number <= 9007199254740991.0) || number != floor(number)) return false;
  *out = (uint64_t)number;
  return true;
}

bool addon_string(napi_env env, napi_value value, char *out, size_t capacity) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok || length >= capacity) return false;
  return napi_get_value_string_utf8(env, value, out, capacity, &length) == napi_ok;
}

static bool typed_array(napi_env env, napi_value value, napi_typedarray_type *type, uint8_t **data, size_t *count) {
  void *start = NULL;
  if (napi_get_typedarray_info(env, value, type, count, &start, NULL, NULL) != napi_ok) return false;
  *data = start;
  return true;
}

bool addon_bytes(napi_env env, napi_value value, uint8_t **data, size_t *length) {
  napi_typedarray_type type;
  return typed_array(env, value, &type, data, length) && type == napi_uint8_array;
}

bool addon_i32_array(napi_env env, napi_value value, int32_t **data, size_t *length) {
  napi_typedarray_type type;
  return typed_array(env, value, &type, (uint8_t **)data, length) && type == napi_int32_array;
}

bool addon_f64_array(napi_env env, napi_value value, double **data, size_t *length) {
  napi_typedarray_type type;
  return typed_array(env, value, &type, (uint8_t **)data, length) && type == napi_float64_array;
}

napi_value addon_export(napi_env env, napi_value exports, const char *name, napi_callback call) {
  napi_value function;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, call, NULL, &function) != napi_ok ||
      napi_set_named_property(env, exports, name, function) != napi_ok)
    return addon_throw(env, "cannot export a function");
  return function;
}

NAPI_MODULE_INIT() {
  socket_exports(env, exports);
  memory_exports(env, exports);
  event_exports(env, exports);
  copy_exports(env, exports);
  gather_exports(env, exports);
  confine_exports(env, exports);
  thread_exports(env, exports);
  uring_exports(env, exports);
  vfio_exports(env, exports);
  stream_exports(env, exports);
  rbd_exports(env, exports);
  return exports;
}
