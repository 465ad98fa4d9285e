"""Batches without Ray: which images, which are done, what is told of those that failed."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import jobs.upscale
from anysr.upscaling import Enlargement, FileOptions, Request
from pipeline.batch.enlarge import Enlarger, Order
from pipeline.batch.results import Results
from pipeline.batch.run import enlarge_all
from pipeline.batch.units import find_units
from pipeline.errors import UserError, run_command
from pipeline.storage import s3
from pipeline.storage.places import S3Uri
from tests.enlarging import bilinear_network, save_network, smooth


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name in ("a.png", "deep/b.png", "deep/c.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(12, 15, 3)).save(folder / name)
    return folder


def order(out: Path, scale: float = 1.5, digest: str = "m", **changes) -> Order:
    given = {"request": Request(Enlargement((scale, scale))), "options": FileOptions(), "overwrite": False, **changes}
    return Order(bilinear_network(), digest, device="cpu", profile=None, out=out, **given)


def in_this_process(order, units):
    enlarger = Enlarger(order)
    for unit in units:
        yield enlarger.enlarge(unit)


def run(order: Order, source: Path) -> int:
    units, odd = find_units(source, order.out, None)
    return enlarge_all(order, units, odd, in_this_process, "--scale 1.5")


def stamps(out: Path) -> dict[str, int]:
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.rglob("[!.]*.???")}


def test_only_what_would_come_out_as_it_is_there_is_not_repeated(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(order(out), photos) == 0
    first = stamps(out)
    assert set(first) == {"a.png", "deep/b.png", "deep/c.jpg"}
    assert run(order(out), photos) == 0
    assert stamps(out) == first
    assert "3 of 3 are there already" in capsys.readouterr().err
    # A cut result, and an image that has changed.
    (out / "a.png").write_bytes((out / "a.png").read_bytes()[:-1])
    Image.fromarray(smooth(12, 15, 3)[::-1]).save(photos / "deep/b.png")
    assert run(order(out), photos) == 0
    assert "1 of 3 are there already" in capsys.readouterr().err
    assert stamps(out)["deep/c.jpg"] == first["deep/c.jpg"]
    others = (
        order(out, digest="another model"),
        order(out, scale=1.6),
        order(out, scale=1.6, options=FileOptions(quality=90)),
        order(out, scale=1.6, options=FileOptions(quality=90), overwrite=True),
    )
    for other in others:
        before = stamps(out)
        assert run(other, photos) == 0
        assert all(stamps(out)[name] > before[name] for name in before)
    # Nothing that is there already is computed: tiles do not change it.
    request = Request(Enlargement((1.6, 1.6)), tile=8)
    assert run(order(out, options=FileOptions(quality=90), request=request), photos) == 0
    assert "3 of 3 are there already" in capsys.readouterr().err


def test_what_anysr_did_not_make_is_not_replaced(photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"precious")
    assert run(order(out), photos) == 1
    assert (out / "a.png").read_bytes() == b"precious"
    assert "a.png exists without a record that anysr wrote it; give another -o, or" in capsys.readouterr().err
    assert run(order(out, overwrite=True), photos) == 0
    stored = {"foreign.png": {}, "result.png": {"anysr-mark": "of another request"}}
    monkeypatch.setattr(s3, "metadata", lambda uri: stored.get(uri.key))
    results = Results(S3Uri("bucket", ""))
    for key in ("result.png", "none.png"):
        results.check_replaces_nothing(S3Uri("bucket", key))
    with pytest.raises(UserError, match=r"foreign\.png exists without a record"):
        results.check_replaces_nothing(S3Uri("bucket", "foreign.png"))


def test_folders_that_cannot_be_read_are_failures(photos, tmp_path, monkeypatch):
    scan = os.scandir

    def refusing(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    units, odd = find_units(photos, tmp_path / "out", None)
    assert ([unit.name for unit in units], odd) == (["a.png"], {"deep": "permission denied"})


def test_a_result_between_its_record_and_itself_is_not_there(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(order(out), photos) == 0
    old = (out / "a.png").read_bytes()
    assert run(order(out, scale=2), photos) == 0
    (out / "a.png").write_bytes(old)  # as if the process had been killed before it replaced the result
    before = stamps(out)
    assert run(order(out, scale=2), photos) == 0
    changed = {name for name, stamp in stamps(out).items() if stamp != before[name]}
    assert changed == {"a.png"}


def test_failures_are_told_and_kept_in_a_table(photos, tmp_path, capsys):
    out = tmp_path / "out"
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / os.fsdecode(b"\xff\n.png")).write_text("no image")
    assert run(order(out), photos) == 2
    assert "3 enlarged, 0 there already, 2 failed: see " in capsys.readouterr().err
    with (out / "upscale-failures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == pq.read_table(out / "upscale-failures.parquet").to_pylist()
    assert [row["image"] for row in rows] == ["cut.png", "\\udcff\\n.png"]
    assert "damaged" in rows[0]["error"]
    assert rows[0]["asked"] == "--scale 1.5"
    for name in ("cut.png", os.fsdecode(b"\xff\n.png")):
        (photos / name).unlink()
    assert run(order(out), photos) == 0
    assert not list(out.glob("upscale-failures*"))


def test_a_batch_that_is_interrupted_tells_where_it_is(photos, tmp_path, capsys):
    def stopped(order, units):
        yield from list(in_this_process(order, units[:1]))
        raise KeyboardInterrupt

    units, _ = find_units(photos, tmp_path / "out", None)
    with pytest.raises(KeyboardInterrupt):
        enlarge_all(order(tmp_path / "out"), units, {}, stopped, "")
    assert "1 enlarged, 0 there already, 0 failed; 2 left, start it again" in capsys.readouterr().err


def test_keys_that_are_no_paths_cost_no_other(monkeypatch, tmp_path):
    keys = ["in/a.png", "in/deep/b.JPG", "in/../up.png", "in//double.png", "in/.hidden/c.png", "in/.d.png", "in/t.txt",
            "in/out/a.png", "in/z.gif"]  # fmt: skip
    listed = [s3.S3Object(S3Uri("bucket", key), 1, f"etag of {key}") for key in keys]
    monkeypatch.setattr(s3, "list_objects", lambda uri: listed)
    units, odd = find_units(S3Uri("bucket", "in"), S3Uri("bucket", "in/out"), None)
    assert [(unit.name, str(unit.target), unit.stamp) for unit in units] == [
        ("a.png", "s3://bucket/in/out/a.png", "etag of in/a.png"),
        ("deep/b.JPG", "s3://bucket/in/out/deep/b.JPG", "etag of in/deep/b.JPG"),
        ("z.gif", "s3://bucket/in/out/z.png", "etag of in/z.gif"),
    ]
    assert set(odd) == {"../up.png", "/double.png"}
    units, odd = find_units(S3Uri("bucket", "in"), tmp_path, ".webp")
    assert {unit.target for unit in units} == {tmp_path / n for n in ("a.webp", "deep/b.webp", "out/a.webp", "z.webp")}
    with pytest.raises(ValueError, match="would replace an image"):
        find_units(S3Uri("bucket", "in"), S3Uri("bucket", "in"), None)


def test_links_in_the_output_folder_lead_nowhere(photos, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for place in (out, elsewhere):
        place.mkdir()
    (out / "deep").symlink_to(elsewhere)
    (out / "a.png").symlink_to(elsewhere / "victim.png")
    assert run(order(out), photos) == 3
    assert run(order(out, overwrite=True), photos) == 2
    assert not list(elsewhere.iterdir())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.anysr").symlink_to(elsewhere)
    assert run(order(tmp_path / "other"), photos) == 3
    assert not list(elsewhere.iterdir())


def test_mistakes_are_told_in_one_line(photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "twins").mkdir()
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (4, 4)).save(tmp_path / "twins" / name)
    model, out = save_network(tmp_path), tmp_path / "out"
    cases = [
        ((tmp_path / "nowhere", "--scale", "2"), "there is no folder"),
        ((photos / "a.png", "--scale", "2"), "anysr upscale"),
        ((tmp_path / "empty", "--scale", "2"), "holds no image"),
        ((tmp_path / "twins", "--scale", "2"), "would both become"),
        ((photos, "--scale", "0.5"), "at least 1"),
        ((photos, "--scale", "2", "--latency", "1s"), "--device-profile"),
        ((photos, "--scale", "2", "--subnet", "7"), "0 … 2"),
        ((photos, "--scale", "2", "--model", "none.safetensors"), "no model file"),
        ((photos, "--scale", "2", "--chdir", tmp_path / "nowhere"), "there is no folder"),
    ]
    for arguments, message in cases:
        given = ["jobs/upscale.py", "--model", model, "-o", out, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        assert run_command(jobs.upscale.main) == 2, arguments
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not out.exists()
    monkeypatch.setattr(sys, "argv", ["jobs/upscale.py", str(photos), "-o", str(photos), "--scale", "2"])
    assert run_command(jobs.upscale.main) == 2
    assert "would replace" in capsys.readouterr().err
    file = photos / "a.png"
    monkeypatch.setattr(sys, "argv", ["jobs/upscale.py", str(photos), "-o", str(file), "--scale", "2"])
    assert run_command(jobs.upscale.main) == 2
    assert "exists but is not a folder" in capsys.readouterr().err
