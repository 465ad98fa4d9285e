"""A thousand damaged files through ``anysr upscale``: each one is enlarged or refused, and nothing else happens."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from anysr.imaging import FORMATS, Metadata, Picture, encode_image, read_image
from anysr.imaging.guard import time_limit
from anysr.imaging.picture import ImageError
from tests.enlarging import encoded, save_network, smooth, srgb_profile

NUM_FILES, SEED = 1000, 20_240_704


def originals() -> list[tuple[str, bytes]]:
    """Small files of every format and kind of pixel."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 13}
    about = Metadata(srgb_profile(), exif.tobytes(), (300, 300))
    files = []
    for spec in FORMATS.values():
        for peak in (255, 65_535):
            for channels, has_alpha in ((1, False), (3, False), (3, True), (4, False)):
                planes = smooth(9, 13, channels + 1, peak)
                picture = Picture(planes[..., :-1], planes[..., -1] if has_alpha else None, about)
                files.append((spec.suffixes[0], encode_image(picture, spec, 100)[0]))
    rgb = Image.fromarray(smooth(24, 20, 3))
    files.append((".jpg", encoded(rgb, "JPEG", progressive=True, exif=exif.tobytes())))
    files.append((".png", encoded(rgb.quantize(8), "PNG", transparency=2)))
    files.append((".webp", encoded(rgb, "WEBP", quality=50)))
    files.append((".tif", encoded(rgb, "TIFF", compression="tiff_lzw")))
    files.append((".tif", encoded(rgb, "TIFF", compression="jpeg")))
    files.append((".gif", encoded(rgb, "GIF")))
    files.append((".bmp", encoded(rgb, "BMP")))
    return files


def mutated(data: bytes, suffix: str, draw: random.Random) -> bytes:
    """Cut, flip, overwrite, repeat or drop; half the time at the front, where headers are."""
    body = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at = draw.randrange(min(len(body), 64) if draw.random() < 0.5 else len(body))
        kind = draw.randrange(6)
        if kind == 0:
            del body[max(1, at) :]
        elif kind == 1:
            body[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            body[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", draw.randbytes(4)))
        elif kind == 3:
            body[at:at] = body[at : at + draw.randrange(1, 200)]
        elif kind == 4:
            del body[at : at + draw.randrange(1, 40)]
        else:
            body[at : at + 2] = struct.pack(draw.choice("<>") + "H", draw.choice((0, 1, 255, 32_768, 65_535)))
        body = body or bytearray(b"\0")
    if suffix == ".png" and draw.random() < 0.7:
        body = bytearray(with_good_checksums(bytes(body)))
    return bytes(body)


def with_good_checksums(png: bytes) -> bytes:
    """So that damage reaches what is behind the first check of a PNG."""
    out, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if at + 12 + length > len(png):
            break
        chunk = png[at + 4 : at + 8 + length]
        out += png[at : at + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        at += 12 + length
    return bytes(out + png[at:])


def test_a_thousand_damaged_files(tmp_path):
    draw, files = random.Random(SEED), originals()
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(NUM_FILES):
        suffix, data = files[number % len(files)]
        (folder / f"{number:04}{suffix}").write_bytes(mutated(data, suffix, draw))
    before = snapshot(tmp_path)
    command = [sys.executable, "-m", "anysr.cli", "upscale", folder, "--scale", "1.5", "-o", out,
               "--model", save_network(tmp_path), "--max-megapixels", "2"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 1, done.stderr[-2000:]
    for word in ("Traceback", "unexpected", "Error:"):
        assert word not in done.stderr, [line for line in done.stderr.splitlines() if word in line][:5]
    results = sorted(path for path in out.iterdir() if path.name != ".anysr")  # beside its records
    failed = int(done.stderr.rsplit(" of 1000 failed:", 1)[0].rsplit("\n", 1)[-1])
    assert len(results) + failed == NUM_FILES
    assert len(results) > NUM_FILES // 20
    assert failed > NUM_FILES // 5
    for path in results:
        assert read_image(path).size != (0, 0)
    after = {path: content for path, content in snapshot(tmp_path).items() if out not in path.parents}
    assert after == {**before, tmp_path / "model.safetensors": after[tmp_path / "model.safetensors"]}


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bombs():
    """Headers that promise far more than the file holds are refused before a pixel is decoded."""
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in pieces
    )
    with pytest.raises(ImageError, match="megapixels"):
        read_image(png)
    text = zlib.compress(bytes(100 * 2**20), 9)
    chunk = b"zTXtk\0\0" + text
    good = encoded(Image.new("L", (4, 4)), "PNG")
    bloated = good[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + good[33:]
    with pytest.raises(ImageError, match="damaged"):
        read_image(bloated)


def test_a_decoder_that_does_not_come_back_is_stopped():
    with pytest.raises(ImageError, match=r"decoding takes longer than 0.05 s"), time_limit(0.05, "decoding"):
        while True:
            pass
    with time_limit(60, "outer"), time_limit(50, "inner"):
        pass
    with pytest.raises(ImageError, match="outer"), time_limit(0.2, "outer"):
        with time_limit(50, "inner"):
            pass
        while True:
            pass
