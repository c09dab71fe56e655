// Reading JavaScript values into plain structs, with messages that name the field. TypeScript has already
// checked what users give; these checks keep a caller's mistake from becoming undefined behaviour.
#pragma once
#include <napi.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/io/safetensors.h"
#include "core/model/config.h"

namespace cft::binding {

Napi::Object need_object(const Napi::Value& value, const char* what);
double need_number(const Napi::Object& object, const char* field);
int64_t need_integer(const Napi::Object& object, const char* field);
bool need_bool(const Napi::Object& object, const char* field);
std::string need_string(const Napi::Object& object, const char* field);
std::vector<int32_t> need_int32s(const Napi::Value& value, const char* what);
std::vector<float> need_floats(const Napi::Value& value, const char* what);
std::vector<std::string> need_strings(const Napi::Value& value, const char* what);

std::vector<TensorEntry> need_tensor_entries(const Napi::Value& value, const char* what);
ModelConfig need_model_config(const Napi::Value& value);

// A new typed array with a copy of the values.
template <class TypedArray, class T>
TypedArray copy_array(Napi::Env env, const std::vector<T>& values) {
  TypedArray array = TypedArray::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(T));
  return array;
}
inline Napi::Int32Array int32s(Napi::Env env, const std::vector<int32_t>& v) {
  return copy_array<Napi::Int32Array>(env, v);
}
inline Napi::Float32Array floats(Napi::Env env, const std::vector<float>& v) {
  return copy_array<Napi::Float32Array>(env, v);
}

// A copy of a tensor's numbers as fp32 (compute thread).
std::vector<float> host_floats(const at::Tensor& tensor);

}  // namespace cft::binding
