// Pillow's antialiased resize of 8-bit RGB images, to the byte, for squares such as training's crops.
//
// Pillow works in whole numbers: weights of 22 fractional bits, along the rows, rounded to 8 bits, then down the
// columns. So does this, hence the same bytes; only the order in memory differs. Sums run over vectors of
// neighbours, so the pass along the rows works on the transposed image. Squares alone, because Pillow takes the
// columns first where the height shrinks more.
// Called through ctypes (resize.py), which makes the weights. The loops are left to the compiler to turn into vectors.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kChannels = 3, kFractionBits = 22;
constexpr int kStep = 64;  // bytes summed side by side

// Bytes of a row of pixels: whole steps, with room for the last pixel's fourth byte; an odd number, so that the
// pixels of a column do not all compete for the same places of the cache.
inline int padded(int pixels) { return ((pixels * kChannels + kStep) / kStep | 1) * kStep; }

}  // namespace

extern "C" struct Axis {
  const int32_t *first, *count;  // of the pixels that make each answer
  const int32_t* weight;         // (answers, taps), fixed point
  int32_t pixels, answers, taps;
};

namespace {

// Each answer is the weighted sum of consecutive rows of `stride` bytes.
void sum_rows(const uint8_t* rows, int stride, const Axis& axis, uint8_t* out) {
  for (int i = 0; i < axis.answers; ++i) {
    const int32_t* weight = axis.weight + (size_t)i * axis.taps;
    for (int at = 0; at < stride; at += kStep) {
      const uint8_t* from = rows + (size_t)axis.first[i] * stride + at;
      int32_t sum[kStep];
      for (int j = 0; j < kStep; ++j) sum[j] = 1 << (kFractionBits - 1);
      for (int tap = 0; tap < axis.count[i]; ++tap, from += stride)
        for (int j = 0; j < kStep; ++j) sum[j] += from[j] * weight[tap];
      uint8_t* to = out + (size_t)i * stride + at;
      for (int j = 0; j < kStep; ++j) {
        const int32_t whole = sum[j] >> kFractionBits;
        to[j] = whole < 0 ? 0 : whole > 255 ? 255 : whole;
      }
    }
  }
}

// Pixel (y, x) to (x, y). Four bytes a pixel: the fourth is overwritten by the next one, or is room.
void transpose(const uint8_t* from, int height, int width, size_t stride, uint8_t* to, size_t to_stride) {
  for (int y = 0; y < height; ++y) {
    const uint8_t* pixel = from + y * stride;
    uint8_t* target = to + y * kChannels;
    for (int x = 0; x + 1 < width; ++x, pixel += kChannels, target += to_stride) std::memcpy(target, pixel, 4);
    std::memcpy(target, pixel, kChannels);
  }
}

}  // namespace

// (pixels, pixels, 3), rows `stride` bytes apart, to (answers, answers, 3).
extern "C" void anysr_resize_square(const uint8_t* pixels, int64_t stride, const Axis* axis, uint8_t* out) {
  thread_local std::vector<uint8_t> buffers[4];
  const int side = axis->pixels, small = axis->answers, tall = padded(side), wide = padded(small);
  const size_t sizes[] = {(size_t)side * tall, (size_t)small * tall, (size_t)side * wide, (size_t)small * wide};
  uint8_t* data[4];
  for (int i = 0; i < 4; ++i) {
    if (buffers[i].size() < sizes[i]) buffers[i].resize(sizes[i]);
    data[i] = buffers[i].data();
  }
  transpose(pixels, side, side, stride, data[0], tall);
  sum_rows(data[0], tall, *axis, data[1]);
  transpose(data[1], small, side, tall, data[2], wide);
  sum_rows(data[2], wide, *axis, data[3]);
  const size_t bytes = (size_t)small * kChannels;
  for (int y = 0; y < small; ++y) std::memcpy(out + y * bytes, data[3] + (size_t)y * wide, bytes);
}
