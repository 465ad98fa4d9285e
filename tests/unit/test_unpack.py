"""Archives that try to get out, to get big, or that are none."""

import io
import tarfile
import zipfile

import pytest

from pipeline.data.unpack import Limits, unpack
from pipeline.errors import UserError

SMALL = Limits(10_000, files=50)


def zipped(path, members, kind=0, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = kind << 16
            info.compress_type = compression
            file.writestr(info, content)
    return path


def tarred(path, members, kind=tarfile.REGTYPE, target=""):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def unpacked(archive, folder, limits=SMALL):
    def place(name):
        return folder / name.rsplit("/", 1)[-1] if name.endswith(".png") else None

    return unpack(archive, place, limits, lambda done, total: None)


@pytest.mark.parametrize("make", [zipped, tarred])
def test_wanted_members_are_written_and_others_are_not(make, tmp_path):
    suffix = ".zip" if make is zipped else ".tar"
    archive = make(tmp_path / f"a{suffix}", [("x/HR/1.png", b"one"), ("x/read.me", b"no"), ("x/HR/2.png", b"two")])
    assert unpacked(archive, tmp_path / "out") == 2
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"1.png": b"one", "2.png": b"two"}


ESCAPES = ("../evil.png", "x/../../evil.png", "/evil.png", "x\\..\\evil.png", "C:/evil.png")


@pytest.mark.parametrize(
    "make",
    [
        *(lambda folder, name=name: zipped(folder / "a.zip", [("ok.png", b"1"), (name, b"x")]) for name in ESCAPES),
        *(lambda folder, name=name: tarred(folder / "a.tar", [("ok.png", b"1"), (name, b"x")]) for name in ESCAPES),
        lambda folder: zipped(folder / "a.zip", [("link.png", b"/etc/passwd")], kind=0o120777),
        lambda folder: zipped(folder / "a.zip", [("device.png", b"")], kind=0o020666),
        lambda folder: tarred(folder / "a.tar", [("link.png", b"")], tarfile.SYMTYPE, "/etc/passwd"),
        lambda folder: tarred(folder / "a.tar", [("link.png", b"")], tarfile.LNKTYPE, "../../etc/passwd"),
        lambda folder: tarred(folder / "a.tar", [("pipe.png", b"")], tarfile.FIFOTYPE),
        lambda folder: tarred(folder / "a.tar", [("device.png", b"")], tarfile.CHRTYPE),
    ],
)
def test_what_leads_out_is_refused_before_anything_is_written(make, tmp_path):
    archive = make(tmp_path)
    with pytest.raises(UserError, match="is not safe") as caught:
        unpacked(archive, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {archive.name}


def test_bombs_are_refused(tmp_path):
    bomb = zipped(tmp_path / "bomb.zip", [("a.png", bytes(20_000_000))])
    assert bomb.stat().st_size < 100_000
    many = tarred(tmp_path / "many.tar", [(f"{i}.txt", b"") for i in range(60)])
    for archive in (bomb, many):
        with pytest.raises(UserError, match="holds more than"):
            unpacked(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_that_lies_about_its_size_stops_at_the_limit(tmp_path):
    bomb = zipped(tmp_path / "bomb.zip", [("a.png", bytes(20_000_000))])
    content = bytearray(bomb.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # sizes in both headers
        at = content.index(signature) + offset
        content[at : at + 4] = (100).to_bytes(4, "little")
    bomb.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable archive|holds more than"):
        unpacked(bomb, tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) <= 10_000


def test_damaged_archives_are_named(tmp_path):
    good_zip = zipped(tmp_path / "a.zip", [("1.png", b"one" * 1000)], compression=zipfile.ZIP_STORED)
    good_tar = tarred(tmp_path / "a.tar", [("1.png", b"one" * 1000)])
    flipped = good_zip.read_bytes().replace(b"oneone", b"onetwo", 1)
    for name, content in {
        "cut.zip": good_zip.read_bytes()[:1000],
        "flipped.zip": flipped,
        "text.zip": b"<html>not found</html>",
        "empty.zip": b"",
        "cut.tar": good_tar.read_bytes()[:1500],
        "text.tar": b"<html>not found</html>" * 100,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not a readable archive") as caught:
            unpacked(tmp_path / name, tmp_path / f"out-{name}")
        assert "\n" not in str(caught.value)
    twice = tarred(tmp_path / "twice.tar", [("a/1.png", b"1"), ("b/1.png", b"2")])
    with pytest.raises(UserError, match=r"holds 1\.png twice"):
        unpacked(twice, tmp_path / "out")
