// The kernels of training for a GPU.
#include "kernels/train_launches.cuh"

namespace kernels = cft::kernels;

int64_t cft_train_norm_parts(int64_t rows) { return kernels::norm_parts(rows); }
int64_t cft_train_squares_parts(int64_t count) { return kernels::squares_parts(count); }
int cft_train_norm(const CftTrainNorm* work, void* stream) { return kernels::norm(work, stream); }
int cft_train_norm_backward(const CftTrainNorm* work, void* stream) {
  return kernels::norm_backward(work, stream);
}
int cft_train_swiglu(const CftTrainSwiglu* work, void* stream) { return kernels::swiglu(work, stream); }
int cft_train_swiglu_backward(const CftTrainSwiglu* work, void* stream) {
  return kernels::swiglu_backward(work, stream);
}
int cft_train_rope(const CftTrainRope* work, void* stream) { return kernels::rope(work, stream); }
int cft_train_dropout(const CftTrainDropout* work, void* stream) { return kernels::dropout(work, stream); }
int cft_train_loss(const CftTrainLoss* work, void* stream) { return kernels::loss(work, stream); }
int cft_train_adamw(const CftTrainAdamW* work, void* stream) { return kernels::adamw(work, stream); }
int cft_train_squares(const CftTrainSquares* work, void* stream) { return kernels::squares(work, stream); }
int cft_train_clip(const CftTrainClip* work, void* stream) { return kernels::clip(work, stream); }
