// Products of training: each element one chain of multiply-adds, whatever the strides, the blocks and the
// threads.
#include <ATen/Parallel.h>
#include <doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "core/ops/cpu/product.h"

namespace {

struct Case {
  int64_t rows, depth, columns;
};

// Ends of tiles, panels and blocks (of 512 inner elements and 1,024 columns), and one of each.
const Case kCases[] = {{1, 1, 1},    {6, 16, 16},    {12, 32, 32},  {13, 5, 17},   {48, 32, 200},
                       {7, 513, 31}, {130, 1100, 9}, {3, 40, 1030}, {257, 64, 33}, {50, 2, 2100}};

// (rows, columns) with rows side by side (transposed), with gaps, or as usual.
at::Tensor random(int64_t rows, int64_t columns, int kind) {
  if (kind == 0) return at::randn({rows, columns});
  if (kind == 1) return at::randn({columns, rows}).t();
  return at::randn({rows + 2, columns + 5}).narrow(0, 1, rows).narrow(1, 3, columns);
}

// The same chain, element by element.
at::Tensor chain(const at::Tensor& a, const at::Tensor& b, const at::Tensor& start, bool fused) {
  at::Tensor c = start.clone();
  const at::Tensor left = a.contiguous(), right = b.to(at::kFloat).contiguous();
  const auto x = left.accessor<float, 2>(), y = right.accessor<float, 2>();
  auto z = c.accessor<float, 2>();
  for (int64_t i = 0; i < x.size(0); ++i) {
    for (int64_t j = 0; j < y.size(1); ++j) {
      float sum = z[i][j];
      for (int64_t k = 0; k < x.size(1); ++k) {
        const volatile float product = x[i][k] * y[k][j];
        sum = fused ? std::fma(x[i][k], y[k][j], sum) : sum + product;
      }
      z[i][j] = sum;
    }
  }
  return c;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

at::Tensor product_of(const cft::cpu::TrainKernels& kernels, const at::Tensor& a, const at::Tensor& b,
                      const at::Tensor& start, bool add) {
  const int64_t rows = a.size(0), depth = a.size(1), columns = b.size(1);
  const int64_t panels = (columns + kernels.panel - 1) / kernels.panel;
  std::vector<float> packed(panels * kernels.panel * depth), scratch(cft::cpu::product_scratch(depth));
  kernels.pack_panels(cft::cpu::view_of(b), depth, columns, packed.data(), depth * kernels.panel);
  at::Tensor c = start.clone();
  kernels.multiply_panels({cft::cpu::view_of(a), packed.data(), depth * kernels.panel, rows, depth, columns,
                           c.mutable_data_ptr<float>(), columns, add, scratch.data()});
  return c;
}

}  // namespace

TEST_CASE("products of panels are chains of multiply-adds, for every instruction set and stride") {
  at::manual_seed(1);
  int sets = 0;
  for (const std::string name : {"generic", "avx2", "avx512"}) {
    const cft::cpu::TrainKernels* kernels = cft::cpu::train_kernels_named(name.c_str());
    if (kernels == nullptr) continue;
    ++sets;
    for (const auto& [rows, depth, columns] : kCases) {
      for (int kinds = 0; kinds < 9; ++kinds) {
        for (const bool half : {false, true}) {
          CAPTURE(name);
          CAPTURE(rows);
          CAPTURE(depth);
          CAPTURE(columns);
          CAPTURE(kinds);
          if (rows * depth * columns > 100'000 && half) continue;
          const at::Tensor a = random(rows, depth, kinds % 3), wide = random(depth, columns, kinds / 3);
          const at::Tensor b = half ? wide.to(at::kBFloat16, false, false, at::MemoryFormat::Preserve) : wide;
          const at::Tensor start = at::randn({rows, columns}), nothing = at::zeros({rows, columns});
          const bool fused = name != "generic";
          const bool add = (kinds + rows) % 2 == 0;
          CHECK(same_bits(product_of(*kernels, a, b, start, add), chain(a, b, add ? start : nothing, fused)));
        }
      }
    }
  }
  CHECK(sets >= 1);
}

TEST_CASE("a product has the same bits for any number of threads, and is libtorch's but for rounding") {
  at::manual_seed(2);
  const int threads = at::get_num_threads();
  // The last two are large enough to be shared, by columns and by rows.
  for (const auto [rows, depth, columns] :
       {Case{13, 5, 17}, Case{7, 513, 31}, Case{301, 600, 1100}, Case{700, 1030, 20}}) {
    for (int kinds = 0; kinds < 9; ++kinds) {
      const at::Tensor a = random(rows, depth, kinds % 3), b = random(depth, columns, kinds / 3);
      const at::Tensor start = at::randn({rows, columns + 3});
      const auto run = [&](int count, bool add) {
        at::set_num_threads(count);
        at::Tensor c = start.clone();
        cft::cpu::multiply(cft::cpu::view_of(a), cft::cpu::view_of(b), rows, depth, columns,
                           c.mutable_data_ptr<float>(), columns + 3, add);
        at::set_num_threads(threads);
        return c;
      };
      for (const bool add : {false, true}) {
        const at::Tensor one = run(1, add);
        const at::Tensor exact = at::mm(a.to(at::kDouble), b.to(at::kDouble)) +
                                 (add ? start.narrow(1, 0, columns) : at::zeros({rows, columns}));
        CHECK((one.narrow(1, 0, columns) - exact).abs().max().item<double>() <
              1e-5 * std::sqrt(static_cast<double>(depth)));
        CHECK(same_bits(one.narrow(1, columns, 3), start.narrow(1, columns, 3)));  // nothing beside it
        if (!cft::cpu::multiplies_itself()) continue;
        for (const int count : {2, 3, 8}) CHECK(same_bits(one, run(count, add)));
      }
    }
  }
}

TEST_CASE("a factor that is shared serves products of its first rows and columns") {
  at::manual_seed(3);
  const at::Tensor b = at::randn({40, 70}), a = at::randn({9, 40});
  for (const at::Tensor& factor : {b, b.t().contiguous().t()}) {
    const cft::cpu::SharedFactor shared(cft::cpu::view_of(factor), 40, 70);
    for (const auto& [depth, columns] : {std::pair{40, 70}, {40, 33}, {23, 70}, {1, 1}}) {
      at::Tensor c = at::empty({9, columns});
      shared.multiply(cft::cpu::view_of(a), 9, depth, columns, c.mutable_data_ptr<float>(), columns, false);
      const at::Tensor expected = at::mm(a.narrow(1, 0, depth), b.narrow(0, 0, depth).narrow(1, 0, columns));
      CHECK((c - expected).abs().max().item<float>() < 1e-5F);
    }
  }
}

TEST_CASE("empty products: nothing, and zeros over an empty depth") {
  const at::Tensor c = cft::cpu::multiply(at::randn({4, 0}), at::randn({0, 5}));
  CHECK(c.abs().sum().item<float>() == 0.0F);
  CHECK(cft::cpu::multiply(at::randn({0, 3}), at::randn({3, 5})).numel() == 0);
}
