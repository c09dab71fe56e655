// The CPU's arithmetic of training beside the matrix products: one table of functions per instruction set,
// chosen as in kernels.h. All of it is fp32. Matrices are row-major and contiguous unless a stride is given;
// who calls shares the rows among threads.
#pragma once
#include <cstdint>

namespace cft::cpu {

// Which keys each row of a block of attention scores may see: key j of `keys` where
// position - window < j <= position (window 0: from the first).
struct CausalRows {
  int64_t rows = 0, keys = 0;
  const int64_t* positions = nullptr;  // (rows)
  int64_t window = 0;
  float scale = 1;
};

// One stretch of parameters with the same treatment. A weight is fp32, or bf16 with an fp32 master, or bf16
// alone, which is then rounded stochastically; moments are fp32, or bf16 rounded stochastically (0.1 % of a
// second moment is less than half a bf16 step: rounding to nearest would never move it).
struct AdamWTask {
  int64_t count = 0;
  const float* gradient = nullptr;
  float* weight = nullptr;           // fp32 weight or master, null where there is none
  uint16_t* half_weight = nullptr;   // bf16 weight or null
  float *m = nullptr, *v = nullptr;  // fp32 moments, or null
  uint16_t *half_m = nullptr, *half_v = nullptr;
  float gradient_scale = 1;  // of clipping
  float beta1 = 0, beta2 = 0, epsilon = 0;
  float decay = 1;            // the weight is multiplied by it: 1 - rate * weight decay
  float step_size = 0;        // rate / (1 - beta1^t)
  float root_correction = 1;  // 1 / sqrt(1 - beta2^t)
  uint32_t random_key = 0;    // of the stochastic rounding: seed, step and parameter
  uint32_t first_index = 0;   // of this stretch in its parameter
};

// Element (i, j) of a matrix is data[i * row_stride + j * column_stride], fp32 or (half) bf16.
struct MatrixView {
  const void* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  bool half = false;
};

// c (rows, columns) = or (add) += a (rows, depth) times B (depth, columns) in panels. Each element is one
// chain of multiply-adds over the depth in ascending order, from zero or from what is there.
struct ProductTask {
  MatrixView a;  // fp32
  const float* panels = nullptr;
  int64_t panel_stride = 0;  // floats from one panel to the next
  int64_t rows = 0, depth = 0, columns = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool add = false;
  float* scratch = nullptr;  // product_scratch(depth) floats, where a's columns are not adjacent
};

constexpr int64_t kProductBlockBytes = 192 * 1024;  // of rows that share the second-level cache
constexpr int64_t product_scratch(int64_t depth) {
  const int64_t few = 48 * depth, block = kProductBlockBytes / 4;
  return few > block ? few : block;
}

struct TrainKernels {
  const char* name;
  int64_t panel;  // columns of a panel: two vectors
  // B (depth, columns) as panels [depth][panel], the last one padded with zeros.
  void (*pack_panels)(const MatrixView& b, int64_t depth, int64_t columns, float* panels,
                      int64_t panel_stride);
  void (*multiply_panels)(const ProductTask&);
  // y = x * inverse * weight with inverse = 1 / rms(x) of each row of n, which is kept in `inverse` (rows).
  void (*rms_norm)(const float* x, const float* weight, float* y, float* inverse, int64_t rows, int64_t n,
                   float eps);
  // y from a kept `inverse`.
  void (*rms_norm_again)(const float* x, const float* weight, const float* inverse, float* y, int64_t rows,
                         int64_t n);
  // dx (+= with `add`) and dweight (+=, may be null) of dy.
  void (*rms_norm_backward)(const float* dy, const float* x, const float* weight, const float* inverse,
                            float* dx, float* dweight, int64_t rows, int64_t n, bool add);
  // Rows of 2 n values, gate before up: act = silu(gate) * up, (rows, n).
  void (*swiglu)(const float* gate_up, float* act, int64_t rows, int64_t n);
  // d_act becomes act once more (for the gradient of the next product), gate_up becomes its own gradient.
  void (*swiglu_backward)(float* gate_up, float* d_act, int64_t rows, int64_t n);
  // Scores become probabilities; log_sums (rows) are the logarithms of the sums of exp(scale * score).
  void (*causal_softmax)(float* scores, const CausalRows& rows, float* log_sums);
  // Scores become probabilities by log_sums, and the probabilities' gradients those of the scores; deltas
  // (rows) are the sums of output * its gradient.
  void (*causal_softmax_backward)(float* scores, float* gradients, const CausalRows& rows,
                                  const float* log_sums, const float* deltas);
  // Logits of each row of n become weight * (softmax - onehot(target)); nll (rows). A row whose nll is not
  // finite becomes NaN.
  void (*cross_entropy)(float* logits, int64_t rows, int64_t n, const int64_t* targets, const float* weights,
                        float* nll);
  // Of each row of n logits: nll of the target and entropy of the distribution in nats, and 1 where the
  // target is the first of the largest logits, else 0; NaN where the row holds one.
  void (*token_scores)(const float* logits, int64_t rows, int64_t n, const int64_t* targets, float* nll,
                       float* entropies, float* correct);
  // x[i] *= 0 or 1 / (1 - rate), by (key, index of x[i]) alone.
  void (*dropout)(float* x, int64_t count, uint32_t key, uint64_t first_index, float rate);
  double (*sum_of_squares)(const float* x, int64_t count);
  void (*adamw)(const AdamWTask&);
};

// Those of this machine; CFT_CPU_KERNELS chooses as for kernels().
const TrainKernels& train_kernels();
// One set by name, or null where this machine or compiler lacks it.
const TrainKernels* train_kernels_named(const char* name);

}  // namespace cft::cpu
