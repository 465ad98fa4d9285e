"""What a run leaves for people: a table, a plot of PSNR over scale, a sheet of side-by-side crops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from anysr import AnySR
from anysr.files import whole_file
from pipeline.config import ValidationConfig
from pipeline.data.degrade import lr_hr_pair, resize_bicubic
from pipeline.data.photos import Pixels
from pipeline.evaluation.upscalers import to_tensor
from pipeline.files import write_text
from pipeline.train.validation import Photos, Score, in_words, protocol_of

_CROP_PX, _SHOWN_PX, _LABEL_PX = 96, 240, 24


SCORES_FILE = "scores.json"


def write_scores(folder: Path, scores: list[Score], config: ValidationConfig, step: int) -> Path:
    """Write the scores with their protocol as JSON; returns the file."""
    named = {"step": step, "suite": config.suite, "protocol": in_words(config)}
    values = {**named, "scores": [asdict(score) for score in scores]}
    path = folder / SCORES_FILE
    write_text(path, json.dumps(values, indent=2) + "\n")
    return path


def write_pictures(
    folder: Path,
    model: AnySR,
    photos: Photos,
    scores: list[Score],
    config: ValidationConfig,
    shown: Sequence[float],
) -> list[Path]:
    """Write the plot and the crop sheet; returns the files."""
    plot, crops = folder / "psnr_over_scale.png", folder / "crops.png"
    plot_psnr(plot, scores, config)
    crop_sheet(crops, model, photos, shown)
    return [plot, crops]


def print_table(scores: list[Score], config: ValidationConfig) -> None:
    """Print rows of scales; columns bicubic, own subnet, full network, multiply-adds saved."""
    table = Table(caption=f"{config.suite}: {in_words(config)}", caption_justify="left")
    for heading in ("scale", "bicubic", "own subnet", "full network", "multiply-adds saved"):
        table.add_column(heading, justify="right")
    for s in scores:
        row = (f"{s.bicubic:.2f}", f"{s.own:.2f} ({s.own - s.bicubic:+.2f})", f"{s.full:.2f}", f"{s.macs_saved:.0%}")
        table.add_row(f"×{s.scale:g}", *row)
    Console(width=100).print(table)


def plot_psnr(path: Path, scores: Sequence[Score], config: ValidationConfig) -> None:
    """PSNR over scale, and the gain over bicubic beneath it."""
    scales = [score.scale for score in scores]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6.4), sharex=True, height_ratios=(2, 1))
    lines = (("bicubic", "0.5", ":"), ("full", "tab:orange", "--"), ("own", "tab:blue", "-"))
    labels = {"bicubic": "bicubic", "own": "own subnet", "full": "full network"}
    for name, color, style in lines:
        values = [getattr(score, name) for score in scores]
        top.plot(scales, values, style, color=color, marker="o", markersize=4, label=labels[name])
        gains = [value - score.bicubic for value, score in zip(values, scores, strict=True)]
        bottom.plot(scales, gains, style, color=color, marker="o", markersize=4)
    top.set_ylabel(f"PSNR on {protocol_of(config).channel.upper()}, dB")
    top.set_title(f"{config.suite}: PSNR over scale")
    top.legend()
    bottom.set_ylabel("gain over bicubic, dB")
    bottom.set_xlabel("scale")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    with whole_file(path, ".png") as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)


def crop_sheet(path: Path, model: AnySR, photos: Photos, scales: Sequence[float]) -> None:
    """Rows of matching crops: HR, bicubic, own subnet, full network; one photo and scale a row."""
    pairs = [(index, scale) for scale in scales for index in range(min(2, len(photos)))]
    rows = [_crop_row(model, photos[index], scale) for index, scale in pairs]
    headings = ("HR", "bicubic", "own subnet", "full network")
    width = len(headings) * (_SHOWN_PX + 4)
    sheet = Image.new("RGB", (width, _LABEL_PX + len(rows) * (_SHOWN_PX + _LABEL_PX)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, heading in enumerate(headings):
        draw.text((column * (_SHOWN_PX + 4) + 4, 4), heading, fill="black", font=font)
    for number, ((_, scale), crops) in enumerate(zip(pairs, rows, strict=True)):
        top = _LABEL_PX + number * (_SHOWN_PX + _LABEL_PX)
        for column, crop in enumerate(crops):
            shown = Image.fromarray(crop).resize((_SHOWN_PX, _SHOWN_PX), Image.Resampling.NEAREST)
            sheet.paste(shown, (column * (_SHOWN_PX + 4), top))
        draw.text((4, top + _SHOWN_PX + 3), f"x{scale:g}", fill="black", font=font)
    with whole_file(path, ".png") as partial:
        sheet.save(partial)


@torch.inference_mode()
def _crop_row(model: AnySR, hr: Pixels, scale: float) -> list[Pixels]:
    lr, target = lr_hr_pair(hr, scale)
    size = (target.shape[0], target.shape[1])
    answers = [target, resize_bicubic(lr, size)]
    for subnet in ("auto", "full"):
        sr = model(to_tensor(lr)[None], scale, size, subnet=subnet)[0]
        answers.append((sr.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    top, left = _busiest_corner(target)
    return [np.ascontiguousarray(image[top : top + _CROP_PX, left : left + _CROP_PX]) for image in answers]


def _busiest_corner(hr: Pixels) -> tuple[int, int]:
    """Top-left corner of the crop with the most detail, where networks differ most."""
    grey = hr.astype(np.float32).mean(axis=2)
    detail = np.zeros_like(grey)
    detail[1:, 1:] = np.abs(np.diff(grey, axis=0))[:, 1:] + np.abs(np.diff(grey, axis=1))[1:]
    corners = [
        (top, left)
        for top in range(0, max(1, hr.shape[0] - _CROP_PX), _CROP_PX // 2)
        for left in range(0, max(1, hr.shape[1] - _CROP_PX), _CROP_PX // 2)
    ]
    return max(corners, key=lambda c: float(detail[c[0] : c[0] + _CROP_PX, c[1] : c[1] + _CROP_PX].mean()))
