"""Downloads from a server that cuts, refuses, changes its mind and lies."""

import hashlib
import socket

import numpy as np
import pytest

from pipeline.data.download import Patience, Remote, bytes_so_far, fetch
from pipeline.errors import UserError
from tests.web_server import serve

FAST = Patience(tries=3, first_wait_s=0.01, most_wait_s=0.05, timeout_s=5)
CONTENT = np.random.default_rng(0).bytes(3_000_000)
OTHER = np.random.default_rng(1).bytes(3_000_000)


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve({"a.zip": CONTENT}) as site:
        yield site


def get(site, tmp_path, patience=FAST, content=CONTENT, known=True):
    said: list[str] = []
    expected = (len(content), digest(content)) if known else (None, None)
    target = tmp_path / "a.zip"
    found = fetch(Remote(f"{site.url}/a.zip", *expected), target, lambda done, total: None, said.append, patience)
    assert target.read_bytes() == content
    assert found == digest(content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    return said


@pytest.mark.parametrize("known", [True, False])
def test_a_cut_connection_is_taken_up_where_it_broke(site, tmp_path, known):
    site.cut_after = [1_000_000, 500_000, 0, 700_000]
    said = get(site, tmp_path, known=known)
    starts = [0 if asked is None else int(asked[6:-1]) for _, asked in site.requests]
    assert starts == [0, 1_000_000, 1_500_000, 1_500_000, 2_200_000]
    assert len(said) == 4
    assert "at 1.0 MB" in said[0]


def test_an_end_without_a_length_is_noticed_by_the_expected_size(site, tmp_path):
    site.says_length, site.cut_after = False, [1_000_000]
    get(site, tmp_path)
    assert site.requests[1][1] == "bytes=1000000-"


def test_a_server_without_ranges_starts_over(site, tmp_path):
    site.ranges, site.cut_after = False, [1_000_000, 2_000_000]
    get(site, tmp_path)
    assert len(site.requests) == 3


def stopped(site, tmp_path):
    """A million bytes, then a try that brings nothing."""
    site.cut_after = [1_000_000, 0]
    with pytest.raises(UserError, match=r"1 times without a further byte; 1\.0 MB are kept"):
        get(site, tmp_path, Patience(tries=1))
    assert bytes_so_far(tmp_path / "a.zip") == 1_000_000


def test_a_file_that_changes_on_the_way_is_not_mixed(site, tmp_path):
    stopped(site, tmp_path)
    site.files["a.zip"], site.etag = OTHER, '"2"'
    get(site, tmp_path, content=OTHER)


def test_a_refusal_that_passes_is_waited_for(site, tmp_path):
    site.statuses, site.retry_after = [503, 429], "0"
    said = get(site, tmp_path)
    assert "503" in said[0]
    assert "429" in said[1]


def test_a_refusal_that_stays_ends_in_one_line_and_keeps_what_came(site, tmp_path):
    stopped(site, tmp_path)
    site.statuses = [503] * 3
    with pytest.raises(UserError, match=r"503.*3 times.*1\.0 MB are kept") as caught:
        get(site, tmp_path)
    assert "\n" not in str(caught.value)
    get(site, tmp_path)
    assert site.requests[-1][1] == "bytes=1000000-"


@pytest.mark.parametrize("status", [404, 403])
def test_a_file_that_is_not_there_is_not_asked_for_again(site, tmp_path, status):
    site.statuses = [status]
    with pytest.raises(UserError, match=f"{status} .*--mirror"):
        get(site, tmp_path)
    assert len(site.requests) == 1


def test_another_file_is_refused_and_removed(site, tmp_path):
    site.files["a.zip"] = OTHER
    with pytest.raises(UserError, match=f"{digest(OTHER)}, not {digest(CONTENT)}"):
        get(site, tmp_path)
    assert list(tmp_path.iterdir()) == []
    site.files["a.zip"] = OTHER[:-1]
    with pytest.raises(UserError, match="2999999 bytes, not 3000000"):
        get(site, tmp_path)
    site.files["a.zip"], site.says_length = OTHER + b"x", False
    with pytest.raises(UserError, match="sends more than the 3000000 bytes"):
        get(site, tmp_path)


def test_a_web_page_is_not_taken_for_the_file(site, tmp_path):
    site.content_type = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="a web page"):
        get(site, tmp_path, known=False)


def test_nobody_there(tmp_path, site):
    gone = Remote("http://127.0.0.1:9/a.zip", 10, "0")
    with pytest.raises(UserError, match=r"no connection \(.*3 times"):
        fetch(gone, tmp_path / "a.zip", lambda done, total: None, lambda line: None, FAST)
    with pytest.raises(UserError, match="takes http"):
        fetch(Remote("file:///etc/passwd"), tmp_path / "a.zip", lambda done, total: None, lambda line: None, FAST)


def test_a_full_file_of_unknown_size_is_not_fetched_again(site, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    (tmp_path / "a.zip.part.json").write_text('{"version": "\\"1\\""}')
    get(site, tmp_path, known=False)
    assert site.requests == [("a.zip", f"bytes={len(CONTENT)}-")]


def test_silence_is_a_failure(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = Remote(f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip")
        with pytest.raises(UserError, match=r"no answer for 0\.2 s"):
            fetch(remote, tmp_path / "a.zip", lambda *_: None, lambda _: None, Patience(tries=1, timeout_s=0.2))
