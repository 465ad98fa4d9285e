"""Which graph stands for which decoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from anysr.decoders import ArbSr, Decoder, Ecbsr, Liif, MetaSr, PixelShuffle, Srno, Vdsr
from anysr.export.arbsr import ArbSrGraph
from anysr.export.fixed_scale import EcbsrGraph, PixelShuffleGraph, VdsrGraph
from anysr.export.liif import LiifGraph
from anysr.export.metasr import MetaSrGraph
from anysr.export.srno import SrnoGraph

_GRAPHS: dict[type[nn.Module], Any] = {
    ArbSr: ArbSrGraph,
    Ecbsr: EcbsrGraph,
    Liif: LiifGraph,
    MetaSr: MetaSrGraph,
    PixelShuffle: PixelShuffleGraph,
    Srno: SrnoGraph,
    Vdsr: VdsrGraph,
}


def graph_of(decoder: Decoder) -> Any:
    """The decoder in a form that torch can trace for any size and scale.

    Raises:
        ValueError: there is none yet.
    """
    if type(decoder) not in _GRAPHS:
        raise ValueError(f"decoder kind {decoder.config.kind!r} has no graph to export; see anysr/export/decoders.py")
    return _GRAPHS[type(decoder)](decoder)
