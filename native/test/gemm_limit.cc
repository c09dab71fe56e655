// The limit of matrix products: it is a rate, and it does not count what it does not do.
#include "core/model/gemm_limit.h"

#include <doctest.h>

#include "core/errors.h"
#include "random_model.h"

TEST_CASE("the GEMM limit is a rate of rows, for few rows and many") {
  for (const cft_test::Structure structure : {cft_test::Structure::kLlama, cft_test::Structure::kQwen2}) {
    const cft::Model model = cft_test::random_model(structure);
    const cft::GemmLimit one = cft::gemm_limit(model, 1, 0.05), many = cft::gemm_limit(model, 256, 0.05);
    CHECK(one.steps > 0);
    CHECK(one.tokens_per_second > 0);
    // 256 rows share the cost of starting each product.
    CHECK(many.tokens_per_second > 4 * one.tokens_per_second);
  }
  CHECK_THROWS_AS(cft::gemm_limit(cft_test::random_model(cft_test::Structure::kLlama), 0), cft::Error);
}
