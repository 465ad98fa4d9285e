"""Crops of two models – or a model and a plain filter – side by side on one sheet.

The image is enlarged as it is. With --hr, the original, PSNR is told; with --hr alone, it is shrunk first (bicubic).
A and B are models as for upscale, with :SUBNET behind the name if you like, or bicubic, lanczos, nearest.

Examples:
  anysr compare bicubic runs/mine/model.safetensors --image photo.png --scale 3 -o sheet.png
  anysr compare anysr-tiny anysr-base --hr original.png --scale 2.37 -o sheet.png
  anysr compare anysr-base:0 anysr-base:full --image photo.png --crop 200,120,64,48 -o sheet.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from anysr.amounts import parse_whole
from anysr.cli import shown
from anysr.cli.models import open_device, open_model, parse_subnet
from anysr.files import is_same_file
from anysr.geometry import Target, resolve_target
from anysr.imaging import MAX_MEGAPIXELS, ImageError, Picture, format_of, read_image, write_image
from anysr.imaging.picture import Pixels, check_pixels, to_8_bits
from anysr.metrics import psnr
from anysr.upscaling import Enlargement, Request, Upscaler
from anysr.upscaling.targets import parse_scale

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
_NUM_CROPS, _CROP_PX, _SHOWN_PX, _LABEL_PX, _GAP_PX = 3, 64, 320, 42, 6
_NAME_LENGTH = 40
Enlarge = Callable[[Pixels, Target], Pixels]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("a", metavar="A", help="model[:SUBNET], bicubic, lanczos or nearest")
    add("b", metavar="B")
    add("--image", type=Path, metavar="FILE", help="LR image to enlarge")
    add("--hr", type=Path, metavar="FILE", help="the original, shown and scored against")
    add("--scale", default="2", metavar="S", help="factor, or height x width factors; default 2")
    add("--crop", metavar="X,Y,W,H", help="of the enlargement; default: where A and B differ most")
    add("-o", "--out", required=True, type=Path, metavar="SHEET", help="image file to write")


def run(args: argparse.Namespace) -> int:
    """Enlarge with both, lay the crops side by side."""
    if args.image is None and args.hr is None:
        raise ValueError("give --image, an image to enlarge, or --hr, an original to shrink and enlarge again")
    _check_out(args)
    lr, hr, target = _images(args)
    answers = [(name, _enlarger(name)(lr, target)) for name in (args.a, args.b)]
    if hr is not None:
        answers.append(("HR", hr))
    boxes = [_parse_box(args.crop, target.size)] if args.crop else _where_they_differ(answers[0][1], answers[1][1])
    labels = [_label(name, image, hr, target) for name, image in answers]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_image(Picture(_sheet([image for _, image in answers], labels, boxes)), args.out)
    print(f"{shown(args.out)}: " + ", ".join(": ".join(map(shown, label.splitlines())) for label in labels))
    return 0


def _check_out(args: argparse.Namespace) -> None:
    format_of(args.out)
    for path in (args.image, args.hr):
        if path is not None and is_same_file(path, args.out):
            raise ValueError(f"{shown(args.out)} would replace the image that is compared; choose another -o")


def _images(args: argparse.Namespace) -> tuple[Pixels, Pixels | None, Target]:
    """LR, HR if there is one, and where to."""
    scale = parse_scale(args.scale)
    hr = None if args.hr is None else _read_rgb(args.hr)
    if args.image is not None:
        lr = _read_rgb(args.image)
        if hr is not None and any(abs(n - m * s) >= s for n, m, s in zip(hr.shape, lr.shape, scale, strict=False)):
            raise ValueError(
                f"--hr is {hr.shape[1]} x {hr.shape[0]}, which is not --image, {lr.shape[1]} x {lr.shape[0]}, "
                f"times --scale {args.scale}"
            )
        target = resolve_target(lr.shape[:2], scale, None if hr is None else hr.shape[:2])
        check_pixels(target.size[::-1], MAX_MEGAPIXELS)
        return lr, hr, target
    assert hr is not None
    size = [max(1, math.floor(n / s)) for n, s in zip(hr.shape, scale, strict=False)]
    hr = hr[: round(size[0] * scale[0]), : round(size[1] * scale[1])]
    lr = np.asarray(Image.fromarray(hr).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return lr, hr, resolve_target(lr.shape[:2], scale, hr.shape[:2])


def _read_rgb(path: Path) -> Pixels:
    """(H, W, 3) uint8 without transparency."""
    try:
        picture = read_image(path, MAX_MEGAPIXELS)
    except ImageError as error:
        raise ImageError(f"{shown(path)}: {error}") from None
    colour = picture.colour if picture.peak == 255 else to_8_bits(picture.colour)
    if colour.shape[2] == 4:
        return np.asarray(Image.fromarray(colour, "CMYK").convert("RGB"))
    return colour if colour.shape[2] == 3 else colour.repeat(3, axis=2)


def _enlarger(name: str) -> Enlarge:
    if name in _FILTERS:
        return lambda lr, target: np.asarray(
            Image.fromarray(lr).resize((target.size[1], target.size[0]), _FILTERS[name])
        )
    text, colon, subnet = name.rpartition(":")
    if not colon or not (subnet in ("auto", "full") or subnet.isdecimal()):
        text, subnet = name, "auto"
    choice = parse_subnet(subnet)
    upscaler = Upscaler(open_model(text).model, open_device(None))

    def enlarge(lr: Pixels, target: Target) -> Pixels:
        request = Request(_enlargement(lr.shape[:2], target), subnet=choice)
        return upscaler.enlarge(Picture(lr), request).picture.colour

    return enlarge


def _enlargement(lr_size: tuple[int, int], target: Target) -> Enlargement:
    """By the scale, as upscale does, unless the original is of another size."""
    by_scale = Enlargement(scale=target.scale)
    return by_scale if by_scale.resolve(lr_size).size == target.size else Enlargement(size=target.size)


def _where_they_differ(a: Pixels, b: Pixels) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of the largest mean differences, without overlap."""
    height, width = a.shape[:2]
    side_y, side_x = min(_CROP_PX, height), min(_CROP_PX, width)
    difference = np.abs(a.astype(np.int32) - b).sum(axis=2)
    boxes = [
        (left, top, left + side_x, top + side_y)
        for top in range(0, height - side_y + 1, side_y)
        for left in range(0, width - side_x + 1, side_x)
    ]
    boxes.sort(key=lambda box: -float(difference[box[1] : box[3], box[0] : box[2]].mean()))
    return boxes[:_NUM_CROPS]


def _parse_box(text: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    parts = [parse_whole(part.strip()) for part in text.split(",")]
    numbers = [part for part in parts if part is not None]
    if len(parts) != 4 or len(numbers) != 4:
        raise ValueError(f"--crop is X,Y,W,H in pixels of the enlargement, got {text[:60]!r}")
    x, y, w, h = numbers
    if w < 1 or h < 1 or x + w > size[1] or y + h > size[0]:
        raise ValueError(f"--crop {text} leaves the enlargement of {size[1]} x {size[0]}")
    return x, y, x + w, y + h


def _label(name: str, image: Pixels, hr: Pixels | None, target: Target) -> str:
    """The name, and its score on a second line."""
    short = name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"
    border = (math.ceil(target.scale[0]), math.ceil(target.scale[1]))
    if hr is None or image is hr or any(2 * edge >= n for edge, n in zip(border, image.shape, strict=False)):
        return short
    return f"{short}\n{psnr(_tensor(image), _tensor(hr), border, 'y'):.2f} dB on Y"


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / 255


def _sheet(images: list[Pixels], labels: list[str], boxes: list[tuple[int, int, int, int]]) -> Pixels:
    """A row for each box, a column for each image, enlarged by repeating pixels."""
    zoom = max(1, _SHOWN_PX // max(max(r - x, b - y) for x, y, r, b in boxes))
    column = max((r - x) * zoom for x, _, r, _ in boxes) + _GAP_PX
    heights = [(b - y) * zoom + _GAP_PX for _, y, _, b in boxes]
    sheet = Image.new("RGB", (column * len(images) + _GAP_PX, _LABEL_PX + sum(heights) + _GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        draw.text((_GAP_PX + i * column, 4), label, fill="black", font=font)
        top = _LABEL_PX
        for (x, y, r, b), height in zip(boxes, heights, strict=True):
            crop = Image.fromarray(np.ascontiguousarray(image[y:b, x:r]))
            shown_crop = crop.resize((crop.width * zoom, crop.height * zoom), Image.Resampling.NEAREST)
            sheet.paste(shown_crop, (_GAP_PX + i * column, top))
            top += height
    return np.asarray(sheet)
