// Training's kernels under the emulator, as they are launched on a GPU, against libtorch in double precision
// and against the CPU's own kernels: sizes that are no multiple of anything and sizes that go 16 bytes at a
// time, fp32 and bf16, threads in either order. With a GPU the same once more on the real thing ("CUDA:
// ...").
#include <cmath>
#include <limits>

#include "core/ops/cpu/train_kernels.h"
#include "test/emulator/training_case.h"

namespace {

void check_norm(at::ScalarType dtype, int64_t rows, int64_t width) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(dtype);
  const at::Tensor x = random({rows, width}, 1, dtype), weight = random({width}, 2, dtype),
                   dy = random({rows, width}, 3, dtype);
  const at::Tensor wide_x = x.to(at::kDouble).requires_grad_(true),
                   wide_weight = weight.to(at::kDouble).requires_grad_(true);
  const at::Tensor inverse = at::rsqrt(wide_x.square().mean(1) + 1e-5);
  const at::Tensor y = wide_x * inverse.unsqueeze(1) * wide_weight;
  y.backward(dy.to(at::kDouble));
  in_both_orders([&] {
    const at::Tensor found = poison({rows, width}, dtype), kept = poison({rows}, at::kFloat),
                     dx = poison({rows, width}, dtype), dweight = poison({width}, at::kFloat),
                     partial = poison({kernels().norm_parts(rows), width}, at::kFloat);
    CftTrainNorm work{cft::ops::dtype_of(x), rows,           width,        1e-5f,    data(x),
                      data(weight),          data(found),    floats(kept), data(dy), data(dx),
                      floats(dweight),       floats(partial)};
    run(kernels().norm, work);
    check_close(kept, inverse.detach());
    check_close(found, y.detach());
    run(kernels().norm_backward, work);
    check_close(dx, wide_x.grad());
    check_close(dweight, wide_weight.grad(), std::sqrt(static_cast<double>(rows)));
    const at::Tensor alone = poison({rows, width}, dtype);
    work.dx = data(alone);
    work.dweight = work.partial = nullptr;
    run(kernels().norm_backward, work);
    CHECK(same_bits(alone, dx));
  });
}

void check_swiglu(at::ScalarType dtype, int64_t rows, int64_t width, bool side_by_side) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(side_by_side);
  const at::Tensor both = random({rows, 2 * width}, 4, dtype) * 4, d_act = random({rows, width}, 5, dtype);
  const at::Tensor gate = side_by_side ? both.narrow(1, 0, width) : both.narrow(1, 0, width).contiguous();
  const at::Tensor up =
      side_by_side ? both.narrow(1, width, width) : both.narrow(1, width, width).contiguous();
  const at::Tensor wide_gate = gate.to(at::kDouble).requires_grad_(true),
                   wide_up = up.to(at::kDouble).requires_grad_(true);
  const at::Tensor act = at::silu(wide_gate) * wide_up;
  act.backward(d_act.to(at::kDouble));
  in_both_orders([&] {
    const at::Tensor found = poison({rows, width}, dtype), d_both = poison({rows, 2 * width}, dtype);
    CftTrainSwiglu work{};
    work.dtype = cft::ops::dtype_of(both);
    work.rows = rows;
    work.width = width;
    work.gate = data(gate);
    work.up = data(up);
    work.stride = gate.stride(0);
    work.act = data(found);
    work.d_act = data(d_act);
    work.d_gate = data(d_both);
    work.d_up = data(d_both.narrow(1, width, width));
    work.d_stride = 2 * width;
    run(kernels().swiglu, work);
    check_close(found, act.detach());
    run(kernels().swiglu_backward, work);
    check_close(d_both.narrow(1, 0, width), wide_gate.grad());
    check_close(d_both.narrow(1, width, width), wide_up.grad());
  });
}

void check_rope(at::ScalarType dtype, int64_t heads, int64_t d) {
  CAPTURE(heads);
  CAPTURE(d);
  const int64_t rows = 5, half = d / 2;
  const at::Tensor positions = at::tensor({0, 7, 2, 2, 11}, at::kLong).to(place.device);
  const at::Tensor angles = random({12, half}, 6) * 3, cos = angles.cos(), sin = angles.sin();
  const at::Tensor x = random({rows, heads, d}, 7, dtype);
  const at::Tensor c = cos.index_select(0, positions).unsqueeze(1).to(at::kDouble),
                   s = sin.index_select(0, positions).unsqueeze(1).to(at::kDouble);
  const auto rotate = [&](const at::Tensor& all, const at::Tensor& sines) {
    const at::Tensor a = all.narrow(2, 0, half).to(at::kDouble),
                     b = all.narrow(2, half, half).to(at::kDouble);
    return at::cat({a * c - b * sines, b * c + a * sines}, 2);
  };
  in_both_orders([&] {
    // Among other columns, as queries lie beside keys; in place forwards, from one place to another back.
    const at::Tensor beside = random({rows, heads * d + 16}, 8, dtype), untouched = beside.clone();
    const at::Tensor place = beside.narrow(1, 0, heads * d);
    place.copy_(x.reshape({rows, heads * d}));
    CftTrainRope work{};
    work.dtype = cft::ops::dtype_of(x);
    work.rows = rows;
    work.heads = heads;
    work.head_dim = d;
    work.x = work.y = data(place);
    work.x_stride = work.y_stride = beside.stride(0);
    work.positions = positions.const_data_ptr<int64_t>();
    work.cos = floats(cos);
    work.sin = floats(sin);
    run(kernels().rope, work);
    check_close(place.reshape({rows, heads, d}), rotate(x, s));
    CHECK(at::equal(beside.narrow(1, heads * d, 16), untouched.narrow(1, heads * d, 16)));
    const at::Tensor back = poison({rows, heads, d}, dtype);
    work.x = data(x);
    work.x_stride = work.y_stride = heads * d;
    work.y = data(back);
    work.back = 1;
    run(kernels().rope, work);
    check_close(back, rotate(x, -s));
  });
}

struct LossCase {
  at::Tensor logits, targets, weights;
};

LossCase loss_case(int64_t vocab, at::ScalarType dtype) {
  return {(random({3, vocab}, 9) * 5).to(dtype),
          at::tensor({vocab / 2, vocab - 1, int64_t{0}}, at::kLong).to(place.device),
          at::tensor({0.5f, 0.25f, 2.0f}).to(place.device)};
}

at::Tensor run_loss(const LossCase& c, const at::Tensor& logits, const at::Tensor& slopes) {
  const at::Tensor nll = poison({c.logits.size(0)}, at::kFloat);
  const CftTrainLoss work{cft::ops::dtype_of(logits),
                          cft::ops::dtype_of(slopes),
                          logits.size(0),
                          logits.size(1),
                          data(logits),
                          data(slopes),
                          c.targets.const_data_ptr<int64_t>(),
                          floats(c.weights),
                          floats(nll)};
  run(kernels().loss, work);
  return nll;
}

void compare_norms() {
  for (const at::ScalarType dtype : kDtypes) {
    for (const int64_t width : {1, 7, 33, 64, 65, 100, 128, 576}) check_norm(dtype, 5, width);
    check_norm(dtype, 1, 8);
    check_norm(dtype, 600, 16);   // more rows than parts
    check_norm(dtype, 530, 130);  // a block for each row
  }
  CftTrainNorm none{};
  none.width = 8;
  run(kernels().norm, none);
  run(kernels().norm_backward, none);
}

void compare_swiglu() {
  for (const at::ScalarType dtype : kDtypes)
    for (const bool side_by_side : {false, true})
      for (const int64_t width : {1, 19, 40, 2056}) check_swiglu(dtype, 3, width, side_by_side);
}

void compare_rope() {
  for (const at::ScalarType dtype : kDtypes) {
    check_rope(dtype, 3, 12);
    check_rope(dtype, 1, 2);
    check_rope(dtype, 2, 64);
    check_rope(dtype, 40, 16);
  }
}

void compare_dropout() {
  const uint32_t key = 77;
  for (const int64_t width : {13, 64}) {
    const at::Tensor numbers = at::tensor({int64_t{3}, int64_t{0}, int64_t{1} << 40}, at::kLong);
    const at::Tensor numbers_there = numbers.to(place.device);
    const at::Tensor x = random({3, width}, 10), expected = x.cpu().clone();
    for (int64_t r = 0; r < 3; ++r)
      cft::cpu::train_kernels().dropout(floats(expected) + r * width, width, key,
                                        static_cast<uint64_t>(numbers[r].item<int64_t>() * width), 0.3f);
    for (const at::ScalarType dtype : kDtypes) {
      const at::Tensor in = x.to(dtype), y = poison({3, width}, dtype);
      CftTrainDropout work{cft::ops::dtype_of(in),
                           3,
                           width,
                           data(in),
                           data(y),
                           numbers_there.const_data_ptr<int64_t>(),
                           key,
                           0.3f};
      run(kernels().dropout, work);
      check_close(y.cpu(), expected.to(dtype));
      CHECK(at::equal(y.eq(0).cpu(), expected.eq(0)));
      CHECK(y.eq(0).any().item<bool>());
    }
  }
}

void compare_loss() {
  for (const at::ScalarType dtype : kDtypes) {
    for (const int64_t vocab : {1, 67, 1003, 8200}) {
      const LossCase c = loss_case(vocab, dtype);
      const at::Tensor wide = c.logits.to(at::kDouble).requires_grad_(true);
      const at::Tensor losses = at::cross_entropy_loss(wide, c.targets, {}, at::Reduction::None);
      (losses * c.weights.to(at::kDouble)).sum().backward();
      in_both_orders([&] {
        const at::Tensor in_place = c.logits.clone();
        const at::Tensor nll = run_loss(c, in_place, in_place);
        CHECK(at::allclose(nll.to(at::kDouble), losses.detach(), 1e-5, 1e-5));
        check_close(in_place, wide.grad(), dtype == at::kFloat ? 1 : 1e-2);
      });
      if (dtype != at::kFloat) continue;
      const at::Tensor half = poison({3, vocab}, at::kBFloat16);
      CHECK(at::allclose(run_loss(c, c.logits, half).to(at::kDouble), losses.detach(), 1e-5, 1e-5));
      check_close(half, wide.grad(), 1e-2);
    }
  }
}

void compare_bad_logits() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const at::ScalarType dtype : kDtypes) {
    for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
      LossCase c = loss_case(1003, dtype);
      c.logits[1].fill_(bad);
      c.logits[2].fill_(0);
      c.logits[2][7].fill_(bad);
      c.logits[0][3].fill_(-infinity);
      const at::Tensor slopes = c.logits.clone(), nll = run_loss(c, slopes, slopes);
      CHECK(std::isfinite(nll[0].item<float>()));
      CHECK(slopes[0][3].item<float>() == 0.0f);
      CHECK(!std::isfinite(nll[1].item<float>()));
      CHECK(slopes[1].isnan().all().item<bool>());
      CHECK(std::isfinite(nll[2].item<float>()) == (bad == -infinity));
      CHECK(slopes[2].isnan().all().item<bool>() == (bad != -infinity));
    }
  }
}

}  // namespace

TEST_CASE("emulated RMSNorm of training equals autograd in doubles, forward and backward") {
  compare_norms();
}

TEST_CASE("emulated SwiGLU of training equals autograd in doubles, forward and backward") {
  compare_swiglu();
}

TEST_CASE("emulated rotary embedding of training turns and turns back") { compare_rope(); }

TEST_CASE("emulated dropout of training is the CPU's, whatever rows are beside") { compare_dropout(); }

TEST_CASE("emulated cross-entropy of training equals autograd in doubles") { compare_loss(); }

TEST_CASE(
    "emulated cross-entropy of training: what is not finite is not hidden, a masked logit is no error") {
  compare_bad_logits();
}

#ifdef CFT_CUDA
TEST_CASE("CUDA: RMSNorm of training equals autograd in doubles, forward and backward") {
  on_gpu(place, compare_norms);
}

TEST_CASE("CUDA: SwiGLU of training equals autograd in doubles, forward and backward") {
  on_gpu(place, compare_swiglu);
}

TEST_CASE("CUDA: rotary embedding of training turns and turns back") { on_gpu(place, compare_rope); }

TEST_CASE("CUDA: dropout of training is the CPU's, whatever rows are beside") {
  on_gpu(place, compare_dropout);
}

TEST_CASE("CUDA: cross-entropy of training equals autograd in doubles") { on_gpu(place, compare_loss); }

TEST_CASE("CUDA: cross-entropy of training: what is not finite is not hidden, a masked logit is no error") {
  on_gpu(place, compare_bad_logits);
}
#endif
