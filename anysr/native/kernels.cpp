// Decoders of whole images, block by block in a core's cache, for x86 processors with AVX-512.
//
// A block of 128 rows goes through all layers of a network before the next one starts. Rows are
// stored in the form that the product of the processor reads:
//   parts 0     float32, multiplied by FMA;
//   parts 1     bfloat16, multiplied by AMX tiles, summed in float32;
//   parts 2, 3  float32 as a sum of 2 or 3 bfloat16 numbers of ever smaller size. The product of two
//               such numbers is the sum of the products of their parts, of which those below the last
//               part's are left out: 3 or 6 products of AMX, exact to about 2^-16 or 2^-23. A float32
//               has 24 bits and a bfloat16 8, so 3 parts hold all of it, and six tile products are
//               still twice as fast as FMA.
// Called through ctypes (fused.py), which holds the same structures; nothing here depends on torch.

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using Vec = __m512;
using Bf16 = uint16_t;
constexpr int kLanes = 16;   // floats in a vector, rows and columns of a tile
constexpr int kRows = 128;   // rows of a block
constexpr int kPair = 32;    // rows and columns multiplied at a time; also the depth of a tile
constexpr int kCorners = 4;  // neighbours of a query

inline int padded(int n) { return (n + kPair - 1) / kPair * kPair; }

inline Vec load(const float* at) { return _mm512_loadu_ps(at); }
inline Vec load(const Bf16* at) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)at)), 16));
}
inline __mmask16 first_lanes(int num) { return num < kLanes ? (1u << num) - 1 : 0xffff; }
inline Vec load(const float* at, int num) { return _mm512_maskz_loadu_ps(first_lanes(num), at); }
inline Vec load(const Bf16* at, int num) {
  const __m256i half = _mm256_maskz_loadu_epi16(first_lanes(num), at);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline void store(float* at, Vec x, int num) { _mm512_mask_storeu_ps(at, first_lanes(num), x); }
#ifdef __AVX512BF16__
inline void store(Bf16* at, Vec x, int num) {
  _mm256_mask_storeu_epi16(at, first_lanes(num), (__m256i)_mm512_cvtneps_pbh(x));
}
#endif
inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec relu(Vec x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }  // NaN stays NaN

// x Phi(x); erf as an odd rational function fitted on [0, sqrt 15], to 4e-7.
inline Vec gelu(Vec x) {
  const Vec limit = all(3.8729833f);
  const Vec y = _mm512_min_ps(_mm512_max_ps(x * all(0.70710678f), -limit), limit);
  const Vec t = y * y;
  Vec p = all(2.0399166e-8f);
  for (float c : {-2.0015367e-6f, 1.4551420e-4f, 3.7950231e-3f, 5.0820478e-2f, 2.0171741e-1f, 1.1283788f})
    p = p * t + all(c);
  Vec q = all(9.835584e-4f);
  for (float c : {1.4520488e-2f, 1.1575261e-1f, 5.1209670e-1f, 1.f}) q = q * t + all(c);
  return x * (all(0.5f) + all(0.5f) * y * p / q);
}

template <class T>
struct Buffer {  // aligned for tiles
  T* data;
  explicit Buffer(size_t count) : data((T*)std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)) {
    std::memset(data, 0, count * sizeof(T));
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
};

}  // namespace

extern "C" {

struct Layer {  // in padded to whole pairs, out to whole tiles, by zeros
  const void* weight;  // one tile of 16 columns after the other
  const float* bias;
  int32_t in, out;
};

struct Grid {  // rows [top, bottom) of an image of `width` columns, over features from row `first_row` on
  const int32_t *index_y, *index_x;  // (2, height), (2, width): neighbours
  const float *rel_y, *rel_x;
  int32_t height, width, top, bottom, first_row, lr_cols;
  float* rgb;  // (3, height, width)
};

struct Lookup {  // a linear layer of four weighted corner features: rows of `channels`
  const void* feat;  // (pixels, 4, channels), float32 or bfloat16
  const float *row, *col;
  int32_t channels;
};

}  // extern "C"

namespace {

// Where the products read 32 rows: `stride` apart, in chunks of 32 columns at any offsets.
template <int parts>
struct Source {
  using Value = std::conditional_t<parts == 0, float, Bf16>;
  const Value* part[parts ? parts : 1];
  int stride;
  const int* offsets;
};

// Rows of numbers as the products read them.
template <int parts>
struct Rows {
  using Value = typename Source<parts>::Value;
  static constexpr int kParts = parts ? parts : 1;
  int rows, channels;
  Buffer<Value> buffer;

  // Some room behind the last row, for chunks that reach over it.
  Rows(int rows, int channels) : rows(rows), channels(channels), buffer((size_t)kParts * rows * channels + kPair) {}

  Value* at(int part, int row) const { return buffer.data + ((size_t)part * rows + row) * channels; }

  void store(int row, int col, Vec x) {
    if constexpr (parts == 0) return _mm512_store_ps(at(0, row) + col, x);
#ifdef __AMX_BF16__
    for (int part = 0; part < parts; ++part) {
      const __m256i half = (__m256i)_mm512_cvtneps_pbh(x);
      _mm256_store_si256((__m256i*)(at(part, row) + col), half);
      if (part + 1 < parts) x -= load((const Bf16*)&half);
    }
#endif
  }

  Source<parts> from(int row, const int* offsets) const {
    Source<parts> source{{}, channels, offsets};
    for (int part = 0; part < kParts; ++part) source.part[part] = at(part, row);
    return source;
  }
};

// 32 rows times 32 (or `tiles` 1: 16) columns of a layer into out (32, 32).
template <int tiles>
void multiply(const Source<0>& rows, const Layer& layer, int col, float* out) {
  const float* weight = (const float*)layer.weight + (size_t)col * layer.in;  // (tiles, in, 16)
  constexpr int step = 8;
  for (int first = 0; first < kPair; first += step) {
    Vec sum[step][tiles];
    for (auto& s : sum)
      for (auto& t : s) t = _mm512_setzero_ps();
    for (int chunk = 0; chunk * kPair < layer.in; ++chunk) {
      const float* from = rows.part[0] + (size_t)first * rows.stride + rows.offsets[chunk];
      for (int k = 0; k < kPair; ++k) {
        Vec w[tiles];
        for (int j = 0; j < tiles; ++j) w[j] = load(weight + ((size_t)j * layer.in + chunk * kPair + k) * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < step; ++i)
          for (int j = 0; j < tiles; ++j) sum[i][j] = _mm512_fmadd_ps(all(from[(size_t)i * rows.stride + k]), w[j], sum[i][j]);
      }
    }
    for (int i = 0; i < step; ++i)
      for (int j = 0; j < tiles; ++j) _mm512_store_ps(out + (first + i) * kPair + j * kLanes, sum[i][j]);
  }
}

#ifdef __AMX_BF16__

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

struct Tiles {  // a thread's tile registers
  Tiles() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.bytes_per_row[i] = 64, config.rows[i] = kLanes;
    // GCC's intrinsic says that it reads the first 8 bytes alone: it must not drop the others.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};

// Tile registers 0-3 are the sums, 4-5 the rows, 6-7 the columns.
template <int tiles, int parts>
void multiply(const Source<parts>& rows, const Layer& layer, int col, float* out) {
  const int stride = rows.stride * sizeof(Bf16), steps = layer.in / kPair;
  constexpr int size = kLanes * kPair;
  const Bf16* weight = (const Bf16*)layer.weight + (size_t)col * layer.in * parts;  // (tiles, parts, steps)
  const Bf16* second = weight + (size_t)parts * steps * size;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < steps; ++k) {
    auto take_rows = [&](int part) {
      const Bf16* at = rows.part[part] + rows.offsets[k];
      _tile_loadd(4, at, stride);
      _tile_loadd(5, at + (size_t)kLanes * rows.stride, stride);
    };
    auto take_columns = [&](int part) {
      const size_t at = (size_t)(part * steps + k) * size;
      _tile_loadd(6, weight + at, 64);
      if constexpr (tiles == 2) _tile_loadd(7, second + at, 64);
    };
    auto add = [] {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (tiles == 2) {
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    };
    // Ordered so that each step loads only one side anew.
    take_rows(0);
    if constexpr (parts == 3) take_columns(2), add(), take_columns(1), add(), take_rows(1), add();
    if constexpr (parts == 2) take_columns(1), add();
    take_columns(0), add();
    if constexpr (parts == 2) take_rows(1), add();
    if constexpr (parts == 3) take_rows(2), add(), take_rows(0), add();
  }
  const int bytes = kPair * sizeof(float);
  _tile_stored(0, out, bytes);
  _tile_stored(2, out + kLanes * kPair, bytes);
  if constexpr (tiles == 2) {
    _tile_stored(1, out + kLanes, bytes);
    _tile_stored(3, out + kLanes * kPair + kLanes, bytes);
  }
}

#endif

// Applies a layer to `num` times 32 rows; then(row, col, values of 16 columns with the bias).
template <int parts, class From, class Then>
void apply_to(int num, From from, const Layer& layer, Then then) {
  alignas(64) float out[kPair * kPair];
  for (int col = 0; col < layer.out; col += kPair) {
    const int tiles = std::min(2, (layer.out - col) / kLanes);
    for (int n = 0; n < num; ++n) {
      if (tiles == 2)
        multiply<2>(from(n), layer, col, out);
      else
        multiply<1>(from(n), layer, col, out);
      for (int j = 0; j < tiles; ++j) {
        const Vec bias = load(layer.bias + col + j * kLanes);
        for (int i = 0; i < kPair; ++i) then(n * kPair + i, col + j * kLanes, load(out + i * kPair + j * kLanes) + bias);
      }
    }
  }
}

// Offsets of chunks that follow each other.
const int* in_order() {
  static const std::vector<int> offsets = [] {
    std::vector<int> o(4096);
    for (size_t i = 0; i < o.size(); ++i) o[i] = i * kPair;
    return o;
  }();
  return offsets.data();
}

template <int parts, class Then>
void apply(const Rows<parts>& rows, const Layer& layer, Then then) {
  apply_to<parts>(kRows / kPair, [&](int n) { return rows.from(n * kPair, in_order()); }, layer, then);
}

// Queries of a block form a tile of the image, 4 rows high: neighbours share what they look up.
constexpr int kTileRows = 4;

int num_tiles(const Grid& grid, int queries) {
  const int cols = queries / kTileRows;
  return (grid.bottom - grid.top + kTileRows - 1) / kTileRows * ((grid.width + cols - 1) / cols);
}

// A query of a grid: its place in the image and its four neighbours.
struct Query {
  bool inside;  // of the strip; otherwise its nearest pixel stands in
  int y, x, pixel[kCorners];
  float rel_y[kCorners], rel_x[kCorners], weight[kCorners];

  // Number i of a tile of so many queries.
  Query(const Grid& grid, int tile, int queries, int i) {
    const int cols = queries / kTileRows, across = (grid.width + cols - 1) / cols;
    y = grid.top + tile / across * kTileRows + i / cols;
    x = tile % across * cols + i % cols;
    inside = y < grid.bottom && x < grid.width;
    y = std::min(y, grid.bottom - 1), x = std::min(x, grid.width - 1);
    float area[kCorners], total = 0;
    for (int c = 0; c < kCorners; ++c) {
      const int at_y = c / 2 * grid.height + y, at_x = c % 2 * grid.width + x;
      pixel[c] = (grid.index_y[at_y] - grid.first_row) * grid.lr_cols + grid.index_x[at_x];
      rel_y[c] = grid.rel_y[at_y], rel_x[c] = grid.rel_x[at_x];
      total += area[c] = std::abs(rel_y[c] * rel_x[c]) + 1e-9f;
    }
    for (int c = 0; c < kCorners; ++c) weight[c] = area[kCorners - 1 - c] / total;
  }

  void answer(const Grid& grid, int colour, float value) const {
    grid.rgb[((size_t)colour * grid.height + y) * grid.width + x] = value;
  }
};

// The OpenMP that torch runs in, if known: its threads stay busy waiting for work for a while, so others would
// have to share their cores.
using OpenMp = void (*)(void (*)(void*), void*, unsigned, unsigned);
OpenMp openmp = nullptr;

// Threads take blocks from a common heap; `make()` gives each a worker of its own.
template <class Make>
void in_blocks(int total, int threads, bool with_tiles, Make make) {
  std::atomic<int> next{0};
  auto run = [&] {
#ifdef __AMX_BF16__
    // The processor may have tiles that the system does not allow.
    const auto tiles = with_tiles ? std::make_unique<Tiles>() : nullptr;
#else
    (void)with_tiles;
#endif
    auto worker = make();
    for (int block; (block = next.fetch_add(1)) < total;) worker->block(block);
  };
  const int count = std::min(threads, total);
  if (count > 1 && openmp) {
    openmp([](void* to) { (*(decltype(run)*)to)(); }, &run, count, 0);
    return;
  }
  std::vector<std::thread> others;
  for (int i = 1; i < count; ++i) others.emplace_back(run);
  run();
  for (auto& thread : others) thread.join();
}

template <int parts>
using Table = std::conditional_t<parts == 1, Bf16, float>;

}  // namespace

extern "C" struct LiifCall {
  Grid grid;
  const void* table;        // (pixels, channels): the first layer's share of the features
  const float* rel_weight;  // (2, channels)
  const Layer* layers;      // the others; the last gives RGB
  int32_t channels, num_layers, threads;
};

namespace {

template <int parts>
struct LiifWorker {
  static constexpr int kQueries = kRows / kCorners;
  const LiifCall& call;
  Rows<parts> rows{kRows, call.channels}, next{kRows, call.channels};
  Buffer<float> rgb{(size_t)kRows * kPair};

  explicit LiifWorker(const LiifCall& call) : call(call) {}

  int count() const { return num_tiles(call.grid, kQueries); }

  void block(int tile) {
    for (int i = 0; i < kQueries; ++i) enter(Query(call.grid, tile, kQueries, i), i);
    for (int l = 0; l + 1 < call.num_layers; ++l) {
      apply(rows, call.layers[l], [&](int row, int col, Vec x) { next.store(row, col, relu(x)); });
      std::swap(rows.buffer.data, next.buffer.data);
    }
    apply(rows, call.layers[call.num_layers - 1],
          [&](int row, int col, Vec x) { _mm512_store_ps(rgb.data + row * kPair + col, x); });
    for (int i = 0; i < kQueries; ++i) blend(Query(call.grid, tile, kQueries, i), i);
  }

  void enter(const Query& query, int i) {
    for (int c = 0; c < kCorners; ++c) {
      const auto* feat = (const Table<parts>*)call.table + (size_t)query.pixel[c] * call.channels;
      const Vec y = all(query.rel_y[c]), x = all(query.rel_x[c]);
      for (int k = 0; k < call.channels; k += kLanes) {
        const Vec rel = y * load(call.rel_weight + k) + x * load(call.rel_weight + call.channels + k);
        rows.store(c * kQueries + i, k, relu(load(feat + k) + rel));
      }
    }
  }

  void blend(const Query& query, int i) {
    if (!query.inside) return;
    for (int colour = 0; colour < 3; ++colour) {
      float sum = 0;
      for (int c = 0; c < kCorners; ++c) sum += query.weight[c] * rgb.data[(c * kQueries + i) * kPair + colour];
      query.answer(call.grid, colour, sum);
    }
  }
};

}  // namespace

extern "C" struct SrnoCall {
  Grid grid;
  Lookup first, second;  // the hidden states and what the first GELU takes; or keys and values, and nothing
  const Layer* layers;   // after the first GELU, then two per attention layer, then keys and values or the last two
  double *product, *sums;  // of keys and values, as Moments; null for the answer
  float* kept;             // (num_kept, 128, channels): the states of the first blocks, from pass to pass
  int32_t num_kept, first_block, are_known;  // blocks before the strip; whether the pass before has left states
  int32_t width, num_mixes, threads;
};

namespace {

template <int parts>
struct SrnoWorker {
  static constexpr int kHead = kLanes;  // a head is a vector
  const SrnoCall& call;
  const int width = call.width, heads = width / kHead, channels = padded(width);
  Rows<parts> rows{kRows, channels}, next{kRows, channels};
  Buffer<float> states{(size_t)kRows * channels}, wide{(size_t)kRows * 2 * channels};
  float inside[kRows];
  std::vector<double> product = std::vector<double>((size_t)heads * kHead * kHead), sums = std::vector<double>(2 * width);

  explicit SrnoWorker(const SrnoCall& call) : call(call) {}

  ~SrnoWorker() {
    static std::mutex mutex;
    if (!call.product) return;
    std::lock_guard<std::mutex> lock(mutex);
    for (size_t i = 0; i < product.size(); ++i) call.product[i] += product[i];
    for (size_t i = 0; i < sums.size(); ++i) call.sums[i] += sums[i];
  }

  int count() const { return num_tiles(call.grid, kRows); }

  void block(int tile) {
    const int number = call.first_block + tile;
    const bool keeps = number < call.num_kept, known = keeps && call.are_known, again = call.product;
    float* state = keeps ? call.kept + (size_t)number * kRows * channels : states.data;
    for (int i = 0; i < kRows; ++i) enter(Query(call.grid, tile, kRows, i), i, state + i * channels, known);
    if (call.num_mixes == 0) return add_moments(2 * width);
    // Known states lack the last layer alone.
    const Layer* layer = call.layers + (known ? 2 * call.num_mixes - 3 : 0);
    for (int mix = known ? call.num_mixes - 1 : 0; mix < call.num_mixes; ++mix) {
      if (mix > 0) activate(*layer++);
      apply(rows, *layer++, [&](int row, int col, Vec x) {
        float* at = state + row * channels + col;
        x += load(at);
        if (again || mix + 1 < call.num_mixes) _mm512_store_ps(at, x);
        next.store(row, col, x);
      });
      std::swap(rows.buffer.data, next.buffer.data);
    }
    if (!call.product) activate(*layer++);
    const int stride = layer->out;
    apply(rows, *layer, [&](int row, int col, Vec x) { _mm512_store_ps(wide.data + row * stride + col, x); });
    if (call.product) return add_moments(stride);
    for (int i = 0; i < kRows; ++i) {
      const Query query(call.grid, tile, kRows, i);
      for (int colour = 0; query.inside && colour < 3; ++colour)
        query.answer(call.grid, colour, wide.data[i * stride + colour]);
    }
  }

  void enter(const Query& query, int i, float* state, bool known) {
    inside[i] = query.inside;
    if (known) {
      for (int k = 0; k < channels; k += kLanes) rows.store(i, k, load(state + k));
    } else if (call.num_mixes) {
      look_up(call.first, query, channels, [&](int k, Vec x) { _mm512_store_ps(state + k, x); });
      look_up(call.second, query, channels, [&](int k, Vec x) { rows.store(i, k, gelu(x)); });
    } else {
      look_up(call.first, query, 2 * width, [&](int k, Vec x) { _mm512_store_ps(wide.data + i * 2 * width + k, x); });
    }
  }

  void activate(const Layer& layer) {
    apply(rows, layer, [&](int row, int col, Vec x) { next.store(row, col, gelu(x)); });
    std::swap(rows.buffer.data, next.buffer.data);
  }

  template <class Then>
  static void look_up(const Lookup& of, const Query& query, int channels, Then then) {
    const float *row = of.row + (size_t)query.y * of.channels, *col = of.col + (size_t)query.x * of.channels;
    const Table<parts>* feat[kCorners];
    for (int c = 0; c < kCorners; ++c)
      feat[c] = (const Table<parts>*)of.feat + ((size_t)query.pixel[c] * kCorners + c) * of.channels;
    const Vec w0 = all(query.weight[0]), w1 = all(query.weight[1]), w2 = all(query.weight[2]), w3 = all(query.weight[3]);
    for (int k = 0; k < channels; k += kLanes) {
      const Vec near = w0 * load(feat[0] + k) + w1 * load(feat[1] + k);
      then(k, load(row + k) + load(col + k) + near + (w2 * load(feat[2] + k) + w3 * load(feat[3] + k)));
    }
  }

  // Normalises keys and values by the unbiased deviation plus 1e-5; adds their products and sums.
  void add_moments(int stride) {
    for (int i = 0; i < kRows; ++i) {
      float* at = wide.data + i * stride;
      for (int h = 0; h < 2 * heads; h += kLanes) {
        const int num = std::min(kLanes, 2 * heads - h);
        Vec squares[kLanes] = {};
        for (int j = 0; j < num; ++j) squares[j] = load(at + (h + j) * kHead) * load(at + (h + j) * kHead);
        const Vec deviation = _mm512_sqrt_ps(sums_of(squares) * all(1.f / (kHead - 1)));
        alignas(64) float inverse[kLanes];
        // Rows outside the image count for nothing.
        _mm512_store_ps(inverse, all(inside[i]) / (deviation + all(1e-5f)));
        for (int j = 0; j < num; ++j) _mm512_storeu_ps(at + (h + j) * kHead, load(at + (h + j) * kHead) * all(inverse[j]));
      }
    }
    for (int h = 0; h < heads; ++h) {
      Vec sum[kHead] = {}, keys = {}, values = {};
      for (int i = 0; i < kRows; ++i) {
        const float* key = wide.data + i * stride + h * kHead;
        const Vec value = load(key + width);
        keys += load(key), values += value;
#pragma GCC unroll 16
        for (int j = 0; j < kHead; ++j) sum[j] = _mm512_fmadd_ps(all(key[j]), value, sum[j]);
      }
      for (int j = 0; j < kHead; ++j) add(&product[(h * kHead + j) * kHead], sum[j]);
      add(&sums[h * kHead], keys), add(&sums[width + h * kHead], values);
    }
  }

  // The 16 sums of 16 vectors' elements.
  static Vec sums_of(const Vec* v) {
    Vec four[4];
    for (int i = 0; i < 4; ++i) {
      const Vec *a = v + 4 * i, ab = _mm512_unpacklo_ps(a[0], a[1]) + _mm512_unpackhi_ps(a[0], a[1]);
      const Vec cd = _mm512_unpacklo_ps(a[2], a[3]) + _mm512_unpackhi_ps(a[2], a[3]);
      const __m512d x = (__m512d)ab, y = (__m512d)cd;
      four[i] = (Vec)_mm512_unpacklo_pd(x, y) + (Vec)_mm512_unpackhi_pd(x, y);
    }
    auto halves = [](Vec a, Vec b) { return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd); };
    return halves(halves(four[0], four[1]), halves(four[2], four[3]));
  }

  static void add(double* to, Vec x) {
    for (int half = 0; half < 2; ++half) {
      const __m256 part = half ? _mm512_extractf32x8_ps(x, 1) : _mm512_castps512_ps256(x);
      _mm512_storeu_pd(to + 8 * half, _mm512_loadu_pd(to + 8 * half) + _mm512_cvtps_pd(part));
    }
  }
};

}  // namespace

extern "C" struct LinearCall {
  const void* x;      // (rows, in), float32 or bfloat16
  void* out;          // (rows, layer.out), the same type
  const Layer* layer;
  int32_t rows, in, threads;
};

namespace {

template <int parts>
struct LinearWorker {
  const LinearCall& call;
  Rows<parts> rows{kRows, call.layer->in};

  explicit LinearWorker(const LinearCall& call) : call(call) {}

  int count() const { return (call.rows + kRows - 1) / kRows; }

  void block(int number) {
    const int first = number * kRows, num = std::min(kRows, call.rows - first);
    const auto* x = (const Table<parts>*)call.x + (size_t)first * call.in;
    auto* out = (Table<parts>*)call.out + (size_t)first * call.layer->out;
    for (int i = 0; i < num; ++i)
      for (int k = 0; k < call.in; k += kLanes) rows.store(i, k, load(x + (size_t)i * call.in + k, call.in - k));
    apply(rows, *call.layer, [&](int row, int col, Vec y) {
      if (row < num) store(out + (size_t)row * call.layer->out + col, y, kLanes);
    });
  }
};

}  // namespace

extern "C" struct ConvCall {  // a same-padded 3x3 convolution; pixels hold their channels side by side
  const void *x, *skip;  // (height, width, in), float32 or bfloat16; skip, which may be null, as out
  void* out;             // (height, width, num_out)
  const Layer* layer;    // three rows of taps, each padded to whole pairs
  int32_t height, width, in, num_out, relu;
  float factor;  // out = skip + factor * relu(convolution)
  int32_t threads;
};

namespace {

template <int parts>
struct ConvWorker {
  static constexpr int kHeight = 16, kWidth = 64;  // of a block
  const ConvCall& call;
  const int channels = (call.in + kLanes - 1) / kLanes * kLanes, steps = call.layer->in / kPair / 3;
  Rows<parts> pixels{(kHeight + 2) * (kWidth + 2), channels};
  std::vector<int> offsets;

  explicit ConvWorker(const ConvCall& call) : call(call) {
    for (int tap = 0; tap < 3; ++tap)
      for (int k = 0; k < steps; ++k) offsets.push_back(tap * (kWidth + 2) * channels + k * kPair);
  }

  int across() const { return (call.width + kWidth - 1) / kWidth; }
  int count() const { return (call.height + kHeight - 1) / kHeight * across(); }

  void block(int number) {
    const int top = number / across() * kHeight, left = number % across() * kWidth;
    for (int y = 0; y < kHeight + 2; ++y)
      for (int x = 0; x < kWidth + 2; ++x) take(top + y - 1, left + x - 1, y * (kWidth + 2) + x);
    auto from = [&](int n) { return pixels.from(n / 2 * (kWidth + 2) + n % 2 * kPair, offsets.data()); };
    apply_to<parts>(kHeight * kWidth / kPair, from, *call.layer, [&](int row, int col, Vec value) {
      const int y = top + row / kWidth, x = left + row % kWidth, num = call.num_out - col;
      if (y >= call.height || x >= call.width || num <= 0) return;
      const size_t at = ((size_t)y * call.width + x) * call.num_out + col;
      if (call.relu) value = relu(value);
      if (call.skip) value = load((const Table<parts>*)call.skip + at, num) + all(call.factor) * value;
      store((Table<parts>*)call.out + at, value, num);
    });
  }

  void take(int y, int x, int row) {
    const bool inside = y >= 0 && y < call.height && x >= 0 && x < call.width;
    const auto* from = (const Table<parts>*)call.x + ((ptrdiff_t)y * call.width + x) * call.in;
    for (int k = 0; k < call.in; k += kLanes) pixels.store(row, k, inside ? load(from + k, call.in - k) : all(0));
  }
};

extern "C" struct GradientCall {  // of a same-padded convolution's weights, or with one tap of a linear layer's
  const void *x, *grad;  // (batch, height, width, in) and (…, out), float32 or bfloat16
  float *weight, *bias;  // (threads, taps, rows, cols) and (threads, cols) to add to; in and out padded to whole pairs
  int32_t batch, height, width, in, out, taps, threads;
};

namespace {

// A chunk, one a thread, is so many bands of rows of the images. Pixels become the depth of a product: the rows of x are turned into
// its columns, and those of the gradient are laid out as weights are.
template <int parts>
struct GradientWorker {
  using Value = typename Source<parts>::Value;
  static constexpr int kParts = parts ? parts : 1;
  const GradientCall& call;
  const int halo = call.taps / 9, across = call.width + 2 * halo, rows = padded(call.in), cols = padded(call.out);
  const int band = std::clamp((halo ? 1200 : 400) / across, 1, call.height), bands = (call.height + band - 1) / band;
  const int depth = padded(band * across), plane = (depth + 2 * halo * across + kPair) / kLanes * kLanes + kLanes;
  Rows<parts> planes{rows, plane + (plane % 64 == 0 ? kPair : 0)};
  Buffer<Value> packed{(size_t)kParts * depth * cols};
  Buffer<float> none{(size_t)cols};
  std::vector<int> offsets;

  explicit GradientWorker(const GradientCall& call) : call(call) {
    for (int i = 0; i < depth; i += kPair) offsets.push_back(i);
  }

  int count() const { return call.threads; }

  void block(int chunk) {
    const int total = call.batch * bands;
    for (int i = total * chunk / call.threads; i < total * (chunk + 1) / call.threads; ++i)
      add(i / bands, i % bands * band, call.weight + (size_t)chunk * call.taps * rows * cols, call.bias + (size_t)chunk * cols);
  }

  void add(int image, int top, float* weight, float* bias) {
    take_columns(image, top);
    take_gradient(image, top, bias);
    const Layer layer{packed.data, none.data, depth, cols};
    for (int tap = 0; tap < call.taps; ++tap) {
      const int shift = tap / 3 * across + tap % 3;
      float* to = weight + (size_t)tap * rows * cols;
      auto from = [&](int n) {
        Source<parts> source = planes.from(n * kPair, offsets.data());
        for (auto& part : source.part) part += shift;
        return source;
      };
      apply_to<parts>(rows / kPair, from, layer, [&](int row, int col, Vec x) {
        float* at = to + (size_t)row * cols + col;
        _mm512_storeu_ps(at, load(at) + x);
      });
    }
  }

  // The pixel at a place of a band that has `halo` more on each side; null outside the image.
  template <class T>
  const T* pixel(const T* of, int channels, int image, int top, int place, int border) const {
    const int y = top + place / across - border, x = place % across - border;
    const bool inside = y >= 0 && y < call.height && x >= 0 && x < call.width;
    return inside ? of + (((size_t)image * call.height + y) * call.width + x) * channels : nullptr;
  }

  void take_columns(int image, int top) {
    for (int place = 0; place + kLanes <= plane; place += kLanes) {
      const Table<parts>* at[kLanes];
      for (int i = 0; i < kLanes; ++i) at[i] = pixel((const Table<parts>*)call.x, call.in, image, top, place + i, halo);
      for (int k = 0; k < call.in; k += kLanes) {
        Vec v[kLanes];
        for (int i = 0; i < kLanes; ++i) v[i] = at[i] ? load(at[i] + k, call.in - k) : all(0);
        transpose(v);
        for (int i = 0; i < kLanes; ++i) planes.store(k + i, place, v[i]);
      }
    }
  }

  void take_gradient(int image, int top, float* bias) {
    const int bottom = std::min(top + band, call.height);
    for (int place = 0; place < depth; place += 2) {
      const Table<parts>* at[2];
      for (int i = 0; i < 2; ++i)
        at[i] = place + i < (bottom - top) * across
                    ? pixel((const Table<parts>*)call.grad, call.out, image, top, place + i, 0)
                    : nullptr;
      for (int n = 0; n < call.out; n += kLanes) {
        Vec v[2];
        for (int i = 0; i < 2; ++i) v[i] = at[i] ? load(at[i] + n, call.out - n) : all(0);
        _mm512_storeu_ps(bias + n, load(bias + n) + v[0] + v[1]);
        Value* to = packed.data + (size_t)n * depth * kParts;
        if constexpr (parts == 0) {
          for (int i = 0; i < 2; ++i) _mm512_store_ps(to + (place + i) * kLanes, v[i]);
        } else {
          store_pair(to + (size_t)place * kLanes, v);
        }
      }
    }
  }

#ifdef __AMX_BF16__
  // Two pixels side by side, part after part.
  void store_pair(Bf16* to, Vec* v) const {
    for (int part = 0; part < kParts; ++part) {
      __m512i bits[2];
      for (int i = 0; i < 2; ++i) {
        bits[i] = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v[i]));
        const __m512i high = _mm512_slli_epi32(bits[i], 16);
        v[i] -= (Vec)high;
        bits[i] = i ? high : bits[i];
      }
      _mm512_store_si512(to + (size_t)part * depth * kLanes, _mm512_or_si512(bits[0], bits[1]));
    }
  }
#endif

  // Rows become columns.
  static void transpose(Vec* v) {
    Vec a[kLanes], b[kLanes];
    for (int i = 0; i < kLanes; i += 2) a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]), a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    for (int i = 0; i < kLanes; i += 4)
      for (int j = 0; j < 2; ++j) {
        const __m512d x = (__m512d)a[i + j], y = (__m512d)a[i + j + 2];
        b[i + 2 * j] = (Vec)_mm512_unpacklo_pd(x, y), b[i + 2 * j + 1] = (Vec)_mm512_unpackhi_pd(x, y);
      }
    for (int j = 0; j < 4; ++j) {
      const Vec p = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88), q = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
      const Vec r = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd), s = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
      v[j] = _mm512_shuffle_f32x4(p, q, 0x88), v[8 + j] = _mm512_shuffle_f32x4(p, q, 0xdd);
      v[4 + j] = _mm512_shuffle_f32x4(r, s, 0x88), v[12 + j] = _mm512_shuffle_f32x4(r, s, 0xdd);
    }
  }
};

}  // namespace

// Answers 0, or 1 for a way to multiply that this processor lacks.
template <template <int> class Worker, class Call>
int run(const Call& call, int parts) {
  auto with = [&](auto make) {
    in_blocks(make()->count(), call.threads, parts > 0, make);
    return 0;
  };
  if (parts == 0) return with([&] { return std::make_unique<Worker<0>>(call); });
#ifdef __AMX_BF16__
  if (parts == 1) return with([&] { return std::make_unique<Worker<1>>(call); });
  if (parts == 2) return with([&] { return std::make_unique<Worker<2>>(call); });
  if (parts == 3) return with([&] { return std::make_unique<Worker<3>>(call); });
#endif
  return 1;
}

}  // namespace

extern "C" {

// Whether AMX can be used by this process.
int anysr_has_tiles() {
#ifdef __AMX_BF16__
  constexpr int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return 0;
#endif
}

int anysr_liif(const LiifCall* call, int parts) { return run<LiifWorker>(*call, parts); }

int anysr_srno(const SrnoCall* call, int parts) { return run<SrnoWorker>(*call, parts); }

int anysr_conv3x3(const ConvCall* call, int parts) { return run<ConvWorker>(*call, parts); }

int anysr_weight_gradient(const GradientCall* call, int parts) { return run<GradientWorker>(*call, parts); }

void anysr_use_openmp(OpenMp of_torch) { openmp = of_torch; }

int anysr_linear(const LinearCall* call, int parts) { return run<LinearWorker>(*call, parts); }

}  // extern "C"
