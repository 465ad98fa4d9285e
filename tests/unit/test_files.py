"""Files that appear complete or not at all."""

import pytest

from anysr.files import cache_root, whole_file
from pipeline.files import write_text
from pipeline.storage.transfer import upload


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    source, taken = tmp_path / "a", tmp_path / "taken"
    source.write_text("a")
    taken.mkdir()
    for write in (lambda: write_text(taken, "a"), lambda: upload(source, taken)):
        with pytest.raises(IsADirectoryError) as error:
            write()
        assert error.value.filename == str(taken)
        assert sorted(tmp_path.iterdir()) == [source, taken]


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as error, whole_file(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
    assert error.value.filename == str(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_cache_is_a_folder_of_this_machine(monkeypatch):
    monkeypatch.setenv("ANYSR_CACHE", "s3://bucket/cache")
    with pytest.raises(ValueError, match="ANYSR_CACHE must be a folder of this machine, got s3://bucket/cache"):
        cache_root()
