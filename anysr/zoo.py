"""Every network by name: encoder-decoder, "-anysr" behind it for the any-resource form, and the baselines.

A plain name is the network as published, a group of scales for all; "-anysr" adds feature
interweaving and the paper's four subnets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anysr.colour import ColourConfig, div2k_colour
from anysr.config import PAPER_SUBNETS, ModelConfig, SubnetConfig, check_keys
from anysr.decoders import (
    ArbSrConfig,
    DecoderConfig,
    EcbsrConfig,
    LiifConfig,
    MetaSrConfig,
    PixelShuffleConfig,
    SrnoConfig,
    VdsrConfig,
)
from anysr.encoders import EdsrConfig, EncoderConfig, RcanConfig, RdnConfig, RgbConfig

PLAIN_SUBNETS = (SubnetConfig((1.0, 4.0)),)
# RDN is narrowed less: AnySR's release, as PAPER_SUBNETS are its widths for EDSR.
RDN_SUBNETS = tuple(
    replace(group, encoder_width=width) for group, width in zip(PAPER_SUBNETS, (0.7, 0.8, 0.9, 1.0), strict=True)
)

_EDSR_BASELINE = EdsrConfig()
_EDSR = EdsrConfig(num_blocks=32, channels=256, residual_scale=0.1)
_RDN = RdnConfig()
_RDN_A = RdnConfig(num_blocks=20, num_convs=6, growth=32)
_RCAN = RcanConfig()
_LIIF = LiifConfig()
_SRNO = SrnoConfig()
_METASR = MetaSrConfig()
_ARBSR = ArbSrConfig()
_SHUFFLE = PixelShuffleConfig()
_ECBSR = EcbsrConfig()


def _plain(encoder: EncoderConfig, decoder: DecoderConfig) -> ModelConfig:
    # ArbSR, and EDSR and RCAN with their own heads, were published on 0 ... 255 with DIV2K's mean taken off.
    on_255 = isinstance(decoder, ArbSrConfig | PixelShuffleConfig)
    colour = div2k_colour() if on_255 else ColourConfig()
    return ModelConfig(encoder, decoder, interweave=None, subnets=PLAIN_SUBNETS, colour=colour)


def _anysr(encoder: EncoderConfig, decoder: DecoderConfig) -> ModelConfig:
    subnets = RDN_SUBNETS if isinstance(encoder, RdnConfig) else PAPER_SUBNETS
    plain = _plain(encoder, decoder)
    return ModelConfig(encoder, decoder, subnets=subnets, colour=plain.colour)


def _adapted(encoder: EncoderConfig, every: int) -> EncoderConfig:
    """With ArbSR's adaption after every so many blocks or groups."""
    assert not isinstance(encoder, RgbConfig)
    return replace(encoder, adapt_every=every)


MODELS: dict[str, ModelConfig] = {
    "edsr-baseline-liif": _plain(_EDSR_BASELINE, _LIIF),
    "edsr-baseline-srno": _plain(_EDSR_BASELINE, _SRNO),
    "edsr-baseline-metasr": _plain(_EDSR_BASELINE, _METASR),
    "edsr-baseline-arbsr": _plain(_adapted(_EDSR_BASELINE, 4), _ARBSR),
    "edsr-liif": _plain(_EDSR, _LIIF),
    "edsr-srno": _plain(_EDSR, _SRNO),
    "edsr-metasr": _plain(_EDSR, _METASR),
    "edsr-arbsr": _plain(_adapted(_EDSR, 8), _ARBSR),
    "rdn-liif": _plain(_RDN, _LIIF),
    "rdn-srno": _plain(_RDN, _SRNO),
    "rdn-metasr": _plain(_RDN, _METASR),
    "rdn-arbsr": _plain(_adapted(_RDN, 4), _ARBSR),
    "rdn-a-liif": _plain(_RDN_A, _LIIF),
    "rdn-a-srno": _plain(_RDN_A, _SRNO),
    "rdn-a-metasr": _plain(_RDN_A, _METASR),
    "rdn-a-arbsr": _plain(_adapted(_RDN_A, 5), _ARBSR),
    "rcan-liif": _plain(_RCAN, _LIIF),
    "rcan-srno": _plain(_RCAN, _SRNO),
    "rcan-metasr": _plain(_RCAN, _METASR),
    "rcan-arbsr": _plain(_adapted(_RCAN, 1), _ARBSR),
    "edsr-baseline-liif-anysr": _anysr(_EDSR_BASELINE, _LIIF),
    "edsr-baseline-srno-anysr": _anysr(_EDSR_BASELINE, _SRNO),
    "edsr-baseline-metasr-anysr": _anysr(_EDSR_BASELINE, _METASR),
    "edsr-baseline-arbsr-anysr": _anysr(_adapted(_EDSR_BASELINE, 4), _ARBSR),
    "edsr-liif-anysr": _anysr(_EDSR, _LIIF),
    "edsr-srno-anysr": _anysr(_EDSR, _SRNO),
    "edsr-metasr-anysr": _anysr(_EDSR, _METASR),
    "edsr-arbsr-anysr": _anysr(_adapted(_EDSR, 8), _ARBSR),
    "rdn-liif-anysr": _anysr(_RDN, _LIIF),
    "rdn-srno-anysr": _anysr(_RDN, _SRNO),
    "rdn-metasr-anysr": _anysr(_RDN, _METASR),
    "rdn-arbsr-anysr": _anysr(_adapted(_RDN, 4), _ARBSR),
    "rdn-a-liif-anysr": _anysr(_RDN_A, _LIIF),
    "rdn-a-srno-anysr": _anysr(_RDN_A, _SRNO),
    "rdn-a-metasr-anysr": _anysr(_RDN_A, _METASR),
    "rdn-a-arbsr-anysr": _anysr(_adapted(_RDN_A, 5), _ARBSR),
    "rcan-liif-anysr": _anysr(_RCAN, _LIIF),
    "rcan-srno-anysr": _anysr(_RCAN, _SRNO),
    "rcan-metasr-anysr": _anysr(_RCAN, _METASR),
    "rcan-arbsr-anysr": _anysr(_adapted(_RCAN, 1), _ARBSR),
    "edsr-baseline-x2": _plain(_EDSR_BASELINE, _SHUFFLE),
    "edsr-baseline-x3": _plain(_EDSR_BASELINE, replace(_SHUFFLE, factor=3)),
    "edsr-baseline-x4": _plain(_EDSR_BASELINE, replace(_SHUFFLE, factor=4)),
    "edsr-x2": _plain(_EDSR, _SHUFFLE),
    "edsr-x3": _plain(_EDSR, replace(_SHUFFLE, factor=3)),
    "edsr-x4": _plain(_EDSR, replace(_SHUFFLE, factor=4)),
    "rcan-x2": _plain(_RCAN, _SHUFFLE),
    "rcan-x3": _plain(_RCAN, replace(_SHUFFLE, factor=3)),
    "rcan-x4": _plain(_RCAN, replace(_SHUFFLE, factor=4)),
    "vdsr": _plain(RgbConfig(), VdsrConfig()),
    "ecbsr-m4c16-x2": _plain(RgbConfig(), _ECBSR),
    "ecbsr-m4c16-x4": _plain(RgbConfig(), replace(_ECBSR, factor=4)),
    "ecbsr-m10c32-x2": _plain(RgbConfig(), replace(_ECBSR, num_blocks=10, channels=32)),
    "ecbsr-m10c32-x4": _plain(RgbConfig(), replace(_ECBSR, num_blocks=10, channels=32, factor=4)),
    "ecbsr-m16c64-x2": _plain(RgbConfig(), replace(_ECBSR, num_blocks=16, channels=64)),
    "ecbsr-m16c64-x4": _plain(RgbConfig(), replace(_ECBSR, num_blocks=16, channels=64, factor=4)),
}


def list_models() -> list[str]:
    """The names that :func:`anysr.build` knows."""
    return list(MODELS)


def named_values(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A named network's configuration as plain values, with some of them replaced.

    Args:
        name: one of :func:`list_models`.
        overrides: nested like ``ModelConfig.to_dict()``, only what differs: {"encoder": {"num_blocks": 4}}.
            An encoder or decoder of another ``kind`` starts from that kind's defaults.

    Raises:
        ValueError: an unknown name (the nearest is named).
    """
    check_keys([name], MODELS, "model name")
    return _merged(MODELS[name].to_dict(), overrides)


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        old = base.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged
