"""The decoders' passes over an image as Triton kernels: for a GPU what ``kernels.cpp`` is for a CPU.

A program takes a block of pixels through all layers, so that no hidden state goes through memory.
Rows are of K hidden units, a power of two (``gpu.py`` pads them with zeros). Factors of products are
of the weights' type; sums, and all between the products, are float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

LAST = tl.constexpr(16)  # columns of the last layer's product, of which three are colours
_NORM_EPS = tl.constexpr(1e-5)


class Grid(NamedTuple):
    """A tile of an H x W image, and the LR pixels that are there for it.

    Attributes:
        index_y: (2, H) int32 neighbours of each row; ``index_x`` (2, W) of each column.
        index_x: see there.
        rel_y: (2, H) float32 distances to them; ``rel_x`` likewise.
        rel_x: see there.
        numbers: (8,) int64: H, W, the tile's first row, first column and columns, those of the LR pixels. In
            memory, as Triton compiles a kernel again for other kinds of numbers given as arguments.
    """

    index_y: Any
    index_x: Any
    rel_y: Any
    rel_x: Any
    numbers: Any


class Layers(NamedTuple):
    """Weights (layers, in, out) and float32 biases (layers, out) of K x K layers; of the last, (K, 16) and (16)."""

    weights: Any
    biases: Any
    last: Any
    last_bias: Any


@triton.jit(do_not_specialize=["num_queries"])
def weighted_rows(table, index, share, out, num_queries, K, N: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr):
    """out[q] = sum over n of share[q, n] table[index[q, n]], in blocks of COLS of the K columns."""
    q = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = q < num_queries
    both = inside[:, None] & (k < K)[None, :]
    total = tl.zeros((BLOCK, COLS), tl.float32)
    for n in tl.static_range(N):
        row = tl.load(index + q * N + n, mask=inside, other=0)
        weight = tl.load(share + q * N + n, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(table + row[:, None] * K + k[None, :], mask=both, other=0.0).to(tl.float32)
        total += weight[:, None] * value
    tl.store(out + q[:, None] * K + k[None, :], total.to(out.dtype.element_ty), mask=both)


@triton.jit(do_not_specialize=["num_rows"])
def head_moments(rows, product, sums, num_rows, HEADS, CHUNK: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """Galerkin attention's sums over a chunk of centred keys and values, (rows, 2 HEADS C), for one head.

    Fills product (chunks, HEADS, C, C) and sums (chunks, 2 HEADS, C).
    """
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.arange(0, C)
    total = tl.zeros((C, C), tl.float32)
    key_sum, value_sum = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    for start in range(0, CHUNK, BLOCK):
        q = chunk * CHUNK + start + tl.arange(0, BLOCK)
        inside = (q < num_rows)[:, None]
        place = rows + q[:, None] * (2 * HEADS * C) + head * C + c[None, :]
        keys = _standardised(tl.load(place, mask=inside, other=0.0).to(tl.float32), C)
        values = _standardised(tl.load(place + HEADS * C, mask=inside, other=0.0).to(tl.float32), C)
        total += tl.dot(tl.trans(keys), values, input_precision="ieee")
        key_sum += tl.sum(keys, 0)
        value_sum += tl.sum(values, 0)
    here = chunk * HEADS + head
    tl.store(product + here * C * C + c[:, None] * C + c[None, :], total)
    tl.store(sums + (here + chunk * HEADS) * C + c, key_sum)
    tl.store(sums + (here + (chunk + 1) * HEADS) * C + c, value_sum)


@triton.jit
def _standardised(x, C: tl.constexpr):
    """Divided by s + 1e-5 over the last axis, as ``galerkin.py`` has it."""
    return x / (tl.sqrt(tl.sum(x * x, 1) / (C - 1)) + _NORM_EPS)[:, None]


@triton.jit(do_not_specialize=["num_queries", "num_layers"])
def liif(grid, table, rel_weight, layers, rgb, num_queries, num_layers, K: tl.constexpr, BLOCK: tl.constexpr):
    """Colours (3, queries) by LIIF: the first layer looked up in (LR pixels, K), the others, the corners' blend."""
    q = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y, x = _pixel(grid, q, num_queries)
    k = tl.arange(0, K)
    weight_y, weight_x = tl.load(rel_weight + k), tl.load(rel_weight + K + k)
    total = tl.zeros((BLOCK, LAST), tl.float32)
    for corner in range(4):
        pixel, rel_y, rel_x = _neighbour(grid, y, x, corner)
        states = tl.load(table + pixel[:, None] * K + k[None, :]).to(tl.float32)
        states += rel_y[:, None] * weight_y[None, :] + rel_x[:, None] * weight_x[None, :]
        for layer in range(num_layers):
            states = _linear(_relu(states), layers, layer, K)
        total += _blend(grid, y, x, corner)[:, None] * _colours(_relu(states), layers, K)
    c = tl.arange(0, LAST)
    inside = (q < num_queries)[:, None] & (c < 3)[None, :]
    tl.store(rgb + c.to(tl.int64)[None, :] * num_queries + q[:, None], total, mask=inside)


@triton.jit(do_not_specialize=["num_queries"])
def lifted_rows(grid, corners, row, col, out, num_queries, K, COLS: tl.constexpr, BLOCK: tl.constexpr):
    """(queries, K): what a linear layer on weighted corner features makes of each pixel (``corner_lift.py``)."""
    q = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1) * COLS + tl.arange(0, COLS)
    y, x = _pixel(grid, q, num_queries)
    there = (k < K)[None, :]
    total = tl.load(row + y[:, None] * K + k[None, :], mask=there, other=0.0)
    total += tl.load(col + x[:, None] * K + k[None, :], mask=there, other=0.0)
    for corner in tl.static_range(4):
        pixel, _, _ = _neighbour(grid, y, x, corner)
        value = tl.load(corners + (4 * pixel + corner)[:, None] * K + k[None, :], mask=there, other=0.0)
        total += _blend(grid, y, x, corner)[:, None] * value.to(tl.float32)
    inside = (q < num_queries)[:, None] & there
    tl.store(out + q[:, None] * K + k[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _pixel(grid, q, num_queries):
    """Row and column; of queries beyond the last one, of which nothing is stored, those of the last one."""
    q = tl.minimum(q, num_queries - 1)
    top, left, cols = tl.load(grid.numbers + 2), tl.load(grid.numbers + 3), tl.load(grid.numbers + 4)
    return top + q // cols, left + q % cols


@triton.jit
def _neighbour(grid, y, x, corner):
    """Which of the LR pixels that are there is a pixel's neighbour at this corner; its distance, rows and columns."""
    at_y, at_x = corner // 2 * tl.load(grid.numbers) + y, corner % 2 * tl.load(grid.numbers + 1) + x
    row = tl.load(grid.index_y + at_y) - tl.load(grid.numbers + 5)
    col = tl.load(grid.index_x + at_x) - tl.load(grid.numbers + 6)
    return row * tl.load(grid.numbers + 7) + col, tl.load(grid.rel_y + at_y), tl.load(grid.rel_x + at_x)


@triton.jit
def _blend(grid, y, x, corner):
    """A corner's weight: the area of the diagonally opposite rectangle, normalised (``ensemble_weights``)."""
    y0, y1 = tl.abs(tl.load(grid.rel_y + y)), tl.abs(tl.load(grid.rel_y + tl.load(grid.numbers) + y))
    x0, x1 = tl.abs(tl.load(grid.rel_x + x)), tl.abs(tl.load(grid.rel_x + tl.load(grid.numbers + 1) + x))
    opposite = tl.where(corner // 2 == 0, y1, y0) * tl.where(corner % 2 == 0, x1, x0) + 1e-9
    return opposite / ((y0 + y1) * (x0 + x1) + 4e-9)


@triton.jit
def _relu(x):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _linear(states, layers, layer, K: tl.constexpr):
    k = tl.arange(0, K)
    weight = tl.load(layers.weights + layer * K * K + k[:, None] * K + k[None, :])
    return tl.dot(states.to(weight.dtype), weight) + tl.load(layers.biases + layer * K + k)[None, :]


@triton.jit
def _colours(states, layers, K: tl.constexpr):
    """(BLOCK, 16), of which the first three columns are colours."""
    k, c = tl.arange(0, K), tl.arange(0, LAST)
    weight = tl.load(layers.last + k[:, None] * LAST + c[None, :])
    return tl.dot(states.to(weight.dtype), weight) + tl.load(layers.last_bias + c)[None, :]
