"""Places on a real S3 server: whole, verified, patient, cached once and under a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import anysr
from pipeline.config_file import load_config
from pipeline.errors import FatalError, UserError
from pipeline.on_ray.submit import local_paths
from pipeline.registry.resolve import export_model
from pipeline.storage import cache, s3
from pipeline.storage.cache import local_copy, local_folder
from pipeline.storage.places import S3Uri, parse_place
from pipeline.storage.transfer import exists, read_text, upload
from pipeline.train.checkpoints import Checkpoints
from pipeline.train.warm_start import warm_start
from tests.conftest import ROOT
from tests.s3_server import BUCKET
from tests.tiny import tiny_config

from .helpers import wait_for


@pytest.fixture
def bucket(server, proxy, monkeypatch, tmp_path, request):
    """A prefix of this test's own, reached through the proxy."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("ANYSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_in_use", {})
    return S3Uri(BUCKET, request.node.name.replace("[", "-").rstrip("]"))


def noise(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


def kept() -> list[Path]:
    return sorted(path for path in (cache.cache_root() / "s3").rglob("files/**/*") if path.is_file())


def test_a_checkpoint_that_never_arrived_is_none(bucket, monkeypatch):
    """Killed while the first one is sent, a run starts again; while a later one is, it uses the one before."""
    checkpoints = Checkpoints(bucket, keep=2)
    whole = s3.upload_file

    def interrupted(path, target):
        if path.name == "b":
            raise KeyboardInterrupt
        whole(path, target)

    def write(folder):
        for name in ("a", "b"):
            (folder / name).write_text(name)

    for step in (1, 3):
        monkeypatch.setattr(s3, "upload_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(write, step)
        assert s3.list_objects(bucket / f"step_{step:09d}")
        with checkpoints.latest(pytest.fail) as folder:
            assert folder is None if step == 1 else (folder / "b").read_text() == "b"
        monkeypatch.setattr(s3, "upload_file", whole)
        checkpoints.save(write, step + 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data/x", Path("data/x")),
        ("/data/s3:/x", Path("/data/s3:/x")),
        ("file:///a%20b/c", Path("/a b/c")),
        ("file:/a", Path("/a")),
        ("file:runs/a%20b", Path("runs/a b")),
        ("s3://bucket", S3Uri("bucket")),
        ("s3://bucket/a/b/", S3Uri("bucket", "a/b")),
    ],
)
def test_places(text, place):
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "gs://bucket/x",
        "s3:///x",
        "s3:/bucket/x",
        "s3:bucket/x",
        "s3://Key:secret@bucket/x",
        "file://host/x",
        "s3://b/x",
    ],
)
def test_other_places_are_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        parse_place(text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 5, 40 * 2**20 + 3])
def test_what_is_stored_comes_back(bucket, tmp_path, size):
    path = noise(tmp_path / "file", size)
    upload(path, str(bucket / "file"))
    copy = local_copy(str(bucket / "file"))
    assert copy.name == "file"
    assert copy.read_bytes() == path.read_bytes()
    assert local_copy(str(path)) == path
    upload(path, tmp_path / "elsewhere/file")
    assert (tmp_path / "elsewhere/file").read_bytes() == path.read_bytes()


def test_a_network_is_exported_to_s3_and_training_starts_from_there(bucket, tmp_path):
    model = anysr.build(tiny_config().model)
    anysr.save(model, tmp_path / "model.safetensors")
    export_model(str(tmp_path / "model.safetensors"), bucket / "out.safetensors")
    config = tiny_config(f"train.init_from={bucket}/out.safetensors")
    assert config.train.resolved() == config.train
    assert load_config(None, local_paths(config)).train.init_from == config.train.init_from
    other = anysr.build(tiny_config().model)
    assert not torch.equal(other.state_dict()["encoder.head.weight"], model.state_dict()["encoder.head.weight"])
    assert warm_start(other, bucket / "out.safetensors") == []
    assert all(torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())
    with pytest.raises(FatalError, match=r"train\.init_from: there is no s3://"):
        warm_start(other, bucket / "absent.safetensors")


def test_texts_and_absence(bucket, tmp_path):
    (tmp_path / "straße.txt").write_text("straße")
    for place in (bucket / "a.txt", tmp_path / "a.txt"):
        assert read_text(place) is None
        assert not exists(place)
        upload(tmp_path / "straße.txt", place)
        assert read_text(place) == "straße"
        assert exists(place)
    with pytest.raises(UserError, match=f"there is no {bucket}/b"):
        local_copy(bucket / "b")
    with pytest.raises(UserError, match="there is nothing below"):
        local_folder(bucket / "b")
    with pytest.raises(UserError, match="there is no bucket no-such-bucket"):
        local_folder("s3://no-such-bucket/b")


def test_wrong_and_missing_credentials_are_one_line(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
    with pytest.raises(UserError, match="S3 refuses access") as caught:
        local_copy(bucket / "a")
    assert "a-secret-key" not in str(caught.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="no S3 credentials"):
        local_copy(bucket / "a")


def test_a_folder_is_copied_once_and_follows_changes(bucket, proxy, tmp_path):
    for i in range(12):
        noise(tmp_path / f"photos/{i % 3}/{i}.bin", 1000 + i)
    upload(tmp_path / "photos", bucket)
    folder = local_folder(bucket)
    proxy.counts.clear()
    assert local_folder(f"{bucket}/") == folder
    assert proxy.counts == {"GET": 1}  # the list alone
    (tmp_path / "photos/0/0.bin").write_bytes(b"another")
    upload(tmp_path / "photos/0/0.bin", bucket / "0/0.bin")
    s3.delete(bucket / "1/1.bin")
    assert local_folder(bucket) == folder
    assert (folder / "0/0.bin").read_bytes() == b"another"
    assert len(kept()) == 11


@pytest.mark.parametrize("refusal", [503, 429])
def test_a_refusing_server_is_asked_again(bucket, proxy, tmp_path, refusal):
    upload(noise(tmp_path / "a", 1000), bucket / "a")
    proxy.refusing = refusal
    threading.Timer(0.7, lambda: setattr(proxy, "refusing", None)).start()
    assert local_copy(bucket / "a").stat().st_size == 1000
    proxy.refusing = refusal
    threading.Timer(0.7, lambda: setattr(proxy, "refusing", None)).start()
    upload(tmp_path / "a", bucket / "b")
    assert exists(bucket / "b")


def test_patience_ends(bucket, proxy, monkeypatch):
    monkeypatch.setenv("ANYSR_S3_RETRY_S", "1")
    proxy.refusing = 503
    with pytest.raises(UserError, match="S3 did not answer for 1 s"):
        local_copy(bucket / "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="S3 did not answer for 1 s"):
        local_copy(bucket / "a")


def test_an_answer_cut_short_is_gone_on_with(bucket, proxy, tmp_path):
    path = noise(tmp_path / "a", 5_000_000)
    upload(path, bucket / "a")
    proxy.cut_bytes = 2_000_000
    assert local_copy(bucket / "a").read_bytes() == path.read_bytes()
    assert proxy.counts["GET"] == 3


def test_a_damaged_object_is_refused_by_name(bucket, server, proxy, tmp_path, monkeypatch):
    upload(noise(tmp_path / "a", 1000), bucket / "a")
    metadata = server.client().head_object(Bucket=BUCKET, Key=f"{bucket.key}/a")["Metadata"]
    server.client().put_object(Bucket=BUCKET, Key=f"{bucket.key}/a", Body=bytes(1000), Metadata=metadata)
    with pytest.raises(UserError, match=f"{bucket}/a arrives damaged"):
        local_copy(bucket / "a")
    assert kept() == []


@pytest.mark.parametrize("size", [1000, 20 * 2**20])
def test_objects_of_other_tools_are_verified_too(bucket, server, tmp_path, size):
    """By the ETag: the MD5 of the whole, or of the parts."""
    path = noise(tmp_path / "a", size)
    server.client().upload_file(str(path), BUCKET, f"{bucket.key}/a")
    assert local_copy(bucket / "a").read_bytes() == path.read_bytes()
    assert s3.is_intact(path, bucket / "a")
    content = bytearray(path.read_bytes())
    content[size // 2] ^= 1
    path.write_bytes(content)
    assert not s3.is_intact(path, bucket / "a")


def in_parts(server, key, sizes):
    """An object as tools store it that part files their own way; its content."""
    client, content = server.client(), os.urandom(sum(sizes))
    upload_id = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts, start = [], 0
    for number, size in enumerate(sizes, start=1):
        body, start = content[start : start + size], start + size
        sent = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload_id, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    client.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts})
    return content


def test_parts_may_be_of_any_size(bucket, server, tmp_path, monkeypatch, capsys):
    content = in_parts(server, f"{bucket.key}/a", [5 * 2**20 + 7, 6 * 2**20, 5 * 2**20, 3])
    copy = local_copy(bucket / "a")
    assert copy.read_bytes() == content
    path = tmp_path / "a"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not s3.is_intact(path, bucket / "a")
    assert "size alone" not in capsys.readouterr().err
    monkeypatch.setattr(s3, "_part_size", lambda uri, number: len(content))  # as servers do that know no parts
    assert s3.is_intact(path, bucket / "a")
    assert "is checked by its size alone" in capsys.readouterr().err


def test_keys_that_make_long_names_or_none(bucket, server, tmp_path):
    names = ["n" * 255, ".x.partial", "folder/file"]
    for name in names:
        server.client().put_object(Bucket=BUCKET, Key=f"{bucket.key}/{name}", Body=name.encode())
    folder = local_folder(bucket)
    assert {path.relative_to(folder).as_posix() for path in kept()} == {*names}
    s3.delete(bucket / "folder/file")
    server.client().put_object(Bucket=BUCKET, Key=f"{bucket.key}/folder", Body=b"x")
    assert (local_folder(bucket) / "folder").read_bytes() == b"x"
    with pytest.raises(UserError, match="folder cannot be the name of a file; store it under another one"):
        cache._fetch_one(tmp_path / ("n" * 256), s3.S3Object(bucket / "folder", 1, "e"), tmp_path)


def test_damaged_records_of_the_cache_are_made_anew(bucket, tmp_path, monkeypatch):
    upload(noise(tmp_path / "a/x", 400_000), bucket / "a/x")
    a = local_folder(bucket / "a")
    for content in (b"", b"[3", b"\xff\xfe", b"7"):
        (a.parent / "index.json").write_bytes(content)
        (a.parent / "bytes").write_bytes(b"?")
        assert local_folder(bucket / "a") == a
    (a.parent / "bytes").write_text("")
    upload(noise(tmp_path / "b/x", 700_000), bucket / "b/x")
    with pytest.raises(UserError, match="beside the copies in use"):
        local_folder(bucket / "b", limit_gb=0.001)
    for limit in ("nan", "inf", "much"):
        monkeypatch.setenv("ANYSR_CACHE_GB", limit)
        with pytest.raises(UserError, match="finite number of gigabytes"):
            local_folder(bucket / "b")


def test_copies_stay_under_the_limit(bucket, tmp_path, monkeypatch):
    for name in "abc":
        noise(tmp_path / name / "x", 400_000)
        upload(tmp_path / name, bucket / name)
    with pytest.raises(UserError, match=r"has 0\.0004 GB, more than the cache's limit of 0\.0003 GB"):
        local_folder(bucket / "a", limit_gb=0.0003)
    a, b = (local_folder(bucket / name, limit_gb=0.001) for name in "ab")
    with pytest.raises(UserError, match="beside the copies in use"):
        local_folder(bucket / "c", limit_gb=0.001)
    cache._in_use.clear()  # as if another process had asked for a and b, and ended
    os.utime(a.parent / "index.json", (1, 1))
    c = local_folder(bucket / "c", limit_gb=0.001)
    assert [folder.exists() for folder in (a, b, c)] == [False, True, True]


def test_a_key_that_leaves_the_folder_is_refused(bucket, server, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "list_objects", lambda folder: [s3.S3Object(folder / "../../x", 1, "e")])
    with pytest.raises(UserError, match="cannot be the name of a file"):
        local_folder(bucket)


def test_many_processes_copy_once_and_a_killed_copy_is_gone_on_with(bucket, proxy, tmp_path):
    for i in range(30):
        noise(tmp_path / f"photos/{i}", 100_000)
    upload(tmp_path / "photos", bucket)
    code = f"from pipeline.storage.cache import local_folder; print(local_folder({str(bucket)!r}))"
    proxy.bytes_per_s = 400_000
    proxy.counts.clear()
    first = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: len(kept()) >= 8, 60, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    proxy.bytes_per_s = None
    others = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    folders = {Path(process.communicate(timeout=60)[0].decode().strip()) for process in others}
    assert len(folders) == 1
    folder = folders.pop()
    for path in (tmp_path / "photos").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    lists, again = 4, 8  # of each process; at most the files that the first was fetching
    assert proxy.counts["GET"] <= 30 + lists + again
