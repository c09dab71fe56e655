// The functions of train_kernels.h for the instruction set that the including file is compiled for.
#include <cmath>
#include <limits>

#include "core/ops/cpu/product_impl.h"
#include "core/ops/cpu/softmax_sums.h"
#include "core/ops/cpu/train_kernels.h"
#include "core/ops/cpu/vectors.h"

namespace cft::cpu {
namespace {

CFT_INLINE int64_t whole_vectors(int64_t n) { return n / kWidth * kWidth; }

// One value through the function of vectors, so that a row's end has the arithmetic of its middle.
CFT_INLINE float exp_one(float x) {
  float lanes[kWidth];
  store(lanes, exp(all(x)));
  return lanes[0];
}

void rms_norm(const float* x, const float* weight, float* y, float* inverse, int64_t rows, int64_t n,
              float eps) {
  const int64_t whole = whole_vectors(n);
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    Vec squares = zero();
    for (int64_t i = 0; i < whole; i += kWidth) squares = fma(load(x + i), load(x + i), squares);
    float sum = lane_sum(squares);
    for (int64_t i = whole; i < n; ++i) sum += x[i] * x[i];
    const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
    inverse[r] = scale;
    for (int64_t i = 0; i < whole; i += kWidth) store(y + i, load(x + i) * all(scale) * load(weight + i));
    for (int64_t i = whole; i < n; ++i) y[i] = x[i] * scale * weight[i];
  }
}

void rms_norm_again(const float* x, const float* weight, const float* inverse, float* y, int64_t rows,
                    int64_t n) {
  const int64_t whole = whole_vectors(n);
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    const float scale = inverse[r];
    for (int64_t i = 0; i < whole; i += kWidth) store(y + i, load(x + i) * all(scale) * load(weight + i));
    for (int64_t i = whole; i < n; ++i) y[i] = x[i] * scale * weight[i];
  }
}

// With h = x * inverse and g = dy * weight: dx = inverse * (g - h * mean(g h)), dweight = sum over rows of dy
// h.
void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* inverse, float* dx,
                       float* dweight, int64_t rows, int64_t n, bool add) {
  const int64_t whole = whole_vectors(n);
  for (int64_t r = 0; r < rows; ++r, dy += n, x += n, dx += n) {
    const float scale = inverse[r];
    Vec products = zero();
    for (int64_t i = 0; i < whole; i += kWidth)
      products = fma(load(dy + i) * load(weight + i), load(x + i), products);
    float sum = lane_sum(products);
    for (int64_t i = whole; i < n; ++i) sum += dy[i] * weight[i] * x[i];
    const float pull = sum * scale * scale / static_cast<float>(n);  // mean(g h) * inverse, of x
    for (int64_t i = 0; i < whole; i += kWidth) {
      const Vec d = (load(dy + i) * load(weight + i) - load(x + i) * all(pull)) * all(scale);
      store(dx + i, add ? load(dx + i) + d : d);
    }
    for (int64_t i = whole; i < n; ++i) {
      const float d = (dy[i] * weight[i] - x[i] * pull) * scale;
      dx[i] = add ? dx[i] + d : d;
    }
    if (dweight == nullptr) continue;
    for (int64_t i = 0; i < whole; i += kWidth)
      store(dweight + i, fma(load(dy + i) * load(x + i), all(scale), load(dweight + i)));
    for (int64_t i = whole; i < n; ++i) dweight[i] += dy[i] * x[i] * scale;
  }
}

CFT_INLINE Vec sigmoid(Vec x) { return all(1.0f) / (all(1.0f) + exp(zero() - max(x, all(-88.0f)))); }

CFT_INLINE float sigmoid_one(float x) { return 1.0f / (1.0f + exp_one(-(x < -88.0f ? -88.0f : x))); }

void swiglu(const float* gate_up, float* act, int64_t rows, int64_t n) {
  const int64_t whole = whole_vectors(n);
  for (int64_t r = 0; r < rows; ++r, gate_up += 2 * n, act += n) {
    const float* up = gate_up + n;
    for (int64_t i = 0; i < whole; i += kWidth)
      store(act + i, load(gate_up + i) * sigmoid(load(gate_up + i)) * load(up + i));
    for (int64_t i = whole; i < n; ++i) act[i] = gate_up[i] * sigmoid_one(gate_up[i]) * up[i];
  }
}

void swiglu_backward(float* gate_up, float* d_act, int64_t rows, int64_t n) {
  const int64_t whole = whole_vectors(n);
  for (int64_t r = 0; r < rows; ++r, gate_up += 2 * n, d_act += n) {
    float* up = gate_up + n;
    for (int64_t i = 0; i < whole; i += kWidth) {
      const Vec g = load(gate_up + i), u = load(up + i), d = load(d_act + i);
      const Vec s = sigmoid(g), silu = g * s;
      store(gate_up + i, d * u * (s + silu * (all(1.0f) - s)));
      store(up + i, d * silu);
      store(d_act + i, silu * u);
    }
    for (int64_t i = whole; i < n; ++i) {
      const float g = gate_up[i], u = up[i], d = d_act[i], s = sigmoid_one(g), silu = g * s;
      gate_up[i] = d * u * (s + silu * (1.0f - s));
      up[i] = d * silu;
      d_act[i] = silu * u;
    }
  }
}

struct Range {
  int64_t first, last;
};

CFT_INLINE Range visible(const CausalRows& rows, int64_t r) {
  const int64_t position = rows.positions[r];
  const int64_t last = position + 1 < rows.keys ? position + 1 : rows.keys;
  return {rows.window > 0 && position + 1 > rows.window ? position + 1 - rows.window : 0, last};
}

void causal_softmax(float* scores, const CausalRows& rows, float* log_sums) {
  for (int64_t r = 0; r < rows.rows; ++r, scores += rows.keys) {
    const auto [first, last] = visible(rows, r);
    const int64_t whole = first + whole_vectors(last - first);
    Vec tops = all(-std::numeric_limits<float>::infinity());
    for (int64_t i = first; i < whole; i += kWidth) tops = max(tops, load(scores + i));
    float top = lane_max(tops);
    for (int64_t i = whole; i < last; ++i) top = scores[i] > top ? scores[i] : top;
    Vec sums = zero();
    for (int64_t i = first; i < whole; i += kWidth) {
      const Vec p = exp_or_nan((load(scores + i) - all(top)) * all(rows.scale));
      store(scores + i, p);
      sums = sums + p;
    }
    float sum = lane_sum(sums);
    for (int64_t i = whole; i < last; ++i) {
      scores[i] = exp_or_nan_one((scores[i] - top) * rows.scale);
      sum += scores[i];
    }
    log_sums[r] = top * rows.scale + std::log(sum);
    const float inverse = 1.0f / sum;
    for (int64_t i = first; i < whole; i += kWidth) store(scores + i, load(scores + i) * all(inverse));
    for (int64_t i = whole; i < last; ++i) scores[i] *= inverse;
    for (int64_t i = 0; i < first; ++i) scores[i] = 0.0f;
    for (int64_t i = last; i < rows.keys; ++i) scores[i] = 0.0f;
  }
}

void causal_softmax_backward(float* scores, float* gradients, const CausalRows& rows, const float* log_sums,
                             const float* deltas) {
  for (int64_t r = 0; r < rows.rows; ++r, scores += rows.keys, gradients += rows.keys) {
    const auto [first, last] = visible(rows, r);
    const int64_t whole = first + whole_vectors(last - first);
    const float log_sum = log_sums[r], delta = deltas[r];
    for (int64_t i = first; i < whole; i += kWidth) {
      const Vec p = exp_or_nan(load(scores + i) * all(rows.scale) - all(log_sum));
      store(scores + i, p);
      store(gradients + i, p * (load(gradients + i) - all(delta)) * all(rows.scale));
    }
    for (int64_t i = whole; i < last; ++i) {
      scores[i] = exp_or_nan_one(scores[i] * rows.scale - log_sum);
      gradients[i] = scores[i] * (gradients[i] - delta) * rows.scale;
    }
    // A single key has all the weight whatever its score; rounding would leave a slope there.
    if (last - first == 1 && std::isfinite(log_sum)) gradients[first] = 0.0f;
    for (int64_t i = 0; i < first; ++i) scores[i] = gradients[i] = 0.0f;
    for (int64_t i = last; i < rows.keys; ++i) scores[i] = gradients[i] = 0.0f;
  }
}

void cross_entropy(float* logits, int64_t rows, int64_t n, const int64_t* targets, const float* weights,
                   float* nll) {
  const int64_t whole = whole_vectors(n);
  for (int64_t r = 0; r < rows; ++r, logits += n) {
    const float top = largest(logits, n);
    const float at_target = logits[targets[r]];
    // Partial sums in double: a vocabulary is long.
    double sum = 0;
    for (int64_t begin = 0; begin < whole; begin += 64 * kWidth) {
      Vec sums = zero();
      for (int64_t i = begin; i < whole && i < begin + 64 * kWidth; i += kWidth) {
        const Vec p = exp_or_nan(load(logits + i) - all(top));
        store(logits + i, p);
        sums = sums + p;
      }
      sum += lane_sum(sums);
    }
    for (int64_t i = whole; i < n; ++i) {
      logits[i] = exp_or_nan_one(logits[i] - top);
      sum += logits[i];
    }
    nll[r] = static_cast<float>(top - at_target + std::log(sum));
    float scale = static_cast<float>(weights[r] / sum);
    if (!std::isfinite(nll[r])) scale = std::numeric_limits<float>::quiet_NaN();
    for (int64_t i = 0; i < whole; i += kWidth) store(logits + i, load(logits + i) * all(scale));
    for (int64_t i = whole; i < n; ++i) logits[i] *= scale;
    logits[targets[r]] -= weights[r];
  }
}

void token_scores(const float* logits, int64_t rows, int64_t n, const int64_t* targets, float* nll,
                  float* entropies, float* correct) {
  for (int64_t r = 0; r < rows; ++r, logits += n) {
    const SoftmaxSums sums = softmax_sums(logits, n);
    const float top = sums.top;
    const int64_t target = targets[r];
    nll[r] = static_cast<float>(top - logits[target] + sums.log_sum());
    entropies[r] = sums.entropy();
    // Of equal ones the first is the model's choice.
    int64_t first = 0;
    while (first < target && logits[first] != top) ++first;
    correct[r] = first == target && logits[target] == top ? 1.0f : 0.0f;
  }
}

// A hash of 32 bits (Chris Wellons' "lowbias32"): neighbouring indices give unrelated values.
CFT_INLINE uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

void dropout(float* x, int64_t count, uint32_t key, uint64_t first_index, float rate) {
  const auto limit = static_cast<uint32_t>(static_cast<double>(rate) * 4294967296.0);
  const float scale = 1.0f / (1.0f - rate);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t index = first_index + static_cast<uint64_t>(i);
    const uint32_t high = hash(key ^ static_cast<uint32_t>(index >> 32));
    x[i] *= hash(high ^ static_cast<uint32_t>(index)) < limit ? 0.0f : scale;
  }
}

double sum_of_squares(const float* x, int64_t count) {
  double sum = 0;
  const int64_t whole = whole_vectors(count);
  for (int64_t begin = 0; begin < whole; begin += 128 * kWidth) {
    Vec sums = zero();
    for (int64_t i = begin; i < whole && i < begin + 128 * kWidth; i += kWidth)
      sums = fma(load(x + i), load(x + i), sums);
    sum += lane_sum(sums);
  }
  for (int64_t i = whole; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

CFT_INLINE uint16_t round_nearest(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Up with the probability of the part that is cut off.
CFT_INLINE uint16_t round_stochastic(float value, uint32_t random) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000) == 0x7f800000) return round_nearest(value);
  return static_cast<uint16_t>((bits + (random & 0xffff)) >> 16);
}

CFT_INLINE Vec update(const AdamWTask& t, Vec w, Vec g, Vec& m, Vec& v) {
  m = fma(g - m, all(1.0f - t.beta1), m);
  v = fma(g * g, all(1.0f - t.beta2), v * all(t.beta2));
  const Vec denominator = fma(root(v), all(t.root_correction), all(t.epsilon));
  return w * all(t.decay) - all(t.step_size) * m / denominator;
}

void adamw(const AdamWTask& t) {
  alignas(64) float w[kWidth], g[kWidth], ms[kWidth], vs[kWidth];
  const int64_t whole = whole_vectors(t.count);
  if (t.weight != nullptr && t.m != nullptr) {
    for (int64_t i = 0; i < whole; i += kWidth) {
      Vec m = load(t.m + i), v = load(t.v + i);
      const Vec value = update(t, load(t.weight + i), load(t.gradient + i) * all(t.gradient_scale), m, v);
      store(t.m + i, m);
      store(t.v + i, v);
      store(t.weight + i, value);
      if (t.half_weight == nullptr) continue;
      store(w, value);
      for (int64_t k = 0; k < kWidth; ++k) t.half_weight[i + k] = round_nearest(w[k]);
    }
  }
  // What is left, and what is stored in halves, a vector at a time through memory.
  const int64_t from = t.weight != nullptr && t.m != nullptr ? whole : 0;
  for (int64_t i = from; i < t.count; i += kWidth) {
    const int64_t lanes = t.count - i < kWidth ? t.count - i : kWidth;
    for (int64_t k = 0; k < kWidth; ++k) {
      const bool in = k < lanes;
      w[k] = !in ? 0.0f : t.weight != nullptr ? t.weight[i + k] : widened(t.half_weight[i + k]);
      g[k] = in ? t.gradient[i + k] * t.gradient_scale : 0.0f;
      ms[k] = !in ? 0.0f : t.m != nullptr ? t.m[i + k] : widened(t.half_m[i + k]);
      vs[k] = !in ? 0.0f : t.v != nullptr ? t.v[i + k] : widened(t.half_v[i + k]);
    }
    Vec m = load(ms), v = load(vs);
    store(w, update(t, load(w), load(g), m, v));
    store(ms, m);
    store(vs, v);
    for (int64_t k = 0; k < lanes; ++k) {
      const uint32_t random = hash(t.random_key ^ (t.first_index + static_cast<uint32_t>(i + k)));
      if (t.weight != nullptr) t.weight[i + k] = w[k];
      if (t.half_weight != nullptr)
        t.half_weight[i + k] = t.weight != nullptr ? round_nearest(w[k]) : round_stochastic(w[k], random);
      if (t.m != nullptr) {
        t.m[i + k] = ms[k];
        t.v[i + k] = vs[k];
      } else {
        const uint32_t other = hash(random + 0x9e3779b9U);
        t.half_m[i + k] = round_stochastic(ms[k], random >> 16);
        t.half_v[i + k] = round_stochastic(vs[k], other);
      }
    }
  }
}

constexpr TrainKernels make_train_kernels(const char* name) {
  return {name,
          kPanel,
          pack_panels,
          multiply_panels,
          rms_norm,
          rms_norm_again,
          rms_norm_backward,
          swiglu,
          swiglu_backward,
          causal_softmax,
          causal_softmax_backward,
          cross_entropy,
          token_scores,
          dropout,
          sum_of_squares,
          adamw};
}

}  // namespace
}  // namespace cft::cpu
