// ops::add_rms_norm on the CPU against the separate operations.
#include "core/ops/rms_norm.h"

#include <doctest.h>

#include "core/model/decoder.h"

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
