#include "core/train/linears.h"

#include "core/ops/cpu/product.h"
#include "core/ops/cpu/rows.h"

namespace cft {

bool multiplies_bf16() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

Linears::Linears(const Model& model, const Adapter* adapter, std::optional<uint64_t> dropout_counter,
                 bool half_products)
    : adapter_(adapter),
      dropout_counter_(dropout_counter),
      half_products_(model.dtype() == at::kBFloat16 && half_products) {}

at::Tensor Linears::multiply(const at::Tensor& a, const at::Tensor& b) const {
  if (half_products_) return at::mm(a.to(at::kBFloat16), b).to(at::kFloat);
  return cpu::multiply(a, b);
}

const Adapter::Module* Linears::module(const Linear& linear) const {
  return adapter_ == nullptr ? nullptr : adapter_->find(linear.path);
}

at::Tensor Linears::dropped(const at::Tensor& x, const Adapter::Module& module,
                            const RowNumbers& rows) const {
  if (!dropout_counter_ || adapter_->dropout() <= 0) return x;
  at::Tensor y = x.clone(at::MemoryFormat::Contiguous);
  adapter_->drop(y, module, *dropout_counter_, rows);
  return y;
}

at::Tensor Linears::forward(const LinearGroup& group, const at::Tensor& x, const RowNumbers& rows) const {
  return finish(multiply(x, group.weight.t()), group, x, rows);
}

at::Tensor Linears::forward_wide(const LinearGroup& group, const at::Tensor& x,
                                 const RowNumbers& rows) const {
  return finish(cpu::multiply(x, group.weight.t()), group, x, rows);
}

at::Tensor Linears::finish(at::Tensor y, const LinearGroup& group, const at::Tensor& x,
                           const RowNumbers& rows) const {
  if (group.bias.defined()) y.add_(group.bias);
  int64_t first = 0;
  for (const Linear* part : group.parts) {
    const int64_t out = part->weight.size(0);
    if (const Adapter::Module* m = module(*part)) {
      const at::Tensor low = at::mm(dropped(x, *m, rows), m->a.t());
      y.narrow(1, first, out).addmm_(low, m->b.t(), 1, adapter_->scale());
    }
    first += out;
  }
  return y;
}

at::Tensor Linears::input_gradient(const LinearGroup& group, const at::Tensor& d_y,
                                   const RowNumbers& rows) const {
  at::Tensor d_x = multiply(d_y, group.weight);
  int64_t first = 0;
  for (const Linear* part : group.parts) {
    const int64_t out = part->weight.size(0);
    if (const Adapter::Module* m = module(*part)) {
      const at::Tensor d_low = at::mm(d_y.narrow(1, first, out), m->b).mul_(adapter_->scale());
      if (dropout_counter_ && adapter_->dropout() > 0) {
        at::Tensor d_input = at::mm(d_low, m->a);
        adapter_->drop(d_input, *m, *dropout_counter_, rows);
        d_x.add_(d_input);
      } else {
        d_x.addmm_(d_low, m->a);
      }
    }
    first += out;
  }
  return d_x;
}

void Linears::add_weight_gradients(const LinearGroup& group, const at::Tensor& d_y, const at::Tensor& x,
                                   const RowNumbers& rows, Gradients& gradients) const {
  int64_t first = 0;
  for (const Linear* part : group.parts) {
    const int64_t out = part->weight.size(0);
    const at::Tensor slopes = d_y.narrow(1, first, out);
    first += out;
    if (full()) {
      gradients.add_product(part->weight, slopes, x, half_products_);
      if (part->bias.defined()) gradients.add(part->bias, slopes.sum(0));
      continue;
    }
    const Adapter::Module* m = module(*part);
    if (m == nullptr) continue;
    const at::Tensor input = dropped(x, *m, rows);
    const at::Tensor d_low = at::mm(slopes, m->b).mul_(adapter_->scale());
    gradients.add_product(m->b, slopes, at::mm(input, m->a.t()).mul_(adapter_->scale()), false);
    gradients.add_product(m->a, d_low, input, false);
  }
}

}  // namespace cft
