"""How much memory an enlargement takes, and the tile that keeps it within a limit.

Counted are what grows with the image – pixels in and out, the encoder's maps, which hold the whole
image whatever the tile (``anysr/encoders/tiles.py``) – and the windows, which are as large as the
tile. What does not grow is an allowance: strips of the decoder, and the allocator's own keeping.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from anysr.decoders.srno_fused import KEPT_BYTES
from anysr.encoders.tiles import WINDOW_BYTES
from anysr.model import AnySR, Subnet
from anysr.upscaling.plan import Plan, Precision, Tile
from anysr.upscaling.strips import NUM_SYMMETRIES

TILES_PX = (512, 256, 128, 64, 32)
_SCRATCH_BYTES = 256 * 2**20
_TYPICAL_BYTES = 512 * 2**20
_HALO_PX = 16
# Copies of a plane on its way to the network, and of the answer on its way into a file.
_COPIES_IN, _COPIES_OUT = 4, 3
# Of the self-ensemble, float32 RGB: the sum so far, an answer, and the answer turned back.
_COPIES_ENSEMBLE = 3


def peak_bytes(model: AnySR, plan: Plan, precision: Precision, tile: Tile, out_bytes_per_pixel: int) -> int:
    """Resident bytes of this process while it enlarges.

    Args:
        model: the network.
        plan: sizes and subnet.
        precision: of the network.
        tile: of the encoder.
        out_bytes_per_pixel: of the enlarged picture, all channels together.
    """
    (h, w), (height, width) = plan.lr_size, plan.target.size
    element = 4 if precision == "fp32" else 2
    pictures = _COPIES_IN * 3 * 4 * h * w + _COPIES_OUT * out_bytes_per_pixel * height * width
    encoder = element * _encoder_values(model, plan.subnet, (h, w), tile)
    if plan.passes >= NUM_SYMMETRIES:
        pictures += _COPIES_ENSEMBLE * 3 * 4 * height * width
    states = element * plan.subnet.decoder_channels * height * width
    decoder = min(KEPT_BYTES, states) if model.config.decoder.kind == "srno" else 0
    return resident_bytes() + pictures + encoder + decoder + _SCRATCH_BYTES


def fitting_tile(
    model: AnySR, plan: Plan, precision: Precision, out_bytes_per_pixel: int, limit: int
) -> tuple[Tile, int]:
    """The first of "auto" and ever smaller tiles that stays within the limit, else the smallest, with its bytes."""
    tile: Tile = "auto"
    needed = peak_bytes(model, plan, precision, tile, out_bytes_per_pixel)
    for side in TILES_PX:
        if needed <= limit:
            break
        tile, needed = side, peak_bytes(model, plan, precision, side, out_bytes_per_pixel)
    return tile, needed


def resident_bytes() -> int:
    """What this process holds now; where the system does not tell simply, what Python and torch usually take."""
    if sys.platform != "linux":
        return _TYPICAL_BYTES
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _encoder_values(model: AnySR, subnet: Subnet, lr_size: tuple[int, int], tile: Tile) -> int:
    """Numbers that the encoder holds at its peak."""
    h, w = lr_size
    channels, window_channels = model.encoder.out_channels, model.encoder.window_channels(subnet.encoder_channels)
    whole = (2 * channels + window_channels) * h * w
    kept = model.encoder.kept_channels(subnet.encoder_channels) * h * w
    if tile is None:
        return whole
    if tile == "auto":
        windows = WINDOW_BYTES // torch.float32.itemsize
        return whole if window_channels * h * w <= windows else kept + windows
    rows, columns = min(h, tile + 2 * _HALO_PX), min(w, tile + 2 * _HALO_PX)
    return min(whole, kept + rows * (2 * channels * w + window_channels * columns))
