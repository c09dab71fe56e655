#include "core/ops/train_device.h"

#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/errors.h"

namespace cft {
namespace ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Tables live as long as the program.
c10::IValue pointer(const TrainDevice& device) { return reinterpret_cast<int64_t>(&device); }

const TrainDevice& device_of(AutogradContext* context) {
  return *reinterpret_cast<const TrainDevice*>(context->saved_data["device"].toInt());
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const TrainDevice* device, double eps) {
    const int64_t width = weight.size(0), rows = x.numel() / width;
    const at::Tensor y = at::empty_like(x), inverse = at::empty({rows}, x.options().dtype(at::kFloat));
    CftTrainNorm work{};
    work.dtype = dtype_of(x);
    work.rows = rows;
    work.width = width;
    work.eps = static_cast<float>(eps);
    work.x = x.const_data_ptr();
    work.weight = weight.const_data_ptr();
    work.y = y.mutable_data_ptr();
    work.inverse = inverse.mutable_data_ptr<float>();
    launch(*device, device->norm, work, x.device(), "train_norm");
    context->saved_data["device"] = pointer(*device);
    context->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& slopes) {
    const TrainDevice& device = device_of(context);
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const at::Tensor dy = slopes[0].contiguous(), dx = at::empty_like(x);
    const auto wide = x.options().dtype(at::kFloat);
    at::Tensor dweight, partial;
    CftTrainNorm work{};
    work.dtype = dtype_of(x);
    work.width = weight.size(0);
    work.rows = inverse.size(0);
    work.x = x.const_data_ptr();
    work.weight = weight.const_data_ptr();
    work.inverse = inverse.mutable_data_ptr<float>();
    work.dy = dy.const_data_ptr();
    work.dx = dx.mutable_data_ptr();
    if (context->needs_input_grad(1)) {
      dweight = at::empty({work.width}, wide);
      partial = at::empty({device.norm_parts(work.rows), work.width}, wide);
      work.dweight = dweight.mutable_data_ptr<float>();
      work.partial = partial.mutable_data_ptr<float>();
    }
    launch(device, device.norm_backward, work, x.device(), "train_norm_backward");
    return {dx, dweight, at::Tensor(), at::Tensor()};
  }
};

struct Swiglu : torch::autograd::Function<Swiglu> {
  static CftTrainSwiglu work_of(const at::Tensor& gate, const at::Tensor& up) {
    CftTrainSwiglu work{};
    work.dtype = dtype_of(gate);
    work.rows = gate.size(0);
    work.width = work.stride = work.d_stride = gate.size(1);
    work.gate = gate.const_data_ptr();
    work.up = up.const_data_ptr();
    return work;
  }

  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up,
                            const TrainDevice* device) {
    const at::Tensor act = at::empty_like(gate);
    CftTrainSwiglu work = work_of(gate, up);
    work.act = act.mutable_data_ptr();
    launch(*device, device->swiglu, work, gate.device(), "train_swiglu");
    context->saved_data["device"] = pointer(*device);
    context->save_for_backward({gate, up});
    return act;
  }

  static variable_list backward(AutogradContext* context, const variable_list& slopes) {
    const TrainDevice& device = device_of(context);
    const variable_list saved = context->get_saved_variables();
    const at::Tensor d_act = slopes[0].contiguous();
    const at::Tensor d_gate = at::empty_like(saved[0]), d_up = at::empty_like(saved[1]);
    CftTrainSwiglu work = work_of(saved[0], saved[1]);
    work.d_act = d_act.const_data_ptr();
    work.d_gate = d_gate.mutable_data_ptr();
    work.d_up = d_up.mutable_data_ptr();
    launch(device, device.swiglu_backward, work, d_act.device(), "train_swiglu_backward");
    return {d_gate, d_up, at::Tensor()};
  }
};

void turn(const TrainDevice& device, const at::Tensor& x, const at::Tensor& y, const at::Tensor& positions,
          const at::Tensor& cos, const at::Tensor& sin, bool back) {
  CftTrainRope work{};
  work.dtype = dtype_of(x);
  work.rows = x.size(0);
  work.head_dim = 2 * cos.size(1);
  work.heads = x.size(1) / work.head_dim;
  work.x = x.const_data_ptr();
  work.y = y.mutable_data_ptr();
  work.x_stride = x.stride(0);
  work.y_stride = y.stride(0);
  work.positions = positions.const_data_ptr<int64_t>();
  work.cos = cos.const_data_ptr<float>();
  work.sin = sin.const_data_ptr<float>();
  work.back = back ? 1 : 0;
  launch(device, device.rope, work, x.device(), "train_rope");
}

struct Rotation : torch::autograd::Function<Rotation> {
  static at::Tensor forward(AutogradContext* context, at::Tensor x, const TrainDevice* device,
                            const at::Tensor& positions, const at::Tensor& cos, const at::Tensor& sin) {
    turn(*device, x, x, positions, cos, sin, false);
    context->mark_dirty({x});
    context->saved_data["device"] = pointer(*device);
    context->save_for_backward({positions, cos, sin});
    return x;
  }

  static variable_list backward(AutogradContext* context, const variable_list& slopes) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor d = slopes[0].contiguous();
    const at::Tensor dx = at::empty_like(d);  // who gave us the slopes may need them again
    turn(device_of(context), d, dx, saved[0], saved[1], saved[2], true);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor drop(const TrainDevice& device, const at::Tensor& x, const at::Tensor& numbers, uint32_t key,
                double rate) {
  const at::Tensor y = at::empty_like(x);
  CftTrainDropout work{};
  work.dtype = dtype_of(x);
  work.rows = x.size(0);
  work.width = x.size(1);
  work.x = x.const_data_ptr();
  work.y = y.mutable_data_ptr();
  work.numbers = numbers.const_data_ptr<int64_t>();
  work.key = key;
  work.rate = static_cast<float>(rate);
  launch(device, device.dropout, work, x.device(), "train_dropout");
  return y;
}

struct Dropout : torch::autograd::Function<Dropout> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const TrainDevice* device,
                            const at::Tensor& numbers, int64_t key, double rate) {
    context->saved_data["device"] = pointer(*device);
    context->saved_data["key"] = key;
    context->saved_data["rate"] = rate;
    context->save_for_backward({numbers});
    return drop(*device, x, numbers, static_cast<uint32_t>(key), rate);
  }

  static variable_list backward(AutogradContext* context, const variable_list& slopes) {
    const at::Tensor dx = drop(device_of(context), slopes[0].contiguous(), context->get_saved_variables()[0],
                               static_cast<uint32_t>(context->saved_data["key"].toInt()),
                               context->saved_data["rate"].toDouble());
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const TrainDevice* device, const at::Tensor& starts,
                            int64_t longest, int64_t window) {
    const AttentionResult result = device->attention(q, k, v, {starts, longest, window});
    context->saved_data["device"] = pointer(*device);
    context->saved_data["longest"] = longest;
    context->saved_data["window"] = window;
    context->save_for_backward(
        {q, k, v, result.out, result.log_sums, result.random_state, result.unused, starts});
    return result.out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& slopes) {
    const variable_list s = context->get_saved_variables();
    const PackedSequences sequences{s[7], context->saved_data["longest"].toInt(),
                                    context->saved_data["window"].toInt()};
    const auto [dq, dk, dv] = device_of(context).attention_backward(slopes[0].contiguous(), s[0], s[1], s[2],
                                                                    {s[3], s[4], s[5], s[6]}, sequences);
    return {dq, dk, dv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

template <class Work>
void launch(const TrainDevice& device, int (*kernel)(const Work*, void*), const Work& work, at::Device where,
            const char* name) {
  const c10::OptionalDeviceGuard guard(where.is_cpu() ? std::nullopt : std::optional<at::Device>(where));
  const int status = kernel(&work, device.stream(where));
  if (status == 0) return;
  throw Error("ERR_CFT_INTERNAL", std::string("the kernel ") + name + " could not be launched: CUDA error " +
                                      std::to_string(status));
}

template void launch(const TrainDevice&, int (*)(const CftTrainLoss*, void*), const CftTrainLoss&, at::Device,
                     const char*);
template void launch(const TrainDevice&, int (*)(const CftTrainAdamW*, void*), const CftTrainAdamW&,
                     at::Device, const char*);
template void launch(const TrainDevice&, int (*)(const CftTrainSquares*, void*), const CftTrainSquares&,
                     at::Device, const char*);
template void launch(const TrainDevice&, int (*)(const CftTrainClip*, void*), const CftTrainClip&, at::Device,
                     const char*);

CftDtype dtype_of(const at::Tensor& x) {
  if (x.scalar_type() == at::kFloat) return CFT_FLOAT32;
  if (x.scalar_type() == at::kBFloat16) return CFT_BFLOAT16;
  throw Error("ERR_CFT_INTERNAL", std::string("a training kernel got a tensor of dtype ") +
                                      c10::toString(x.scalar_type()) + ", expected float32 or bfloat16");
}

at::Tensor train_rms_norm(const TrainDevice& device, const at::Tensor& x, const at::Tensor& weight,
                          double eps) {
  return RmsNorm::apply(x.contiguous(), weight, &device, eps);
}

at::Tensor train_swiglu(const TrainDevice& device, const at::Tensor& gate, const at::Tensor& up) {
  return Swiglu::apply(gate.contiguous(), up.contiguous(), &device);
}

at::Tensor train_rope(const TrainDevice& device, const at::Tensor& x, const at::Tensor& positions,
                      const at::Tensor& cos, const at::Tensor& sin) {
  return Rotation::apply(x, &device, positions, cos, sin);
}

at::Tensor train_dropout(const TrainDevice& device, const at::Tensor& x, const at::Tensor& numbers,
                         uint32_t key, double rate) {
  return Dropout::apply(x.contiguous(), &device, numbers, static_cast<int64_t>(key), rate);
}

at::Tensor packed_attention(const TrainDevice& device, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const PackedSequences& sequences) {
  return Attention::apply(q, k, v, &device, sequences.starts, sequences.longest, sequences.window);
}

}  // namespace ops

const TrainDevice* train_device([[maybe_unused]] at::Device device) {
#ifdef CFT_CUDA
  if (device.is_cuda()) return &cuda_train_device();
#endif
  return nullptr;
}

}  // namespace cft
