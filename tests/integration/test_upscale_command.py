"""``anysr upscale`` and its neighbours as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import anysr
from anysr.cli import main, models
from anysr.files import write_whole
from anysr.imaging import FORMATS, Picture, read_image, write_image
from anysr.upscaling import Enlargement, Request, Upscaler, enlarge_file
from tests.enlarging import bilinear_network, encoded, save_network, smooth


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(smooth(30, 40, 3)).save(path)
    return path


@pytest.fixture
def upscale(model, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["upscale", "--model", str(model), *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def files_below(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".anysr")
    return {path.relative_to(folder).as_posix() for path in found}


def test_the_newest_run_is_the_default_model(photo, tmp_path, monkeypatch, capsys):
    for age, name in enumerate(("new", "old")):
        path = tmp_path / "runs" / name / "model.safetensors"
        anysr.save(bilinear_network(), path)
        os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anysr, "list_pretrained", list)
    assert main(["upscale", "photo.png", "--scale", "2.37", "-o", "out.png"]) == 0
    assert size(tmp_path / "out.png") == (95, 71)
    assert "runs/new/model.safetensors" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "runs")
    assert main(["upscale", "../photo.png", "--scale", "2", "-o", "out.png"]) == 2
    assert "make train" in capsys.readouterr().err


def test_sizes_and_what_is_printed(upscale, photo, tmp_path, model):
    out = tmp_path / "out.png"
    cases = {("--size", "123x91"): (123, 91), ("--width", 100): (100, 75), ("--long-edge", 99): (99, 74),
             ("--scale", "2x3.1"): (124, 60)}  # fmt: skip
    for arguments, expected in cases.items():
        code, printed, _ = upscale(photo, *arguments, "-o", out)
        assert (code, size(out)) == (0, expected)
    macs = anysr.cost(anysr.load(model), (30, 40), (2, 3.1)).macs
    assert f"40 x 30 to 124 x 60 (x2x3.1), subnet 2, {macs / 1e6:.4g} M multiply-adds" in printed
    request = Request(Enlargement((2, 3.1)))
    data, _ = enlarge_file(Upscaler(anysr.load(model)), photo.read_bytes(), request, FORMATS["PNG"])
    assert data == out.read_bytes()
    _, printed, _ = upscale(photo, "--scale", 2, "-o", out, "--json")
    row = json.loads(printed)
    assert row["macs"] == anysr.cost(anysr.load(model), (30, 40), 2).macs
    assert (row["subnet"], row["size"], row["target"]) == (1, [60, 80], str(out))


def test_folders_keep_their_structure_and_are_gone_on_with(upscale, photo, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "deep/er/b.jpg", "deep/c.webp", ".hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    code, printed, err = upscale(folder, "--scale", 1.5, "-o", out)
    assert code == 0
    assert files_below(out) == {"a.png", "deep/er/b.jpg", "deep/c.webp"}
    assert "[3/3]" in printed
    (out / "deep/c.webp").write_bytes((out / "deep/c.webp").read_bytes()[:200])
    stamps = {name: (out / name).stat().st_mtime_ns for name in ("a.png", "deep/er/b.jpg")}
    code, printed, err = upscale(folder, "--scale", 1.5, "-o", out)
    assert "2 of 3 are there already" in err
    assert printed.count("->") == 1
    assert read_image(out / "deep/c.webp").size == (45, 60)
    assert stamps == {name: (out / name).stat().st_mtime_ns for name in stamps}
    _, printed, _ = upscale(folder, "--scale", 2, "-o", out)  # another size is another result
    assert printed.count("->") == 3
    _, printed, _ = upscale(folder, "--scale", 2, "-o", out, "--overwrite")
    assert printed.count("->") == 3
    torch.manual_seed(1)
    anysr.save(anysr.build(bilinear_network().config), tmp_path / "other.safetensors")
    for times in (3, 0):  # as is that of another model
        _, printed, _ = upscale(folder, "--scale", 2, "-o", out, "--model", tmp_path / "other.safetensors")
        assert printed.count("->") == times
    # An output folder inside the input folder is not its own input.
    for _ in range(2):
        code, _, _ = upscale(folder, "--scale", 1.5, "-o", folder / "large")
        assert code == 0
    assert files_below(folder / "large") == {"a.png", "deep/er/b.jpg", "deep/c.webp"}


def test_globs_and_formats(upscale, photo, tmp_path):
    for name in ("x/1.png", "x/y/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo).save(tmp_path / name)
    code, _, _ = upscale(f"{tmp_path}/x/**/*.png", "--scale", 1, "-o", tmp_path / "out", "--format", "jpeg")
    assert code == 0
    assert files_below(tmp_path / "out") == {"1.jpg", "y/2.jpg"}
    assert upscale(photo, "--scale", 1, "-o", f"{tmp_path}/folder.png/")[0] == 0
    assert files_below(tmp_path / "folder.png") == {"photo.png"}
    code, _, err = upscale(f"{tmp_path}/none*.png", "--scale", 1, "-o", tmp_path / "out")
    assert code == 2
    assert "no file is called" in err


def test_what_anysr_did_not_make_is_not_replaced(upscale, photo, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.open(photo).save(folder / name)
    out.mkdir()
    (out / "a.png").write_bytes(b"precious")
    for scale in ("1.5", "2"):  # b.png is a result, and replaced
        code, printed, err = upscale(folder, "--scale", scale, "-o", out)
        assert (code, printed.count("->"), (out / "a.png").read_bytes()) == (1, 1, b"precious")
        assert "a.png exists without a record that anysr wrote it; give another -o, or --overwrite" in err
    assert upscale(folder, "--scale", "2", "-o", out, "--overwrite")[0] == 0
    assert size(out / "a.png") == (80, 60)
    (tmp_path / "one.png").write_bytes(b"old")  # a single file is named by the user
    assert upscale(photo, "--scale", "1", "-o", tmp_path / "one.png")[0] == 0
    assert size(tmp_path / "one.png") == (40, 30)


def test_no_result_replaces_a_source(upscale, photo, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in (folder / "z.png", out / "sub/z.png"):
        name.parent.mkdir(parents=True)
        Image.open(photo).save(name)
    (tmp_path / "link").symlink_to(out)
    (folder / "sub").mkdir()
    (folder / "z.png").rename(folder / "sub/z.png")
    before = (out / "sub/z.png").read_bytes()
    for place in (out, tmp_path / "link"):
        code, _, err = upscale(folder, out / "sub/z.png", "--scale", "2", "-o", place, "--overwrite")
        assert (code, "would replace an image that is to be enlarged" in err) == (2, True)
        assert (out / "sub/z.png").read_bytes() == before


def test_folders_that_cannot_be_read_are_told(upscale, photo, tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "shut/b.png", "listed/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo).save(folder / name)
    (folder / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    scan, is_file = os.scandir, Path.is_file

    def refusing_scan(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    def refusing_is_file(path):
        if path.name == "c.png" and path.parent.name == "listed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return is_file(path)

    monkeypatch.setattr(os, "scandir", refusing_scan)
    monkeypatch.setattr(Path, "is_file", refusing_is_file)
    code, printed, err = upscale(folder, "--scale", "1", "-o", out)
    assert (code, printed.count("->")) == (1, 1)
    assert f"{folder}/shut: permission denied" in err
    assert "2 of 3 failed" in err
    assert "note: 2 images" in err
    code, _, err = upscale(folder / "shut", "--scale", "1", "-o", out)
    assert (code, err.count("permission denied")) == (1, 1)


def test_images_of_kinds_that_are_not_read_are_counted(upscale, photo, tmp_path):
    folder = tmp_path / "phone"
    folder.mkdir()
    for name in ("a.heic", "b.avif"):
        (folder / name).write_bytes(b"x")
    code, _, err = upscale(folder, "--scale", 2, "-o", tmp_path / "out")
    assert (code, ".bmp" in err) == (2, True)
    photo.rename(folder / "c.png")
    code, _, err = upscale(folder, "--scale", 2, "-o", tmp_path / "out")
    assert (code, "note: 2 images" in err) == (0, True)
    assert files_below(tmp_path / "out") == {"c.png"}


def test_one_bad_image_costs_no_other(upscale, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.open(photo).save(folder / "good.png")
    (folder / "cut.png").write_bytes(photo.read_bytes()[:100])
    (folder / "text.jpg").write_text("hello")
    Image.new("1", (2_001, 1_000)).save(folder / "bomb.png")
    code, _, err = upscale(folder, "--scale", 2, "-o", tmp_path / "out", "--max-megapixels", 1)
    assert code == 1
    assert files_below(tmp_path / "out") == {"good.png"}
    assert "3 of 4 failed:" in err
    for reason in ("cut.png: damaged or cut short", "text.jpg: not an image", "bomb.png: 2001 x 1000 are 2.001 mega"):
        assert reason in err


def test_budgets(upscale, photo, tmp_path, model):
    out = tmp_path / "out.png"
    costs = [anysr.cost(anysr.load(model), (30, 40), 3, i).macs for i in range(3)]
    code, printed, err = upscale(photo, "--scale", 3, "-o", out, "--quality", 80, "--budget", f"{costs[1] / 1e6}M")
    assert code == 0
    assert "note: --quality is not for PNG" in err
    assert f"subnet 1 (the scale's own is 2), {costs[1] / 1e6:.4g} M multiply-adds" in printed
    out.unlink()
    code, _, err = upscale(photo, "--scale", 3, "-o", out, "--budget", "1M")
    assert (code, out.exists()) == (1, False)
    nearest = err.split("(budget ")[1].split(")")[0]
    code, printed, _ = upscale(photo, "--scale", 3, "-o", out, "--budget", nearest)
    assert (code, "subnet 0" in printed) == (0, True)
    code, _, err = upscale(photo, "--scale", 3, "-o", out, "--memory", "1M")
    assert (code, "of memory (limit" in err) == (1, True)


def test_profiles(upscale, photo, tmp_path, model, capsys):
    out, file = tmp_path / "out.png", tmp_path / "profile.json"
    sweep = ["--sizes", "8", "16", "--scales", "1.5", "2"]
    assert main(["profile", "--model", str(model), *sweep, "-o", str(file)]) == 0
    assert "subnet 2 fp32 16 x 16 to 32 x 32" in capsys.readouterr().err
    code, printed, _ = upscale(photo, "--scale", 2, "-o", out, "--latency", "5min", "--device-profile", file)
    assert (code, "(predicted" in printed) == (0, True)
    code, _, err = upscale(photo, "--scale", 2, "-o", out, "--latency", "1us", "--device-profile", file)
    assert (code, "(latency" in err) == (1, True)
    code, _, err = upscale(photo, "--scale", 2, "-o", out, "--device-profile", file, "--precision", "bf16")
    assert (code, "not measured in bf16" in err) == (2, True)
    # In the cache it is found by itself, and measured anew where it is not of every subnet.
    assert main(["profile", "--model", str(model), *sweep]) == 0
    capsys.readouterr()
    code, _, err = upscale(photo, "--scale", 2, "-o", out, "--latency", "5min")
    assert (code, "measuring" in err) == (0, False)
    (cached,) = (Path(os.environ["ANYSR_CACHE"]) / "profiles").glob("*.json")
    values = json.loads(cached.read_text())
    values["measurements"] = values["measurements"][:1]
    cached.write_text(json.dumps(values))
    code, _, err = upscale(photo, "--scale", 2, "-o", out, "--latency", "5min")
    assert (code, "measuring" in err) == (0, True)
    assert main(["profile", "--model", str(model), *sweep, "-o", str(tmp_path)]) == 2


def test_the_model_that_is_read_is_not_replaced(tmp_path, capsys):
    model = save_network(tmp_path).rename(tmp_path / "subnet1.safetensors")
    before, link = model.read_bytes(), tmp_path / "link.safetensors"
    link.hardlink_to(model)
    for arguments in (
        ("export", model, "-o", link, "--subnet", "0"),
        ("export", model, "-o", tmp_path, "--format", "safetensors"),
        ("export", model, "-o", tmp_path, "--format", "safetensors", "--subnet", "1"),
        ("profile", "--model", model, "-o", model),
        ("convert", model, link),
    ):
        assert main(list(map(str, arguments))) == 2
        err = capsys.readouterr().err
        assert "would replace the model that is read" in err
        assert model.read_bytes() == link.read_bytes() == before


def test_mistakes_are_told_in_one_line(upscale, photo, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "twin").mkdir()
    Image.open(photo).save(tmp_path / "twin/photo.png")
    (tmp_path / "text").write_text("")
    out = tmp_path / "out.png"
    cases = [
        ((photo, "--scale", "0.5", "-o", out), 2, "at least 1"),
        ((photo, "--size", "10x10", "-o", out), 1, "smaller than the image"),
        ((photo, "--scale", "2", "-o", photo), 2, "would replace"),
        ((f"{photo.parent}/*.png", "--scale", "2", "-o", photo.parent), 2, "lies in the output folder"),
        ((photo, "--scale", "2", "-o", tmp_path / "o.bmp"), 2, "must end in one of"),
        ((photo, "--scale", "2", "-o", out, "--format", "webp"), 2, "--format writes *.webp"),
        ((photo, "--scale", "2", "-o", tmp_path / "text"), 2, "exists but is not a folder"),
        ((photo, "--scale", "2", "-o", out, "--budget", ""), 2, "got ''"),
        ((tmp_path / "none.png", "--scale", "2", "-o", out), 2, "no file or folder"),
        ((tmp_path / "empty", "--scale", "2", "-o", tmp_path / "o"), 2, "holds no image"),
        ((photo, tmp_path / "twin", "--scale", "2", "-o", tmp_path / "o"), 2, "would both become"),
        ((photo, tmp_path / "twin", "--scale", "2", "-o", out), 2, "give a folder"),
        ((tmp_path / "twin", "--scale", "2", "-o", out), 2, "twin is a folder; give a folder, or out.png/"),
        ((photo, "--scale", "2", "-o", "-"), 2, "nothing is written to standard output"),
        (("-", "--scale", "2", "-o", out), 2, "not from standard input"),
        ((photo, "--scale", "2", "-o", out, "--subnet", "7"), 2, "0 … 2"),
        ((photo, "--scale", "2", "-o", out, "--subnet", "7" * 5000), 2, "auto, full"),
        ((photo, "--scale", "2", "-o", out, "--tile", "7" * 5000), 2, "pixels a side"),
        ((photo, "--size", "7" * 5000 + "x9", "-o", out), 2, "width x height"),
        ((photo, "--scale", "2", "-o", out, "--device", "cuda:77"), 2, "cpu always can"),
        ((photo, "--scale", "2", "-o", out, "--device", "toaster"), 2, "cpu always can"),
        ((photo, "--scale", "2", "-o", out, "--budget", "lots"), 2, "50G"),
        ((photo, "--scale", "2", "-o", out, "--quality", "101"), 2, "1 to 100"),
        ((photo, "--scale", "200", "-o", out, "--max-megapixels", "1"), 1, "48 megapixels, more than 1"),
        ((photo, "--scale", "500", "-o", tmp_path / "o.webp"), 1, "at most 16383"),
        ((photo, "--scale", "2", "-o", out, "--model", tmp_path / "no.safetensors"), 2, "no model file"),
        ((photo, "--scale", "2", "-o", out, "--model", "nosuch:/model@x"), 2, "anysr[train]"),
    ]
    for arguments, expected, message in cases:
        code, printed, err = upscale(*arguments)
        assert code == expected, arguments
        assert message in err
        assert err.strip().count("\n") <= 1  # beside the line about the model
        assert not out.exists()
        assert printed == ""


def test_addresses_are_fetched_by_what_is_installed(photo, tmp_path, model, monkeypatch, capsys):
    class Point:
        def __init__(self, name, resolve):
            self.name, self.load = name, lambda: resolve

    def refuse(address):
        raise RuntimeError(f"no version\nof {address}")

    points = [Point("s3", lambda address: model), Point("models", refuse)]
    monkeypatch.setattr(models, "entry_points", lambda group: points)
    arguments = ["upscale", str(photo), "--scale", "1", "-o", str(tmp_path / "o.png"), "--model"]
    assert main([*arguments, "s3://bucket/model.safetensors"]) == 0
    assert "model s3://bucket/model.safetensors" in capsys.readouterr().err
    assert main([*arguments, "models:/name@alias"]) == 2
    assert capsys.readouterr().err == "anysr: no version of models:/name@alias\n"


def test_odd_names_and_links(upscale, photo, tmp_path):
    folder, out, elsewhere = tmp_path / "in", tmp_path / "out", tmp_path / "elsewhere"
    for place in (folder / "sub", out, elsewhere):
        place.mkdir(parents=True)
    names = ["-o.png", "new\nline.png", "ünï\u202ecode 😀.png", "x" * 251 + ".png", "a..b.png", "sub/b.png"]
    for name in names:
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "loop").symlink_to(folder)
    (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(photo.read_bytes())
    (folder / "dangling.png").symlink_to(tmp_path / "nothing")
    # Links laid in the output folder lead nowhere: neither a folder nor a file is written through them.
    (out / "sub").symlink_to(elsewhere)
    (out / "a..b.png").symlink_to(elsewhere / "victim.png")
    code, printed, err = upscale(folder, "--scale", 1, "-o", out, "--overwrite")
    assert code == 1
    assert "1 of 7 failed" in err
    assert "link out of" in err
    assert files_below(elsewhere) == set()
    assert not (out / "a..b.png").is_symlink()
    assert {name for name in names if "/" not in name} <= {path.name for path in out.iterdir()}
    assert printed.count("\n") == 6
    assert "new\\nline.png" in printed


def test_without_the_image_libraries(photo, tmp_path, model):
    script = (
        "import sys; sys.modules.update(PIL=None); from anysr.cli import main;"
        f"sys.exit(main(['upscale', {str(photo)!r}, '--scale', '2', '-o', {str(tmp_path / 'o.png')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'anysr[images]'" in done.stderr


def test_the_library_alone_needs_no_image_libraries():
    script = "import sys, anysr; sys.exit(any(m in sys.modules for m in ('PIL', 'tifffile', 'imagecodecs')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0


def test_pictures_of_every_kind_through_the_command(upscale, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(smooth(12, 15, 4), "RGBA").save(folder / "rgba.png")
    Image.fromarray(smooth(12, 15, 1)[..., 0]).save(folder / "grey.png")
    Image.fromarray(smooth(12, 15, 1, 65_535)[..., 0]).save(folder / "grey16.png")
    Image.fromarray(smooth(12, 15, 4), "CMYK").save(folder / "inks.tif")
    (folder / "frames.gif").write_bytes(
        encoded(Image.new("RGB", (9, 9)), "GIF", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")])
    )
    code, _, err = upscale(folder, "--scale", 1, "-o", out)
    assert code == 1
    assert "frames.gif: an animated GIF" in err
    for name in ("rgba.png", "grey.png", "grey16.png", "inks.tif"):
        before, after = read_image(folder / name), read_image(out / name)
        assert before.mode == after.mode
        difference = np.abs(before.colour.astype(int) - after.colour)
        assert (difference if before.alpha is None else difference[before.alpha > 16]).max() == 0


def test_info(model, capsys):
    assert main(["info", str(model), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    network = anysr.load(model)
    assert [s["macs"] for s in about["subnets"]] == [
        anysr.cost(network, (256, 256), scale, index).macs for index, scale in enumerate((1.5, 2, 4))
    ]
    assert about["config"]["encoder"]["kind"] == "edsr"
    assert main(["info", str(model), "--lr-size", "64x48"]) == 0
    printed = capsys.readouterr().out
    assert "encoder edsr, decoder liif" in printed
    assert "x2.55 and more" in printed
    assert main(["info", str(model), "--lr-size", "64"]) == 2
    capsys.readouterr()
    assert main(["info", str(model), "--lr-size", "9" * 5000 + "x2"]) == 2
    assert "width x height" in capsys.readouterr().err


def test_a_network_of_one_factor(upscale, photo, tmp_path, capsys):
    torch.manual_seed(0)
    model = tmp_path / "x2.safetensors"
    anysr.save(anysr.build("ecbsr-m4c16-x2"), model)
    assert main(["info", str(model)]) == 0
    assert "x2:" in capsys.readouterr().out
    assert main(["profile", "--model", str(model), "--sizes", "8", "16", "24"]) == 0
    code, printed, _ = upscale(photo, "--model", model, "--scale", 2, "-o", tmp_path / "o.png", "--latency", "5min")
    assert code == 0, printed


def test_compare(photo, model, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["compare", "bicubic", f"{model}:full", "--hr", str(photo), "--scale", "2", "-o", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("dB on Y") == 2
    assert size(sheet)[0] > 3 * 200
    assert main(["compare", "nearest", str(model), "--image", str(photo), "--crop", "4,4,16,12", "-o", str(sheet)]) == 0
    for wrong in (["--crop", "70,0,20,20"], ["--crop", "1,2"], ["--scale", "0"]):
        assert main(["compare", "nearest", "bicubic", "--image", str(photo), *wrong, "-o", str(sheet)]) == 2
    assert main(["compare", "nearest", "bicubic", "-o", str(sheet)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    before, text = photo.read_bytes(), tmp_path / "text"
    text.write_text("no image")
    for wrong, reason in (
        (["--image", photo, "-o", photo], "would replace"),
        (["--image", photo, "--scale", "1e9", "-o", sheet], "megapixels"),
        (["--image", photo, "--hr", photo, "-o", sheet], "times --scale"),
        (["--image", text, "-o", sheet], f"{text}: not an image"),
    ):
        assert main(["compare", "nearest", "bicubic", *map(str, wrong)]) == 2
        assert reason in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert main(["compare", "nearest", "bicubic", "--image", str(photo), "-o", str(tmp_path / "new/sheet.png")]) == 0


def test_compare_shows_what_upscale_writes(model, tmp_path, monkeypatch):
    deep, square, sheet = smooth(30, 30, 3, peak=65535), tmp_path / "square.png", tmp_path / "sheet.png"
    originals = {n: tmp_path / f"{n}.png" for n in (76, 77)}
    write_image(Picture(deep), square)
    for n, path in originals.items():  # 30 x 2.55 is 76 pixels, 2.53 times as many: of a smaller subnet
        write_image(Picture(smooth(n, n, 3)), path)
    whole, seen = Upscaler.enlarge, []

    def enlarge(upscaler, picture, request):
        result = whole(upscaler, picture, request)
        seen.append((picture.colour, result.plan.target.size, result.plan.subnet.index))
        return result

    monkeypatch.setattr(Upscaler, "enlarge", enlarge)
    for images in (["--image", square], ["--hr", originals[76]], ["--image", square, "--hr", originals[77]]):
        assert main(["compare", "nearest", str(model), *map(str, images), "--scale", "2.55", "-o", str(sheet)]) == 0
    assert [(size, subnet) for _, size, subnet in seen] == [((76, 76), 2), ((74, 74), 2), ((77, 77), 2)]
    assert np.array_equal(seen[0][0], np.rint(deep / 257))


def test_closed_outputs_cost_nothing(photo, tmp_path, model):
    arguments = ["upscale", str(photo), "--model", str(model), "--scale", "2", "-o", str(tmp_path / "o.png")]
    script = f"import sys; sys.stdout = sys.stderr = None; from anysr.cli import main; sys.exit(main({arguments!r}))"
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0
    assert (tmp_path / "o.png").exists()


def test_a_file_that_cannot_be_written_is_called_by_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_whole(tmp_path / "none/o.png", b"")
    assert error.value.filename == str(tmp_path / "none/o.png")
