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
    """An H x W grid over LR pixels of which some rows are there: each axis's neighbours (2, H) or (2, W)."""

    index_y: Any
    index_x: Any
    rel_y: Any
    rel_x: Any
    height: Any
    width: Any
    first_row: Any
    lr_cols: Any


class Layers(NamedTuple):
    """Weights (layers, in, out) and float32 biases (layers, out) of K x K layers; of the last, (K, 16) and (16)."""

    weights: Any
    biases: Any
    last: Any
    last_bias: Any


@triton.jit
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


@triton.jit
def head_moments(rows, product, sums, num_rows, HEADS, CHUNK, C: tl.constexpr, BLOCK: tl.constexpr):
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


@triton.jit
def liif(grid, table, rel_weight, layers, rgb, first, num_queries, num_layers, K: tl.constexpr, BLOCK: tl.constexpr):
    """Colours (3, queries) by LIIF: the first layer looked up in (pixels, K), the others, the corners' blend."""
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = _pixel(grid, first, q, num_queries)
    k = tl.arange(0, K)
    weight_y, weight_x = tl.load(rel_weight + k), tl.load(rel_weight + K + k)
    total = tl.zeros((BLOCK, LAST), tl.float32)
    for corner in range(4):
        cy, cx = corner // 2, corner % 2
        rel_y, rel_x = tl.load(grid.rel_y + cy * grid.height + y), tl.load(grid.rel_x + cx * grid.width + x)
        states = tl.load(table + _lr_pixel(grid, y, x, cy, cx)[:, None] * K + k[None, :]).to(tl.float32)
        states += rel_y[:, None] * weight_y[None, :] + rel_x[:, None] * weight_x[None, :]
        for layer in range(num_layers):
            states = _linear(tl.maximum(states, 0.0), layers, layer, K)
        total += _blend(grid, y, x, cy, cx)[:, None] * _colours(tl.maximum(states, 0.0), layers, K)
    _store_colours(rgb, total, q, num_queries)


@triton.jit
def lifted_rows(grid, corners, row, col, out, first, num_queries, K, COLS: tl.constexpr, BLOCK: tl.constexpr):
    """(queries, K): what a linear layer on weighted corner features makes of each pixel (``corner_lift.py``)."""
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1) * COLS + tl.arange(0, COLS)
    y, x = _pixel(grid, first, q, num_queries)
    there = (k < K)[None, :]
    total = tl.load(row + y[:, None] * K + k[None, :], mask=there, other=0.0)
    total += tl.load(col + x[:, None] * K + k[None, :], mask=there, other=0.0)
    for corner in tl.static_range(4):
        cy, cx = corner // 2, corner % 2
        place = (4 * _lr_pixel(grid, y, x, cy, cx) + corner)[:, None] * K + k[None, :]
        value = tl.load(corners + place, mask=there, other=0.0).to(tl.float32)
        total += _blend(grid, y, x, cy, cx)[:, None] * value
    tl.store(
        out + q.to(tl.int64)[:, None] * K + k[None, :],
        total.to(out.dtype.element_ty),
        mask=(q < num_queries)[:, None] & there,
    )


@triton.jit
def _pixel(grid, first, q, num_queries):
    """Row and column; of queries beyond the last one, of which nothing is stored, those of the last one."""
    query = first + tl.minimum(q, num_queries - 1)
    return query // grid.width, query % grid.width


@triton.jit
def _lr_pixel(grid, y, x, cy, cx):
    """Which of the LR pixels that are there is a pixel's neighbour."""
    row = tl.load(grid.index_y + cy * grid.height + y) - grid.first_row
    return row * grid.lr_cols + tl.load(grid.index_x + cx * grid.width + x)


@triton.jit
def _blend(grid, y, x, cy, cx):
    """A corner's weight: the area of the diagonally opposite rectangle, normalised (``ensemble_weights``)."""
    y0, y1 = tl.abs(tl.load(grid.rel_y + y)), tl.abs(tl.load(grid.rel_y + grid.height + y))
    x0, x1 = tl.abs(tl.load(grid.rel_x + x)), tl.abs(tl.load(grid.rel_x + grid.width + x))
    opposite = tl.where(cy == 0, y1, y0) * tl.where(cx == 0, x1, x0) + 1e-9
    return opposite / ((y0 + y1) * (x0 + x1) + 4e-9)


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


@triton.jit
def _store_colours(rgb, colours, q, num_queries):
    c = tl.arange(0, LAST)
    place = rgb + c.to(tl.int64)[None, :] * num_queries + q[:, None]
    tl.store(place, colours, mask=(q < num_queries)[:, None] & (c < 3)[None, :])
