#include "core/measure/gemm_limit.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/errors.h"
#include "core/measure/packed_products.h"
#include "core/ops/cpu/product.h"
#include "core/ops/lanes.h"
#ifdef CFT_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace cft {
namespace {

using Clock = std::chrono::steady_clock;

void synchronize(const Model& model) {
#ifdef CFT_CUDA
  if (model.device().is_cuda()) c10::cuda::getCurrentCUDAStream(model.device().index()).synchronize();
#else
  (void)model;
#endif
}

struct Inputs {
  at::Tensor hidden;        // (rows, hidden)
  at::Tensor heads;         // (rows, heads * head_dim)
  at::Tensor intermediate;  // (rows, intermediate)
};

Inputs make_inputs(const Model& model, int64_t rows) {
  const ModelConfig& c = model.config();
  const auto options = at::TensorOptions().dtype(model.dtype()).device(model.device());
  return {at::full({rows, c.hidden_size}, 0.5, options), at::full({rows, c.heads * c.head_dim}, 0.5, options),
          at::full({rows, c.intermediate_size}, 0.5, options)};
}

void multiply(const Model& model, const Inputs& x) {
  for (const LayerWeights& w : model.layers()) {
    at::linear(x.hidden, w.qkv.weight);
    at::linear(x.heads, w.o.weight);
    at::linear(x.hidden, w.gate_up.weight);
    at::linear(x.intermediate, w.down.weight);
  }
  at::linear(x.hidden, model.head().weight);
}

// Rows shared by so many lanes.
std::vector<Inputs> make_lanes(const Model& model, int64_t rows, int64_t count) {
  std::vector<Inputs> lanes;
  for (int64_t lane = 0; lane < count; ++lane) {
    lanes.push_back(make_inputs(model, rows * (lane + 1) / count - rows * lane / count));
  }
  return lanes;
}

void step(const Model& model, const std::vector<Inputs>& lanes) {
  if (lanes.size() == 1) {
    multiply(model, lanes[0]);
  } else {
    run_lanes(static_cast<int64_t>(lanes.size()), [&](int64_t lane) { multiply(model, lanes[lane]); });
  }
  synchronize(model);
}

struct Timed {
  double seconds;  // the median
  int64_t count;
};

template <class Work>
Timed time_work(double seconds, const Work& work) {
  work();  // the first makes what later ones find ready
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point before = Clock::now();
    work();
    times.push_back(std::chrono::duration<double>(Clock::now() - before).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return {times[times.size() / 2], static_cast<int64_t>(times.size())};
}

GemmLimit time_steps(const Model& model, const std::vector<Inputs>& lanes, int64_t rows, double seconds) {
  const Timed timed = time_work(seconds, [&] { step(model, lanes); });
  return {static_cast<double>(rows) / timed.seconds, timed.count, "at::linear"};
}

// y = x W^T, dx = dy W and dW += dy^T x.
void train_product(const at::Tensor& weight, int64_t rows, bool own) {
  const at::Tensor x = at::full({rows, weight.size(1)}, 0.5, weight.options());
  if (own) {
    const at::Tensor y = cpu::multiply(x, weight.t());
    cpu::multiply(y, weight);
    cpu::multiply(y.t(), x);
    return;
  }
  const at::Tensor y = at::linear(x, weight);
  at::mm(y, weight);
  at::Tensor sum = at::empty_like(weight);
  at::addmm_out(sum, sum, y.t(), x, 0, 1);
}

}  // namespace

GemmLimit train_gemm_limit(const Model& model, int64_t rows, int64_t head_rows, double seconds) {
  if (rows < 1 || head_rows < 1) throw Error("ERR_CFT_BAD_OPTION", "rows: expected at least 1");
  const at::NoGradGuard no_grad;
  // One layer stands for all: the products are bound by arithmetic.
  const LayerWeights& w = model.layers()[0];
  std::vector<at::Tensor> weights;
  for (const Linear* linear : {&w.qkv, &w.o, &w.gate_up, &w.down})
    weights.push_back(linear->weight.to(at::kFloat));
  const at::Tensor head = model.head().weight.to(at::kFloat);
  const auto timed = [&](const auto& work) {
    return time_work(seconds / 2, [&] {
      work();
      synchronize(model);
    });
  };
  // A small model's threads each run a share of the rows through everything.
  const int64_t lanes = runs_by_lanes(model) ? std::min<int64_t>(at::get_num_threads(), rows) : 1;
  const auto shared = [&](const auto& product, int64_t count) {
    if (lanes == 1) return product(count);
    run_lanes(lanes, [&](int64_t) {
      const at::NoGradGuard no_grad_here;
      product(std::max<int64_t>(1, count / lanes));
    });
  };
  const auto limit = [&](bool own, const char* kernel) -> GemmLimit {
    const auto [layer, steps] = timed([&] {
      shared(
          [&](int64_t count) {
            for (const at::Tensor& weight : weights) train_product(weight, count, own);
          },
          rows);
    });
    const auto [head_seconds, head_steps] =
        timed([&] { shared([&](int64_t count) { train_product(head, count, own); }, head_rows); });
    const double step = static_cast<double>(model.config().layers) * layer + head_seconds;
    return {static_cast<double>(rows) / step, std::min(steps, head_steps), kernel};
  };
  const GemmLimit library = limit(false, "at::linear, at::mm, at::addmm");
  if (!model.device().is_cpu() || !cpu::multiplies_itself()) return library;
  const GemmLimit own = limit(true, "packed panels");
  return own.tokens_per_second > library.tokens_per_second ? own : library;
}

GemmLimit gemm_limit(Model& model, int64_t rows, double seconds) {
  if (rows < 1) throw Error("ERR_CFT_BAD_OPTION", "rows: expected at least 1");
  const bool small = runs_by_lanes(model);
  const int64_t lanes = std::min<int64_t>(at::get_num_threads(), rows);
  GemmLimit best = time_steps(model, make_lanes(model, rows, 1), rows, seconds);
  const auto also = [&](const GemmLimit& other) {
    if (other.tokens_per_second > best.tokens_per_second) best = other;
  };
  if (small && lanes > 1) also(time_steps(model, make_lanes(model, rows, lanes), rows, seconds));
  if (!model.device().is_cpu()) return best;
  cpu::PackedProducts products(model, rows, small);
  const Timed timed = time_work(seconds, [&] { products.step(); });
  also({static_cast<double>(rows) / timed.seconds, timed.count, "packed panels"});
  return best;
}

DeviceLimits device_limits(const Model& model, double seconds) {
  const auto options = at::TensorOptions().dtype(model.dtype()).device(model.device());
  const bool on_cpu = model.device().is_cpu();
  // Large enough for a GPU's full rate; a CPU would take seconds for it.
  const int64_t size = on_cpu ? 1024 : 8192, elements = (on_cpu ? int64_t{1} << 26 : int64_t{1} << 30) / 2;
  const at::Tensor a = at::full({size, size}, 0.5, options), b = at::full({size, size}, 0.25, options);
  at::Tensor product = at::empty({size, size}, options);
  constexpr int64_t kAtOnce = 4;  // so that waiting for the end does not count
  const Timed products = time_work(seconds, [&] {
    for (int64_t i = 0; i < kAtOnce; ++i) at::mm_out(product, a, b.t());
    synchronize(model);
  });
  const at::Tensor from = at::zeros({elements}, options.dtype(at::kShort));
  const at::Tensor to = at::empty_like(from);
  const Timed copies = time_work(seconds, [&] {
    for (int64_t i = 0; i < kAtOnce; ++i) to.copy_(from);
    synchronize(model);
  });
  const auto n = static_cast<double>(size);
  return {kAtOnce * 2 * n * n * n / products.seconds,
          static_cast<double>(kAtOnce * 2 * from.nbytes()) / copies.seconds};
}

}  // namespace cft
