// ops::add_rms_norm on the CPU against the separate operations.
#include "core/ops/rms_norm.h"

#include <doctest.h>

#include "core/model/decoder.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

TEST_CASE("add_rms_norm adds in place and norms the sum") {
  at::manual_seed(3);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor x = at::randn({5, 33}).to(dtype), before = at::randn({5, 33}).to(dtype),
                     weight = at::randn({33}).to(dtype);
    at::Tensor residual = before.clone();
    const at::Tensor y = cft::ops::add_rms_norm(x, residual, weight, 1e-6);
    CHECK(at::equal(residual, before + x));
    CHECK(at::equal(y, cft::rms_norm(before + x, weight, 1e-6)));
  }
}

TEST_CASE("add_rms_norm refuses shapes and dtypes that do not belong together") {
  const at::Tensor x = at::zeros({2, 4});
  at::Tensor residual = at::zeros({2, 4}), narrow = at::zeros({2, 3}), wide = at::zeros({2, 4}, at::kDouble);
  CHECK_THROWS(cft::ops::add_rms_norm(x, narrow, at::ones({4}), 1e-6));
  CHECK_THROWS(cft::ops::add_rms_norm(x, residual, at::ones({3}), 1e-6));
  CHECK_THROWS(cft::ops::add_rms_norm(x, wide, at::ones({4}), 1e-6));
}

#ifdef CFT_CUDA
TEST_CASE("CUDA: add_rms_norm equals the CPU's at odd sizes, fp32 and bf16") {
  if (c10::cuda::device_count() == 0) {
    MESSAGE("no GPU: nothing compared");
    return;
  }
  at::manual_seed(5);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t width : {1, 7, 33, 576, 1000, 4096, 8200})
      for (const int64_t rows : {0, 1, 3, 257}) {
        CAPTURE(width);
        CAPTURE(rows);
        const at::Tensor x = at::randn({rows, width}).to(dtype), weight = at::randn({width}).to(dtype);
        at::Tensor residual = at::randn({rows, width}).to(dtype), on_gpu = residual.cuda();
        const at::Tensor y = cft::ops::add_rms_norm(x.cuda(), on_gpu, weight.cuda(), 1e-5).cpu();
        const at::Tensor expected = cft::ops::add_rms_norm(x, residual, weight, 1e-5);
        CHECK(at::equal(on_gpu.cpu(), residual));
        const double relative = dtype == at::kFloat ? 1e-5 : 1.0 / 64;
        CHECK(at::allclose(y.to(at::kDouble), expected.to(at::kDouble), relative, 1e-6));
      }
}
#endif
