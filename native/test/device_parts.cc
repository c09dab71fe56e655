// Parts of the device loop that need no kernels: buckets of rows, ranges of the trunk pool, sampling of many
// rows.
#include <doctest.h>

#include <memory>
#include <set>
#include <vector>

#include "core/rollout/device/device_loop.h"
#include "core/rollout/device/sampler.h"
#include "core/rollout/sampling.h"

TEST_CASE("row_bucket: few buckets, none half empty") {
  std::set<int64_t> buckets;
  for (int64_t rows = 1; rows <= 4096; ++rows) {
    const int64_t bucket = cft::row_bucket(rows);
    REQUIRE(bucket >= rows);
    REQUIRE((bucket <= 4 || bucket < 2 * rows));
    buckets.insert(bucket);
  }
  CHECK(buckets == std::set<int64_t>{1, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
                                     3072, 4096});
}

TEST_CASE("range_list: first fit, given back, packed in order") {
  const auto list = std::make_shared<cft::RangeList>();
  auto a = list->take(4, 10), b = list->take(3, 10), c = list->take(3, 10);
  CHECK(a->start() == 0);
  CHECK(b->start() == 4);
  CHECK(c->start() == 7);
  CHECK(list->take(1, 10) == nullptr);
  b.reset();
  CHECK(list->used() == 7);
  CHECK(list->take(4, 10) == nullptr);
  auto d = list->take(2, 10);
  CHECK(d->start() == 4);
  a.reset();
  CHECK(list->pack() == std::vector<int64_t>{4, 5, 7, 8, 9});
  CHECK(d->start() == 0);
  CHECK(c->start() == 2);
  CHECK(list->end() == 5);
  CHECK(list->take(6, 10) == nullptr);
  CHECK(list->take(5, 10)->start() == 5);
  CHECK(list->take(6, 11)->start() == 5);
}

TEST_CASE("sample_rows picks the tokens of sample_row, uniforms_at the numbers of uniform_at") {
  std::vector<int64_t> seeds, positions;
  std::vector<double> temperatures, top_p, uniforms;
  for (int64_t i = 0; i < 300; ++i) {
    seeds.push_back(i * i * 7919 - 100);
    positions.push_back(i * 3);
    temperatures.push_back(0.3 + 0.01 * static_cast<double>(i));
    top_p.push_back(i % 50 == 0 ? 0.01 : 0.05 + 0.003 * static_cast<double>(i));
    uniforms.push_back(cft::uniform_at(static_cast<uint64_t>(seeds.back()), static_cast<uint64_t>(i * 3)));
  }
  const at::Tensor uniform = cft::uniforms_at(at::tensor(seeds, at::kLong), at::tensor(positions, at::kLong));
  CHECK(at::equal(uniform, at::tensor(uniforms, at::kDouble)));
  at::manual_seed(3);
  for (const int64_t vocab : {1, 2, 500}) {
    at::Tensor logits = at::randn({300, vocab}) * 3;
    logits.select(0, 4).fill_(1.0);  // equal ones: the lower index goes first
    for (const bool cut : {false, true}) {
      const at::Tensor found =
          cft::sample_rows(logits, at::tensor(temperatures, at::kDouble),
                           cut ? at::tensor(top_p, at::kDouble) : at::ones({300}, at::kDouble), uniform, cut);
      for (int64_t i = 0; i < 300; ++i) {
        CHECK(found[i].item<int64_t>() == cft::sample_row(logits[i].const_data_ptr<float>(), vocab,
                                                          temperatures[i], cut ? top_p[i] : 1.0,
                                                          uniforms[i]));
      }
    }
  }
}
