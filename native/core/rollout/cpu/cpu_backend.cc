#include "core/rollout/cpu/cpu_backend.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>

#include "core/ops/cpu/bf16_tiles.h"
#include "core/ops/lanes.h"
#include "core/rollout/scoring.h"

namespace cft::cpu {
namespace {

// A team's thread should have this many multiply-adds between two meetings.
constexpr int64_t kWorkPerMeeting = 200'000;

int64_t grow(std::vector<float>& buffer, int64_t count) {
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return count;
}

}  // namespace

// Rows that go through the layers together, and where they are on their way.
struct CpuBackend::Lane {
  std::vector<const ForwardRow*> rows;
  std::vector<int64_t> places;  // of the rows in the caller's order
  std::vector<AttentionRow> seen;
  std::vector<AttentionTile> tiles;
  // Rows whose next token is wanted, by number in this lane; then those whose logits are.
  std::vector<int64_t> heads;
  std::vector<float*> logits;  // per head row, null for tokens
  int64_t token_heads = 0;

  std::vector<float> x, normed, qkv, attention, mlp, projected, hidden;
  std::vector<std::vector<Best>> best;  // per thread of the team
  std::vector<AttentionScratch> scratch;
  std::vector<std::atomic<int64_t>> next_tile;  // per layer
  Barrier barrier;

  int64_t count() const { return static_cast<int64_t>(rows.size()); }
};

CpuBackend::CpuBackend(Model& model, int64_t budget_bytes, int64_t threads)
    : model_(model),
      config_(model.config()),
      threads_(threads > 0 ? threads : at::get_num_threads()),
      packed_(PackedModel::of(model)) {
  const KvShape shape{config_.layers, config_.kv_heads, config_.head_dim, packed_->kernels().panel};
  pool_ = std::make_shared<PagePool>(shape, budget_bytes);
}

CpuBackend::~CpuBackend() = default;

std::unique_ptr<KvSequence> CpuBackend::create_sequence() { return std::make_unique<PagedSequence>(pool_); }

bool CpuBackend::reserve(KvSequence& sequence, int64_t length) {
  return static_cast<PagedSequence&>(sequence).reserve(length);
}

// A tile of rows reads the weights as fast as one row does. Weights from memory leave time for a second one;
// for those in the caches it would only be work, and a second thread's.
int64_t CpuBackend::cheap_rows() const {
  if (packed_->head().layout == WeightLayout::kBf16Tiles) return kTileRows;
  return (runs_by_lanes(model_) ? 1 : 2) * packed_->kernels().tile;
}

// Sorts units (rows of one sequence) by trunk and prefix, so that tiles of a trunk see about the same of it,
// and cuts them into lanes of about equal size.
void CpuBackend::plan_lanes(const std::vector<ForwardRow>& rows, int64_t threads) {
  struct Unit {
    int64_t first, count;
  };
  std::vector<Unit> units;
  const int64_t total = static_cast<int64_t>(rows.size());
  for (int64_t i = 0; i < total; ++i) {
    if (i == 0 || rows[i].own != rows[i - 1].own) units.push_back({i, 0});
    ++units.back().count;
  }
  std::stable_sort(units.begin(), units.end(), [&](const Unit& a, const Unit& b) {
    const ForwardRow &x = rows[a.first], &y = rows[b.first];
    if (x.trunk != y.trunk) return std::less<const KvSequence*>()(x.trunk, y.trunk);
    return x.prefix < y.prefix;
  });

  const int64_t parameters = model_.parameter_count();
  // Weights that fit into the caches are cheap to read once per lane; others want more rows per reading.
  const int64_t rows_per_lane = runs_by_lanes(model_) ? packed_->kernels().tile : 16;
  const int64_t work = total * parameters / (config_.layers * 8 + 1);  // between two meetings
  const int64_t most_lanes = std::min<int64_t>(threads, static_cast<int64_t>(units.size()));
  lane_count_ = std::clamp<int64_t>(total / rows_per_lane, 1, most_lanes);
  team_size_ = std::clamp<int64_t>(work / kWorkPerMeeting, 1, threads / lane_count_);

  while (static_cast<int64_t>(lanes_.size()) < lane_count_) lanes_.push_back(std::make_unique<Lane>());
  int64_t lane = 0, placed = 0;
  for (int64_t i = 0; i < lane_count_; ++i) {
    lanes_[i]->rows.clear();
    lanes_[i]->places.clear();
  }
  for (const Unit& unit : units) {
    while (lane + 1 < lane_count_ && placed >= total * (lane + 1) / lane_count_) ++lane;
    for (int64_t i = unit.first; i < unit.first + unit.count; ++i) {
      lanes_[lane]->rows.push_back(&rows[i]);
      lanes_[lane]->places.push_back(i);
    }
    placed += unit.count;
  }
}

// What the rows of a lane see and want, and room for their activations. logits_place: where a row's logits
// start in the output, -1 where it wants none.
void CpuBackend::prepare_lane(Lane& lane, const std::vector<int64_t>& logits_place, ForwardOutput* output) {
  lane.seen.clear();
  lane.heads.clear();
  lane.logits.clear();
  for (int64_t i = 0; i < lane.count(); ++i) {
    const ForwardRow& row = *lane.rows[i];
    const auto* own = static_cast<const PagedSequence*>(row.own);
    const auto* trunk = static_cast<const PagedSequence*>(row.trunk);
    // A row without a trunk shares its own sequence with the rows beside it.
    if (trunk == nullptr) {
      lane.seen.push_back({own, nullptr, row.position + 1, 0});
    } else {
      lane.seen.push_back({trunk, own, row.prefix, row.position - row.prefix + 1});
    }
    if (row.wanted == Wanted::kToken) lane.heads.push_back(i);
  }
  lane.token_heads = static_cast<int64_t>(lane.heads.size());
  lane.logits.assign(lane.heads.size(), nullptr);
  for (int64_t i = 0; i < lane.count(); ++i) {
    if (lane.rows[i]->wanted != Wanted::kLogits) continue;
    lane.heads.push_back(i);
    lane.logits.push_back(output->logits.data() + logits_place[lane.places[i]]);
  }
  lane.tiles = attention_tiles(lane.seen, config_.heads / config_.kv_heads, packed_->kernels().tile);
  const int64_t n = lane.count(), width = packed_->layers()[0].gate_up.panel;
  grow(lane.x, n * config_.hidden_size);
  grow(lane.normed, n * config_.hidden_size);
  grow(lane.projected, n * config_.hidden_size);
  grow(lane.qkv, n * packed_->layers()[0].qkv.out);
  grow(lane.attention, n * config_.heads * config_.head_dim);
  grow(lane.mlp, n * (config_.intermediate_size + width));
  grow(lane.hidden, static_cast<int64_t>(lane.heads.size()) * config_.hidden_size);
  if (static_cast<int64_t>(lane.next_tile.size()) != config_.layers)
    lane.next_tile = std::vector<std::atomic<int64_t>>(config_.layers);
  for (auto& next : lane.next_tile) next = 0;
  lane.best.resize(team_size_);
  lane.scratch.resize(team_size_);
  lane.barrier.reset(team_size_);
}

void CpuBackend::forward(const std::vector<ForwardRow>& rows, ForwardOutput* output) {
  output->tokens.assign(rows.size(), -1);
  output->logits.clear();
  if (rows.empty()) return;
  plan_lanes(rows, threads_);
  int64_t furthest = 0, wanted = 0;
  for (const ForwardRow& row : rows) {
    furthest = std::max(furthest, row.position);
    wanted += row.wanted == Wanted::kLogits ? 1 : 0;
  }
  packed_->reach(furthest);
  output->logits.resize(wanted * config_.vocab_size);

  std::vector<int64_t> logits_place(rows.size(), -1);
  for (size_t i = 0, next = 0; i < rows.size(); ++i) {
    if (rows[i].wanted == Wanted::kLogits)
      logits_place[i] = static_cast<int64_t>(next++) * config_.vocab_size;
  }
  for (int64_t l = 0; l < lane_count_; ++l) prepare_lane(*lanes_[l], logits_place, output);

  const int64_t threads = lane_count_ * team_size_;
  if (threads == 1) return run_lane(*lanes_[0], Team{}, output);
  std::exception_ptr failure;
  bool short_of_threads = false;
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    const int64_t thread = omp_get_thread_num();
    if (omp_get_num_threads() != threads) {
      // The system gave fewer than asked for; a barrier would wait for ever.
      if (thread == 0) short_of_threads = true;
    } else {
      Lane& lane = *lanes_[thread / team_size_];
      try {
        run_lane(lane, Team{thread % team_size_, team_size_, &lane.barrier}, output);
      } catch (const Barrier::Abandoned&) {
        // Another one has failed, and says why.
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
        lane.barrier.abandon();
      }
    }
  }
  if (short_of_threads) {
    for (int64_t l = 0; l < lane_count_; ++l) run_lane(*lanes_[l], Team{}, output);
  }
  if (failure) std::rethrow_exception(failure);
}

void CpuBackend::prefill(KvSequence& sequence, const std::vector<int32_t>& tokens, int64_t score_from,
                         int64_t k, TrunkScores* scores) {
  const int64_t length = static_cast<int64_t>(tokens.size());
  // Bounds memory: this many rows of activations and logits at once.
  constexpr int64_t kChunk = 256;
  ForwardOutput output;
  for (int64_t first = 0; first < length; first += kChunk) {
    const int64_t last = std::min(length, first + kChunk);
    std::vector<ForwardRow> rows;
    int64_t scored = 0;
    for (int64_t i = first; i < last; ++i) {
      // Row i predicts token i + 1.
      const bool wanted = i + 1 >= score_from && i + 1 < length;
      scored += wanted ? 1 : 0;
      rows.push_back({tokens[i], i, nullptr, 0, &sequence, wanted ? Wanted::kLogits : Wanted::kNothing});
    }
    forward(rows, &output);
    if (scored == 0) continue;
    const int64_t first_scored = std::max(first + 1, score_from);
    score_rows(at::from_blob(output.logits.data(), {scored, config_.vocab_size}, at::kFloat),
               tokens.data() + first_scored, k, scores);
  }
}

void CpuBackend::run_lane(Lane& lane, const Team& team, ForwardOutput* output) {
  const int64_t n = lane.count(), hidden = config_.hidden_size;
  for (int64_t i = team.begin(n); i < team.end(n); ++i)
    packed_->embed(lane.rows[i]->token, lane.x.data() + i * hidden);
  team.meet();
  for (int64_t layer = 0; layer < config_.layers; ++layer) run_layer(lane, team, layer);
  run_head(lane, team, output);
  if (packed_->head().layout == WeightLayout::kBf16Tiles) bf16_tiles_release();
}

void CpuBackend::run_layer(Lane& lane, const Team& team, int64_t layer) {
  const Kernels& k = packed_->kernels();
  const PackedLayer& w = packed_->layers()[layer];
  const int64_t n = lane.count(), hidden = config_.hidden_size;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const bool pre = config_.norm_placement == NormPlacement::kPre;
  float* x = lane.x.data();

  auto norm_rows = [&](const float* from, const float* weight, float* to, bool add) {
    for (int64_t i = team.begin(n); i < team.end(n); ++i)
      k.rms_norm(from + i * hidden, weight, to + i * hidden, hidden, eps, add);
    team.meet();
  };
  auto multiply = [&](const float* from, int64_t from_stride, const PackedWeight& weight, Epilogue epilogue,
                      float* to, int64_t to_stride) {
    const int64_t panels = weight.panels();
    linear(k, {from, from_stride, n, &weight, team.begin(panels), team.end(panels), epilogue, to, to_stride,
               nullptr});
    team.meet();
  };
  // Pre-norm: x += f(norm(x)); post-norm: x += norm(f(x)).
  auto input = [&](const float* weight) -> const float* {
    if (!pre) return x;
    norm_rows(x, weight, lane.normed.data(), false);
    return lane.normed.data();
  };
  auto output = [&](const float* from, int64_t from_stride, const PackedWeight& weight, const float* norm) {
    if (pre) return multiply(from, from_stride, weight, Epilogue::kAdd, x, hidden);
    multiply(from, from_stride, weight, Epilogue::kStore, lane.projected.data(), hidden);
    norm_rows(lane.projected.data(), norm, x, true);
  };

  multiply(input(w.attention_norm), hidden, w.qkv, Epilogue::kStore, lane.qkv.data(), w.qkv.out);
  place_keys(lane, team, layer);
  const AttentionShape shape{layer, config_.window_of_layer[layer], config_.heads, config_.kv_heads,
                             config_.head_dim};
  const int64_t q_size = config_.heads * config_.head_dim;
  const int64_t tasks = static_cast<int64_t>(lane.tiles.size()) * config_.kv_heads;
  // Head by head, so that the keys of a trunk's head stay in the cache for all its tiles.
  for (int64_t task; (task = lane.next_tile[layer].fetch_add(1)) < tasks;) {
    const int64_t tiles = static_cast<int64_t>(lane.tiles.size());
    attend(k, shape, lane.seen, lane.tiles[task % tiles], task / tiles, lane.qkv.data(), w.qkv.out,
           lane.attention.data(), q_size, &lane.scratch[team.rank]);
  }
  team.meet();
  output(lane.attention.data(), q_size, w.o, w.attention_norm);

  const int64_t mlp_stride = config_.intermediate_size + w.gate_up.panel;
  multiply(input(w.mlp_norm), hidden, w.gate_up, Epilogue::kSwiglu, lane.mlp.data(), mlp_stride);
  output(lane.mlp.data(), mlp_stride, w.down, w.mlp_norm);
}

// Norms and rotates queries and keys, scales the queries, and puts keys and values into the rows' sequences.
void CpuBackend::place_keys(Lane& lane, const Team& team, int64_t layer) {
  const Kernels& k = packed_->kernels();
  const PackedLayer& w = packed_->layers()[layer];
  const int64_t dim = config_.head_dim, stride = w.qkv.out, rope = config_.rope_of_layer[layer];
  const int64_t q_size = config_.heads * dim, kv_size = config_.kv_heads * dim;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  for (int64_t i = team.begin(lane.count()); i < team.end(lane.count()); ++i) {
    const ForwardRow& row = *lane.rows[i];
    float* q = lane.qkv.data() + i * stride;
    if (config_.qk_norm == QkNorm::kProjection) {
      k.rms_norm(q, w.q_norm, q, q_size, eps, false);
      k.rms_norm(q + q_size, w.k_norm, q + q_size, kv_size, eps, false);
    }
    const float *cos = packed_->cos(rope, row.position), *sin = packed_->sin(rope, row.position);
    for (int64_t h = 0; h < config_.heads + config_.kv_heads; ++h) {
      float* head = q + h * dim;
      const bool is_query = h < config_.heads;
      if (config_.qk_norm == QkNorm::kHead)
        k.rms_norm(head, is_query ? w.q_norm : w.k_norm, head, dim, eps, false);
      k.rotate(head, cos, sin, dim);
      if (is_query) {
        for (int64_t d = 0; d < dim; ++d) head[d] *= scale;
      }
    }
    auto* own = static_cast<PagedSequence*>(row.own);
    for (int64_t h = 0; h < config_.kv_heads; ++h) {
      own->write(row.position - row.prefix, layer, h, q + q_size + h * dim, q + q_size + kv_size + h * dim);
    }
  }
  team.meet();
}

void CpuBackend::run_head(Lane& lane, const Team& team, ForwardOutput* output) {
  const Kernels& k = packed_->kernels();
  const int64_t hidden = config_.hidden_size, tokens = lane.token_heads;
  const int64_t total = static_cast<int64_t>(lane.heads.size());
  if (total == 0) return;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  for (int64_t i = team.begin(total); i < team.end(total); ++i) {
    k.rms_norm(lane.x.data() + lane.heads[i] * hidden, packed_->final_norm(), lane.hidden.data() + i * hidden,
               hidden, eps, false);
  }
  lane.best[team.rank].assign(tokens, Best{-INFINITY, -1});
  team.meet();
  const PackedWeight& head = packed_->head();
  const int64_t panels = head.panels(), first = team.begin(panels), last = team.end(panels);
  LinearTask task{lane.hidden.data(), hidden,  tokens, &head,  first, last,
                  Epilogue::kArgmax,  nullptr, 0,      nullptr};
  task.best = lane.best[team.rank].data();
  linear(k, task);
  // The callers' rows of logits follow each other, and so do this lane's: runs of them.
  for (int64_t i = tokens; i < total;) {
    int64_t end = i + 1;
    while (end < total && lane.logits[end] == lane.logits[end - 1] + config_.vocab_size) ++end;
    linear(k, {lane.hidden.data() + i * hidden, hidden, end - i, &head, first, last, Epilogue::kStore,
               lane.logits[i], config_.vocab_size, nullptr});
    i = end;
  }
  team.meet();
  for (int64_t i = team.begin(tokens); i < team.end(tokens); ++i) {
    Best best = lane.best[0][i];
    for (int64_t t = 1; t < team.size; ++t) {
      const Best& other = lane.best[t][i];  // of later columns: only a larger value wins
      if (other.index >= 0 && (best.index < 0 || other.value > best.value)) best = other;
    }
    output->tokens[lane.places[lane.heads[i]]] = best.index;
  }
}

}  // namespace cft::cpu
