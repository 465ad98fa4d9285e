"""The any-scale, any-resource network: encoder, decoder, and the choice of subnet."""

from __future__ import annotations

import copy
import operator
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anysr.colour import recolour
from anysr.config import ModelConfig, SubnetConfig
from anysr.decoders import DECODERS, Decoder, Ecbsr
from anysr.decoders.grid import Rows, assemble
from anysr.encoders import ENCODERS, Encoder
from anysr.encoders.tiles import Progress, Tile, TileChoice, is_auto, resolve_tile
from anysr.fast_linear import inference_dtype
from anysr.geometry import GridQueries, Pair, PointQueries, Queries, resolve_target
from anysr.slimmable import copy_prefixes
from anysr.zoo import named_values

SubnetChoice = int | Literal["auto", "full"]


@dataclass(frozen=True)
class Subnet:
    """One of the networks that share the weights.

    Attributes:
        index: position, narrowest first.
        scales: [low, high) of max(s_h, s_w) that it serves.
        encoder_channels: channels inside the encoder's blocks.
        decoder_channels: the decoder's hidden channels.
    """

    index: int
    scales: tuple[float, float]
    encoder_channels: int
    decoder_channels: int


class AnySR(nn.Module):
    """Enlarges images by any factor with as much of itself as that factor needs.

    It owns its normalisation, depends on its arguments alone and keeps nothing between calls. Networks
    with ArbSR's adaption need :meth:`eval` for that, which :func:`anysr.load` leaves them in: while they
    train, their batch norms average over the batch, even without gradients, and over each tile of it.

    Without gradients it computes in the type of its weights or of autocast, but not in bfloat16 on a processor
    that is slower in that than in float32. Weights of another type are then converted at every call: to save
    that, convert the network once, ``model.float()`` or ``model.bfloat16()``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise TypeError(
                f"AnySR takes a ModelConfig, got {reprlib.repr(config)}; anysr.build takes names and mappings, too"
            )
        self.config = config
        self.encoder: Encoder = ENCODERS[config.encoder.kind][1](config.encoder, config.interweave)
        self.decoder: Decoder = DECODERS[config.decoder.kind][1](config.decoder, self.encoder.out_channels)
        self.subnets = tuple(Subnet(i, group.scales, *config.channels(group)) for i, group in enumerate(config.subnets))

    def forward(
        self,
        lr: Tensor,
        scale: float | Sequence[float] | None = None,
        size: Sequence[int] | None = None,
        *,
        subnet: SubnetChoice = "auto",
        coord: Tensor | None = None,
        tile: TileChoice = "auto",
    ) -> Tensor:
        """Enlarge a batch.

        Args:
            lr: (N, 3, h, w) RGB in [0, 1].
            scale: factor, or (s_h, s_w); every value at least 1.
            size: (H, W) of the output. Alone it sets the scale; beside ``scale`` it is the grid and
                ``scale`` only conditions the network.
            subnet: "auto" chooses by the larger scale, an index by hand, "full" the whole network.
            coord: (N, Q, 2) places to answer at, (y, x) in [-1, 1], which is not checked, instead of the whole grid.
            tile: bounds the memory of the encoder, without gradients: it works in windows of so many
                LR pixels per side, one number or (rows, columns). "auto" does so where the image is
                large; None never. The answer is that of the whole image to rounding, whatever the
                tile; ``encoders/tiles.py`` says how, and what it costs. Decoders work in strips of
                rows whose memory is bounded anyway.

        Returns:
            (N, 3, H, W) RGB in the same range, not clamped; (N, Q, 3) with ``coord``. Without gradients
            float32, whatever the type of the weights: float64 makes no answer more exact, as decoders
            compute in float32 at most.

        Raises:
            ValueError: a wrong shape, scale, size, subnet or tile; on a CPU, an ``lr`` that is not finite; LIIF's
                coordinates that want gradients. LIIF's gradients cannot be differentiated again: with
                ``create_graph=True`` the backward pass raises it.
        """
        if not torch.is_grad_enabled() and coord is None:
            height, width = resolve_target(_check_images(lr), scale, size).size
            pieces = self.strips(lr, scale, size, subnet=subnet, tile=tile)
            return assemble(pieces, len(lr), (height, width), lr.device)
        target = resolve_target(_check_images(lr), scale, size)
        _check_finite(lr)
        coord = None if coord is None else _checked_coord(coord, len(lr))
        chosen = self.subnet_for(subnet, target.largest_scale)
        grid = GridQueries(target.size, target.scale)
        queries: Queries = grid if coord is None else PointQueries(coord, grid.cell, target.scale)
        image = recolour(lr, self.config.colour.to_network, dim=1)
        same = self._at_inference_precision()
        with nullcontext() if torch.is_grad_enabled() else torch.autocast(lr.device.type, enabled=False):
            feat = same._encode(image, target.scale, chosen, tile, _untold)
            rgb: Tensor = same.decoder(feat, image, queries, chosen.decoder_channels)
        return recolour(rgb, self.config.colour.to_rgb, dim=1 if coord is None else 2)

    @torch.no_grad()
    def strips(
        self,
        lr: Tensor,
        scale: float | Sequence[float] | None = None,
        size: Sequence[int] | None = None,
        *,
        subnet: SubnetChoice = "auto",
        tile: TileChoice = "auto",
        progress: Progress | None = None,
    ) -> Iterator[Rows]:
        """Enlarge a batch without ever holding the whole answer: for images larger than memory likes.

        Arguments as for :meth:`forward`; no gradients.

        Args:
            progress: told which share of an image's encoding is done, where that goes in windows.

        Yields:
            :class:`Rows`, each some rows of one image's answer, from top to bottom within an image.
            Together they are the answer of :meth:`forward`.

        Raises:
            ValueError: as for :meth:`forward`, when the first strip is asked for.
        """
        target = resolve_target(_check_images(lr), scale, size)
        _check_finite(lr)
        chosen = self.subnet_for(subnet, target.largest_scale)
        queries = GridQueries(target.size, target.scale)
        same, colour = self._at_inference_precision(), self.config.colour
        # Windows are cut from one image at a time; whole images go through the encoder together.
        batches = lr.split(1 if same._tile(lr, chosen, tile) else len(lr))
        for first, batch in enumerate(batches):
            image = recolour(batch, colour.to_network, dim=1)
            with torch.autocast(lr.device.type, enabled=False):
                feat = same._encode(image, target.scale, chosen, tile, progress or _untold)
            pieces = same.decoder.rows(feat, image, queries, chosen.decoder_channels)
            for rows in _without_autocast(pieces, lr.device.type):
                yield Rows(first + rows.image, rows.top, recolour(rows.rgb, colour.to_rgb, dim=0))

    def _at_inference_precision(self) -> AnySR:
        """This network, or without gradients a copy in the precision that autocast or the processor wants."""
        weight = next(self.parameters())
        dtype = weight.dtype if torch.is_grad_enabled() else inference_dtype(weight)
        return self if dtype == weight.dtype else copy.deepcopy(self).to(dtype)

    def _encode(
        self, image_B3hw: Tensor, scale: Pair, subnet: Subnet, choice: TileChoice, progress: Progress
    ) -> Tensor:
        """Features of images in the network's colour range."""
        rows = self.config.colour.to_encoder
        given = image_B3hw if rows is None else recolour(image_B3hw, rows, dim=1)
        given = given.to(next(self.parameters()).dtype)
        tile = self._tile(image_B3hw, subnet, choice)
        if tile is None:
            features: Tensor = self.encoder(given, scale, subnet.encoder_channels)
            return features
        width = subnet.encoder_channels
        images = [self.encoder.in_tiles(one, scale, width, tile, progress) for one in given.split(1)]
        return images[0] if len(images) == 1 else torch.cat(images)

    def _tile(self, lr: Tensor, subnet: Subnet, choice: TileChoice) -> Tile | None:
        weight = next(self.parameters())
        if torch.is_grad_enabled():
            if choice is not None and not is_auto(choice):
                raise ValueError(f"tile={choice!r} needs torch.no_grad(): gradients pass through the whole image")
            return None
        channels = self.encoder.window_channels(subnet.encoder_channels)
        return resolve_tile(choice, (lr.shape[-2], lr.shape[-1]), channels, weight)

    def subnet_for(self, choice: SubnetChoice, largest_scale: float) -> Subnet:
        """The subnet that ``choice`` names, for a call at this scale.

        Raises:
            ValueError: there is no such subnet.
        """
        if isinstance(choice, str) and choice == "full":
            return self.subnets[-1]
        if isinstance(choice, str) and choice == "auto":
            return next((s for s in self.subnets if largest_scale < s.scales[1]), self.subnets[-1])
        try:
            index = -1 if isinstance(choice, bool) else operator.index(choice)
        except TypeError:
            index = -1
        if not 0 <= index < len(self.subnets):
            raise ValueError(f'subnet must be "auto", "full" or 0 … {len(self.subnets) - 1}, got {choice!r}')
        return self.subnets[index]

    def extract(self, subnet: int | Literal["full"]) -> AnySR:
        """A standalone, physically smaller network that answers as ``subnet`` does; what is frozen stays so.

        Raises:
            ValueError: there is no such subnet, or the network is pruned, parametrized or added to.
        """
        if isinstance(subnet, str) and subnet != "full":
            raise ValueError(f'one subnet is extracted, "full" or 0 … {len(self.subnets) - 1}, got {subnet!r}')
        chosen = self.subnet_for(subnet, 1.0)
        config = self.extracted_config(chosen)
        parameter = next(self.parameters())
        small = AnySR(config).to(device=parameter.device, dtype=parameter.dtype)
        copy_prefixes(self, small)
        for name, weight in self.named_parameters():
            small.get_parameter(name).requires_grad_(weight.requires_grad)
        return small.train(self.training)

    def fuse(self) -> AnySR:
        """A copy in its cheapest form with the same answers: ECBSR's blocks as plain convolutions.

        A convolution is frozen where all of its block was.
        """
        fused = copy.deepcopy(self)
        if isinstance(fused.decoder, Ecbsr):
            fused.decoder = fused.decoder.collapse()
            fused.config = replace(self.config, decoder=fused.decoder.config)
        return fused

    def extracted_config(self, subnet: Subnet) -> ModelConfig:
        """The configuration of a subnet as a network of its own."""
        return replace(
            self.config,
            encoder=self.config.encoder.narrowed(subnet.encoder_channels),
            decoder=self.config.decoder.narrowed(subnet.decoder_channels),
            subnets=(SubnetConfig(subnet.scales),),
        )


def build(config: ModelConfig | Mapping[str, Any] | str, **overrides: Any) -> AnySR:
    """A network with fresh weights.

    Args:
        config: a name of ``anysr.list_models()``, a configuration, or a nested mapping of its values.
        overrides: what differs from the named network: ``build("rdn-liif", encoder={"num_blocks": 4})``.

    Raises:
        ValueError: an unknown name or key, or a value that does not fit.
    """
    if isinstance(config, str):
        return AnySR(ModelConfig.from_dict(named_values(config, overrides)))
    if overrides:
        raise ValueError(f"overrides change a named network; put {', '.join(overrides)} into the configuration itself")
    return AnySR(config if isinstance(config, ModelConfig) else ModelConfig.from_dict(config))


def _without_autocast(pieces: Iterator[Rows], device_type: str) -> Iterator[Rows]:
    """The same pieces; autocast is off while each is made, and as the caller has it in between."""
    while True:
        with torch.autocast(device_type, enabled=False):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _untold(share: float) -> None:
    """Nobody asked for progress."""


def _checked_coord(coord: Tensor, batch: int) -> Tensor:
    """(N, Q, 2) float32."""
    if not isinstance(coord, Tensor):
        raise ValueError(f"coord must be a tensor (N, Q, 2) of (y, x) in [-1, 1], got a {type(coord).__name__}")
    if coord.dim() != 3 or len(coord) != batch or coord.shape[2] != 2 or not coord.is_floating_point():
        raise ValueError(
            f"coord must be (N, Q, 2) floating-point (y, x) in [-1, 1] for {batch} images, got {coord.dtype} "
            f"{tuple(coord.shape)}"
        )
    return coord.float().contiguous()


def _check_images(lr: Tensor) -> tuple[int, int]:
    """(h, w)."""
    if not isinstance(lr, Tensor):
        raise ValueError(f"lr must be a tensor (N, 3, h, w) of RGB in [0, 1], got a {type(lr).__name__}")
    if lr.dim() != 4 or lr.shape[1] != 3 or 0 in lr.shape:
        raise ValueError(f"lr must be (N, 3, h, w) with at least one pixel, got {tuple(lr.shape)}")
    if not lr.is_floating_point():
        raise ValueError(f"lr must be floating point RGB in [0, 1], got {lr.dtype}; divide 8-bit images by 255")
    return lr.shape[2], lr.shape[3]


def _check_finite(lr: Tensor) -> None:
    # On a CPU fused ReLUs would make zeros of NaN, and a plausible picture; elsewhere looking would wait for the GPU.
    if lr.device.type == "cpu" and not torch.compiler.is_compiling() and not lr.isfinite().all():
        raise ValueError("lr holds NaN or infinity; give finite RGB in [0, 1]")
