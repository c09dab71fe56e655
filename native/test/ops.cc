// Sampling, and safetensors round trips.
#include <ATen/CPUGeneratorImpl.h>
#include <doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/errors.h"
#include "core/io/safetensors.h"
#include "core/rollout/sampling.h"

namespace {

at::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  return at::empty(shape, at::kFloat).normal_(0.0, 1.0, at::make_generator<at::CPUGeneratorImpl>(seed));
}

}  // namespace

TEST_CASE("sampling: frequencies follow the distribution, the nucleus cuts its tail") {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f),
                                     std::log(2.0f)};  // 0.1 0.2 0.5 0.2
  std::vector<int> counts(4), nucleus(4), cold(4);
  for (uint64_t position = 0; position < 20000; ++position) {
    const double u = cft::uniform_at(11, position);
    REQUIRE(u >= 0.0);
    REQUIRE(u < 1.0);
    ++counts[cft::sample_row(logits.data(), 4, 1.0, 1.0, u)];
    ++nucleus[cft::sample_row(logits.data(), 4, 1.0, 0.65, u)];
    ++cold[cft::sample_row(logits.data(), 4, 0.01, 1.0, u)];
  }
  const double expected[4] = {0.1, 0.2, 0.5, 0.2};
  for (int i = 0; i < 4; ++i) CHECK(std::abs(counts[i] / 20000.0 - expected[i]) < 0.015);
  CHECK(nucleus[0] == 0);  // 0.5 + 0.2 >= 0.65: the first of the two equals is kept
  CHECK(nucleus[3] == 0);
  CHECK(std::abs(nucleus[2] / 20000.0 - 5.0 / 7.0) < 0.015);
  CHECK(cold[2] == 20000);
  CHECK(cft::greedy_row(logits.data(), 4).token == 2);
  const float ties[3] = {1.0f, 2.0f, 2.0f};
  CHECK(cft::greedy_row(ties, 3).token == 1);
  // Damaged weights: never a token whose logit is no number.
  const float some[4] = {NAN, 0.0f, NAN, -INFINITY}, none[2] = {NAN, NAN}, huge[2] = {INFINITY, 0.0f};
  for (const double u : {0.0, 0.5, 0.999}) {
    for (const double top_p : {0.5, 1.0}) {
      CHECK(cft::sample_row(some, 4, 1.0, top_p, u) == 1);
      CHECK(cft::sample_row(none, 2, 1.0, top_p, u) == -1);
      CHECK(cft::sample_row(huge, 2, 1.0, top_p, u) == -1);
    }
  }
}

TEST_CASE("sampling: the tokens of a plain sort of the whole row; greedy_row those of argmax") {
  const auto plain = [](const at::Tensor& logits, double temperature, double top_p, double uniform) {
    const at::Tensor scaled = logits.to(at::kDouble);
    const at::Tensor weights = ((scaled - scaled.max()) / temperature).exp();
    auto [values, indices] = weights.sort(/*stable=*/true, 0, /*descending=*/true);
    if (top_p >= 1.0) {
      values = weights;
      indices = at::arange(weights.numel());
    }
    double total = weights.sum().item<double>(), kept = 0.0;
    int64_t count = 0;
    while (count < values.numel() && (top_p >= 1.0 || kept < top_p * total))
      kept += values[count++].item<double>();
    double left = uniform * kept;
    int64_t i = 0;
    while (i + 1 < count && (left -= values[i].item<double>()) >= 0) ++i;
    return indices[i].item<int64_t>();
  };
  for (const int64_t vocab : {1, 5, 300}) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const at::Tensor logits = normal({vocab}, seed) * 3;
      const float* row = logits.const_data_ptr<float>();
      for (const double top_p : {1e-9, 0.3, 0.9, 1.0}) {
        const double temperature = 0.5 + 0.1 * static_cast<double>(seed % 10), u = cft::uniform_at(7, seed);
        CHECK(cft::sample_row(row, vocab, temperature, top_p, u) == plain(logits, temperature, top_p, u));
      }
      CHECK(cft::greedy_row(row, vocab).token == logits.argmax().item<int64_t>());
    }
  }
  const float nan = std::nanf("");
  const float bad[3] = {nan, nan, nan}, part[3] = {nan, 1.0f, 1.0f};
  CHECK(cft::greedy_row(bad, 3).token == -1);
  CHECK(cft::greedy_row(part, 3).token == 1);
}

TEST_CASE(
    "safetensors: what is written is read back; what lies outside the file or is not finite is refused") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("cft-" + std::to_string(::getpid()))).string();
  const at::Tensor a = normal({3, 5}, 9), b = normal({4}, 10).to(at::kBFloat16);
  const uint64_t size = cft::write_safetensors(path, {{"a", a}, {"quote\"d", b}}, {{"k", "v"}});
  CHECK(size == std::filesystem::file_size(path));
  uint64_t header = 0;
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&header), 8);
  cft::TensorReader reader;
  const cft::TensorEntry entry{"a", path, at::kFloat, {3, 5}, 8 + header, 60};
  CHECK(at::equal(reader.read(entry, at::kFloat, at::kCPU), a));
  const cft::TensorEntry second{"b", path, at::kBFloat16, {4}, 8 + header + 60, 8};
  CHECK(at::equal(reader.read(second, at::kBFloat16, at::kCPU), b));
  CHECK(at::equal(reader.read(second, at::kFloat, at::kCPU), b.to(at::kFloat)));
  for (const cft::TensorEntry& bad : {cft::TensorEntry{"a", path, at::kFloat, {3, 5}, size - 56, 60},
                                      cft::TensorEntry{"a", path, at::kFloat, {3, 5}, UINT64_MAX - 8, 60},
                                      cft::TensorEntry{"a", path, at::kFloat, {3, 6}, 8 + header, 60}}) {
    CHECK_THROWS_AS(reader.read(bad, at::kFloat, at::kCPU), cft::Error);
  }
  at::Tensor broken = a.clone();
  broken[1][2] = std::nan("");
  cft::write_safetensors(path, {{"a", broken}});
  CHECK_THROWS_AS(
      cft::TensorReader().read({"a", path, at::kFloat, {3, 5}, size - 68, 60}, at::kFloat, at::kCPU),
      cft::Error);
  CHECK_THROWS_AS(cft::write_safetensors(path + "/no/such/folder", {{"a", a}}), cft::Error);
  std::filesystem::remove(path);
}
