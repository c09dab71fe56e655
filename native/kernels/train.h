// C interface of the CUDA kernels of training. Device pointers; matrices are row-major, contiguous unless a
// stride (in elements) is given; `stream` is a cudaStream_t. Each returns a cudaError_t and synchronises
// nothing. Rows of a multiple of 16 bytes at aligned addresses are moved 16 bytes at a time.
#pragma once
#include <cstdint>

enum CftDtype : int32_t { CFT_FLOAT32 = 0, CFT_BFLOAT16 = 1 };

// y = round(x * inverse) * weight with inverse = 1 / rms(x), as the separate operations round it.
struct CftTrainNorm {
  CftDtype dtype;  // of x, weight, y, dy and dx
  int64_t rows, width;
  float eps;
  const void *x, *weight;  // (rows, width), (width)
  void* y;                 // forward: (rows, width)
  float* inverse;          // (rows), written by the forward, read by the backward
  const void* dy;          // backward: (rows, width)
  void* dx;                // (rows, width)
  float* dweight;          // (width), or null: then no partial sums either
  float* partial;          // scratch: (cft_train_norm_parts(rows), width)
};

// act = silu(gate) * up, rounded after silu and after the product.
struct CftTrainSwiglu {
  CftDtype dtype;
  int64_t rows, width;
  const void *gate, *up;  // rows of `stride`: gate | up side by side have 2 * width
  int64_t stride;
  void* act;            // forward: (rows, width)
  const void* d_act;    // backward: (rows, width)
  void *d_gate, *d_up;  // rows of `d_stride`
  int64_t d_stride;
};

// y = x, each head rotated by halves; `back` rotates the other way, which is the gradient. y may be x.
struct CftTrainRope {
  CftDtype dtype;
  int64_t rows, heads, head_dim;
  const void* x;  // (rows, heads * head_dim), rows of x_stride
  void* y;
  int64_t x_stride, y_stride;
  const int64_t* positions;  // (rows)
  const float *cos, *sin;    // (positions, head_dim / 2)
  int32_t back;
};

// y = x times 0 or 1 / (1 - rate), by (key, number of the row, column) alone. y may be x.
struct CftTrainDropout {
  CftDtype dtype;
  int64_t rows, width;
  const void* x;
  void* y;
  const int64_t* numbers;  // (rows)
  uint32_t key;
  float rate;
};

// nll = logsumexp(logits) - logits[target]; slopes = weight * (softmax - onehot). A row whose nll is not
// finite becomes NaN.
struct CftTrainLoss {
  CftDtype dtype;         // of the logits
  CftDtype slopes_dtype;  // the same, or bf16 beside fp32 logits
  int64_t rows, vocab;
  const void* logits;  // (rows, vocab)
  void* slopes;        // (rows, vocab); may be the logits where the dtypes are one
  const int64_t* targets;
  const float* weights;
  float* nll;
};

// One parameter's update. A weight is fp32, or bf16 with an fp32 master, or bf16 alone, which is then rounded
// stochastically by (key, index), as moments in bf16 are. Bit for bit what the CPU's kernel does where that
// multiplies and adds in one rounding.
struct CftTrainAdamW {
  int64_t count;
  CftDtype gradient_dtype;
  const void* gradient;  // null stands for zero
  float* weight;         // fp32 weight or master, or null
  void* half_weight;     // bf16 weight, or null
  CftDtype moment_dtype;
  void *m, *v;
  const float* gradient_scale;  // of clipping; null = 1. Where it is not finite nothing changes
  float beta1, beta2, epsilon;
  float decay;            // the weight is multiplied by it: 1 - rate * weight decay
  float step_size;        // rate / (1 - beta1^t)
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  uint32_t random_key;
};

// partial[i] = a share of the sum of x^2, cft_train_squares_parts(count) of them.
struct CftTrainSquares {
  CftDtype dtype;
  int64_t count;
  const void* x;
  double* partial;
};

// norm = sqrt(sum of partial); scale = what gradients are to be multiplied with so that their norm is at most
// max_norm (0: no limit), as torch.nn.utils.clip_grad_norm_ does, and not finite where the norm is not.
struct CftTrainClip {
  int64_t count;
  const double* partial;
  double max_norm;
  double* norm;
  float* scale;
};

extern "C" {
int64_t cft_train_norm_parts(int64_t rows);
int64_t cft_train_squares_parts(int64_t count);
int cft_train_norm(const CftTrainNorm* work, void* stream);
int cft_train_norm_backward(const CftTrainNorm* work, void* stream);
int cft_train_swiglu(const CftTrainSwiglu* work, void* stream);
int cft_train_swiglu_backward(const CftTrainSwiglu* work, void* stream);
int cft_train_rope(const CftTrainRope* work, void* stream);
int cft_train_dropout(const CftTrainDropout* work, void* stream);
int cft_train_loss(const CftTrainLoss* work, void* stream);
int cft_train_adamw(const CftTrainAdamW* work, void* stream);
int cft_train_squares(const CftTrainSquares* work, void* stream);
int cft_train_clip(const CftTrainClip* work, void* stream);
}
