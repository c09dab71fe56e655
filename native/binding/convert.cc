#include "binding/convert.h"

#include <cmath>

namespace cft::binding {
namespace {

[[noreturn]] void fail(Napi::Env env, const std::string& message) {
  throw Napi::TypeError::New(env, message);
}

Napi::Value field_of(const Napi::Object& object, const char* field) { return object.Get(field); }

}  // namespace

Napi::Object need_object(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) fail(value.Env(), std::string(what) + ": expected an object");
  return value.As<Napi::Object>();
}

double need_number(const Napi::Object& object, const char* field) {
  const Napi::Value value = field_of(object, field);
  if (!value.IsNumber()) fail(object.Env(), std::string(field) + ": expected a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t need_integer(const Napi::Object& object, const char* field) {
  const double value = need_number(object, field);
  if (!(std::abs(value) <= 9007199254740992.0) || value != std::floor(value)) {
    fail(object.Env(), std::string(field) + ": expected an integer");
  }
  return static_cast<int64_t>(value);
}

bool need_bool(const Napi::Object& object, const char* field) {
  const Napi::Value value = field_of(object, field);
  if (!value.IsBoolean()) fail(object.Env(), std::string(field) + ": expected true or false");
  return value.As<Napi::Boolean>().Value();
}

std::string need_string(const Napi::Object& object, const char* field) {
  const Napi::Value value = field_of(object, field);
  if (!value.IsString()) fail(object.Env(), std::string(field) + ": expected a string");
  return value.As<Napi::String>().Utf8Value();
}

std::vector<int32_t> need_int32s(const Napi::Value& value, const char* what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    fail(value.Env(), std::string(what) + ": expected an Int32Array");
  }
  const Napi::Int32Array array = value.As<Napi::Int32Array>();
  return std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<float> need_floats(const Napi::Value& value, const char* what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
    fail(value.Env(), std::string(what) + ": expected a Float32Array");
  }
  const Napi::Float32Array array = value.As<Napi::Float32Array>();
  return std::vector<float>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<std::string> need_strings(const Napi::Value& value, const char* what) {
  if (!value.IsArray()) fail(value.Env(), std::string(what) + ": expected an array of strings");
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    if (!item.IsString()) fail(value.Env(), std::string(what) + ": expected an array of strings");
    strings.push_back(item.As<Napi::String>().Utf8Value());
  }
  return strings;
}

std::vector<TensorEntry> need_tensor_entries(const Napi::Value& value, const char* what) {
  if (!value.IsArray()) fail(value.Env(), std::string(what) + ": expected an array");
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<TensorEntry> entries;
  entries.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::HandleScope scope(value.Env());
    const Napi::Object object = need_object(array.Get(i), what);
    TensorEntry entry;
    entry.name = need_string(object, "name");
    entry.file = need_string(object, "file");
    const std::string dtype = need_string(object, "dtype");
    if (dtype == "F32") {
      entry.dtype = at::kFloat;
    } else if (dtype == "F16") {
      entry.dtype = at::kHalf;
    } else if (dtype == "BF16") {
      entry.dtype = at::kBFloat16;
    } else {
      fail(value.Env(), "dtype of " + entry.name + ": expected F32, F16 or BF16, found " + dtype);
    }
    const Napi::Array shape = need_object(object.Get("shape"), "shape").As<Napi::Array>();
    for (uint32_t d = 0; d < shape.Length(); ++d) {
      entry.shape.push_back(shape.Get(d).ToNumber().Int64Value());
      if (entry.shape.back() < 0)
        fail(value.Env(), "shape of " + entry.name + ": expected sizes of 0 or more");
    }
    entry.offset = static_cast<uint64_t>(need_integer(object, "offset"));
    entry.byte_length = static_cast<uint64_t>(need_integer(object, "byteLength"));
    entries.push_back(std::move(entry));
  }
  return entries;
}

ModelConfig need_model_config(const Napi::Value& value) {
  const Napi::Object object = need_object(value, "config");
  ModelConfig c;
  c.vocab_size = need_integer(object, "vocabSize");
  c.hidden_size = need_integer(object, "hiddenSize");
  c.intermediate_size = need_integer(object, "intermediateSize");
  c.layers = need_integer(object, "layers");
  c.heads = need_integer(object, "heads");
  c.kv_heads = need_integer(object, "kvHeads");
  c.head_dim = need_integer(object, "headDim");
  c.rms_norm_eps = need_number(object, "rmsNormEps");
  c.tie_word_embeddings = need_bool(object, "tieWordEmbeddings");
  c.qkv_bias = need_bool(object, "qkvBias");
  c.output_bias = need_bool(object, "outputBias");
  c.mlp_bias = need_bool(object, "mlpBias");
  const std::string qk_norm = need_string(object, "qkNorm");
  c.qk_norm = qk_norm == "head"         ? QkNorm::kHead
              : qk_norm == "projection" ? QkNorm::kProjection
                                        : QkNorm::kNone;
  c.norm_placement =
      need_string(object, "normPlacement") == "post" ? NormPlacement::kPost : NormPlacement::kPre;
  c.max_positions = need_integer(object, "maxPositions");
  const Napi::Array ropes = need_object(object.Get("ropes"), "ropes").As<Napi::Array>();
  for (uint32_t i = 0; i < ropes.Length(); ++i) {
    const Napi::Object rope = need_object(ropes.Get(i), "rope");
    c.ropes.push_back({need_floats(rope.Get("inverseFrequencies"), "inverseFrequencies"),
                       static_cast<float>(need_number(rope, "scale"))});
    if (static_cast<int64_t>(c.ropes.back().inverse_frequencies.size()) * 2 != c.head_dim) {
      fail(value.Env(), "inverseFrequencies: expected headDim / 2 values");
    }
  }
  for (int32_t index : need_int32s(object.Get("ropeOfLayer"), "ropeOfLayer")) {
    if (index < 0 || index >= static_cast<int32_t>(c.ropes.size()))
      fail(value.Env(), "ropeOfLayer: out of range");
    c.rope_of_layer.push_back(index);
  }
  for (int32_t window : need_int32s(object.Get("windowOfLayer"), "windowOfLayer")) {
    if (window < 0) fail(value.Env(), "windowOfLayer: expected 0 or more");
    c.window_of_layer.push_back(window);
  }
  const bool positive = c.vocab_size > 0 && c.hidden_size > 0 && c.intermediate_size > 0 && c.layers > 0 &&
                        c.heads > 0 && c.kv_heads > 0 && c.head_dim > 0 && c.max_positions > 0;
  if (!positive || c.heads % c.kv_heads != 0)
    fail(value.Env(), "config: sizes must be positive, heads a multiple");
  if (static_cast<int64_t>(c.rope_of_layer.size()) != c.layers ||
      static_cast<int64_t>(c.window_of_layer.size()) != c.layers) {
    fail(value.Env(), "ropeOfLayer and windowOfLayer: expected one value per layer");
  }
  return c;
}

std::vector<float> host_floats(const at::Tensor& tensor) {
  const at::Tensor host = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const float* data = host.const_data_ptr<float>();
  return std::vector<float>(data, data + host.numel());
}

}  // namespace cft::binding
