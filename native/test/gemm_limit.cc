// The limit of matrix products: a rate of rows, from steps that were really timed.
#include "core/measure/gemm_limit.h"

#include <doctest.h>

#include "core/errors.h"
#include "random_model.h"

TEST_CASE("the GEMM limit is a rate of rows, for few rows and many") {
  for (const cft_test::Structure structure : {cft_test::Structure::kLlama, cft_test::Structure::kQwen2}) {
    cft::Model model = cft_test::random_model(structure);
    for (const int64_t rows : {1, 7, 256}) {
      const cft::GemmLimit limit = cft::gemm_limit(model, rows, 0.05);
      CHECK(limit.steps > 0);
      // Half of the steps took at least the median.
      const double median = static_cast<double>(rows) / limit.tokens_per_second;
      CHECK(median > 0);
      CHECK(median * static_cast<double>(limit.steps / 2) < 1.0);
    }
  }
  const cft::DeviceLimits limits =
      cft::device_limits(cft_test::random_model(cft_test::Structure::kLlama), 0.05);
  CHECK(limits.flops_per_second > 1e8);
  CHECK(limits.bytes_per_second > 1e8);
  cft::Model model = cft_test::random_model(cft_test::Structure::kLlama);
  CHECK_THROWS_AS(cft::gemm_limit(model, 0), cft::Error);
}

TEST_CASE("the limit of a training step is that of three products where decoding has one") {
  const cft::Model model = cft_test::random_model(cft_test::Structure::kLlama);
  const cft::GemmLimit limit = cft::train_gemm_limit(model, 64, 8, 0.02);
  CHECK(limit.tokens_per_second > 0);
  CHECK(limit.steps > 0);
  CHECK_THROWS_AS(cft::train_gemm_limit(model, 0, 1), cft::Error);
}
