// Entry of the benchmark's addon, and its argument helpers over plain Node-API.
#include "bench.h"

#include <math.h>

napi_value bench_throw(napi_env env, const char *message) {
  napi_throw_type_error(env, "ERR_BENCH_ARGUMENT", message);
  return NULL;
}

napi_value bench_number(napi_env env, double value) {
  napi_value result;
  return napi_create_double(env, value, &result) == napi_ok ? result : NULL;
}

double bench_f64(napi_env env, napi_value value) {
  double number;
  return napi_get_value_double(env, value, &number) == napi_ok ? number : NAN;
}

double *bench_array(napi_env env, napi_value value, size_t count) {
  napi_typedarray_type type;
  size_t length = 0;
  void *data = NULL;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, NULL, NULL) != napi_ok) return NULL;
  return type == napi_float64_array && length >= count ? data : NULL;
}

void bench_export(napi_env env, napi_value exports, const char *name, napi_callback call) {
  napi_value function;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, call, NULL, &function) != napi_ok ||
      napi_set_named_property(env, exports, name, function) != napi_ok)
    bench_throw(env, "cannot export a function");
}

NAPI_MODULE_INIT() {
  clock_exports(env, exports);
  client_exports(env, exports);
  limit_exports(env, exports);
  copy_exports(env, exports);
  wake_exports(env, exports);
  disk_exports(env, exports);
  return exports;
}
