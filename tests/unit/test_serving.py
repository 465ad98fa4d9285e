"""The service without a cluster: wishes, limits, the door, and the process that can be stopped."""

from __future__ import annotations

import asyncio
import io
import re
import threading
import time
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

import anysr
from anysr.imaging import FORMATS
from anysr.upscaling import Enlargement, Limits, Request, Upscaler, enlarge_file
from pipeline.errors import UserError
from pipeline.serving import hearing
from pipeline.serving.access import sha256_of_text
from pipeline.serving.application import Settings, build_application
from pipeline.serving.enlarge import answer
from pipeline.serving.hearing import HeardOut
from pipeline.serving.limits import Gate, ServiceLimits
from pipeline.serving.page.facts import facts_of
from pipeline.serving.page.shelf import Shelf
from pipeline.serving.requests import Answer, Job, Refusal, parse_job, single_values
from pipeline.serving.run import required_token
from pipeline.serving.service import Service
from pipeline.serving.worker import Worker
from tests.enlarging import bilinear_network, encoded, save_network, smooth

LIMITS = ServiceLimits(megabytes=0.1, megapixels_in=0.01, megapixels_out=0.05, seconds=5, waiting=1)
TOKEN = "a token of many characters"


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(bilinear_network())


@pytest.fixture(scope="module")
def client(upscaler, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("page")))

        async def enlarge(job: Job) -> Answer | Refusal:
            return answer(upscaler, LIMITS, job)

        settings = Settings(LIMITS, 1, facts_of(upscaler.model, "tiny"), sha256_of_text(TOKEN))
        with TestClient(build_application(settings, enlarge), follow_redirects=False) as client:
            yield client


def picture(height: int = 12, width: int = 16) -> bytes:
    return encoded(Image.fromarray(smooth(height, width, 3)), "PNG")


def post(client: TestClient, query: str, data: bytes, **headers: str):
    return client.post(f"/upscale?{query}", content=data, headers={"Authorization": f"Bearer {TOKEN}", **headers})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"scale": "2.37"}, Job(Enlargement(scale=(2.37, 2.37)))),
        ({"scale": "2x3.1", "budget": "50G"}, Job(Enlargement(scale=(2, 3.1)), budget=50e9)),
        ({"size": "40x30", "format": "jpg", "quality": "80"}, Job(Enlargement(size=(30, 40)), b"", "JPEG", 80)),
        ({"long-edge": "99", "subnet": "0"}, Job(Enlargement(long_edge=99), subnet=0)),
        ({"width": "64", "budget": "40%"}, Job(Enlargement(width=64), budget=0.4, budget_is_share=True)),
    ],
)
def test_parameters_are_those_of_the_command_line(query, expected):
    assert parse_job(query) == expected


@pytest.mark.parametrize(
    "query",
    [
        {}, {"scale": "2", "size": "4x4"}, {"scale": "x"}, {"scale": "0.5"}, {"scale": "nan"}, {"size": "4"},
        {"width": "-1"}, {"width": "٣"}, {"height": "1" * 5000}, {"scale": "2", "budget": "0%"},
        {"scale": "2", "budget": "x%"}, {"scale": "2", "budget": "-1G"}, {"scale": "2", "subnet": "-1"},
        {"scale": "2", "subnet": "1" * 5000}, {"size": "1" * 5000 + "x2"},
        {"scale": "2", "format": "bmp"}, {"scale": "2", "quality": "101"}, {"scale": "2", "scal": "3"},
    ],
)  # fmt: skip
def test_other_parameters_are_refused_in_one_line(query):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        parse_job(query)
    assert "4300 digits" not in str(refused.value)


def test_a_parameter_is_given_once():
    assert single_values([("scale", "2"), ("quality", "90")]) == {"scale": "2", "quality": "90"}
    with pytest.raises(ValueError, match=r"^'scale' is given twice"):
        single_values([("scale", "2"), ("quality", "90"), ("scale", "3")])


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"seconds": 0}, "--seconds must be positive and finite, got 0"),
        ({"megabytes": float("nan")}, "--megabytes must be positive and finite, got nan"),
        ({"waiting": -1}, "--waiting must be 0 or more, got -1"),
        ({"megapixels_in": -1}, "--megapixels-in must be positive and finite, got -1"),
    ],
)
def test_limits_are_checked(wrong, allowed):
    with pytest.raises(ValueError, match=allowed):
        ServiceLimits(**wrong)


def test_bytes_are_those_of_the_library(client, upscaler):
    for query, request, name in (
        ("scale=2.37", Request(Enlargement(scale=(2.37, 2.37))), "PNG"),
        ("size=41x33&format=webp", Request(Enlargement(size=(33, 41))), "WEBP"),
        ("scale=2&budget=80%25&format=jpeg", Request(Enlargement(scale=(2, 2)), Limits(), subnet=1), "JPEG"),
    ):
        got = post(client, query, picture())
        assert (got.status_code, got.headers["content-type"]) == (200, f"image/{name.lower()}")
        expected, result = enlarge_file(upscaler, picture(), request, FORMATS[name])
        assert got.content == expected
        assert got.headers["anysr-multiply-adds"] == str(result.plan.macs)
        assert got.headers["anysr-subnet"] == str(result.plan.subnet.index)


def test_a_share_of_the_full_network_is_kept_or_refused_with_the_least(client, upscaler):
    costs = [anysr.cost(bilinear_network(), (12, 16), 3, subnet).macs for subnet in range(3)]
    for share, subnet in ((100, 2), (100 * costs[1] / costs[2] + 1, 1), (100 * costs[0] / costs[2] + 1, 0)):
        got = post(client, f"scale=3&budget={share}%25", picture())
        assert got.headers["anysr-subnet"] == str(subnet)
        assert int(got.headers["anysr-multiply-adds"]) <= share / 100 * costs[2]
    refused = post(client, "scale=3&budget=1%25", picture())
    assert refused.status_code == 422
    least = int(refused.json()["error"].split(" %")[0].split()[-1])
    assert post(client, f"scale=3&budget={least}%25", picture()).status_code == 200
    # The page says so instead.
    small = Job(Enlargement((3, 3)), picture(), budget=0.01, budget_is_share=True, or_narrowest=True)
    told = answer(upscaler, LIMITS, small)
    assert (told.subnet, told.macs) == (0, costs[0])
    assert told.notes == ("1 % is less than the narrowest subnet takes here: it ran",)


@pytest.mark.parametrize(
    ("query", "data", "status", "reason"),
    [
        ("scale=2", b"no image at all", 415, "not an image"),
        ("scale=2&scale=3", picture(), 422, "'scale' is given twice"),
        ("scale=2", b"", 415, "empty"),
        ("scale=2", picture()[:-40], 422, "cut short"),
        ("scale=2", picture(101, 100), 413, "100 x 101 pixels, 0.0101 megapixels; at most 0.01"),
        ("scale=30", picture(), 413, "480 x 360 pixels"),
        ("scale=2", bytes(100_001), 413, "at most 0.1 MB"),
        ("scale=2&budget=1k", picture(), 422, r"budget [\d.]+"),
        ("size=4x4", picture(), 422, "smaller than the image"),
        ("scale=2&subnet=7", picture(), 422, "subnet must be"),
        ("scale=2&colour=red", picture(), 422, "unknown parameter"),
    ],
)
def test_refusals_have_a_status_and_one_line(client, query, data, status, reason):
    got = post(client, query, data)
    assert got.status_code == status
    assert "\n" not in got.json()["error"]
    assert re.search(reason, got.json()["error"])


def test_a_body_without_its_length_or_in_a_form_is_refused(client):
    assert post(client, "scale=2", iter([picture()])).status_code == 411
    assert post(client, "scale=2", b"", **{"Content-Type": "multipart/form-data; boundary=x"}).status_code == 415


def test_other_methods_and_paths_are_told_where_to_go(client):
    known = {"Authorization": f"Bearer {TOKEN}"}
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for path in ("/upscale", "/upscale/?scale=2"):
            got = client.request(method, path, headers=known)
            assert (got.status_code, got.headers["allow"]) == (405, "POST")
            assert method == "HEAD" or "POST" in got.json()["error"]
    sent = client.post("/upscale/?scale=2", content=picture(), headers=known)
    assert (sent.status_code, sent.headers["anysr-size"]) == (200, "32x24")
    assert client.post("/upscale?scale=2", headers=known).status_code == 415  # nothing at all
    for method, path, status in (("GET", "/nosuch", 404), ("PUT", "/up/scale", 404), ("DELETE", "/config", 405)):
        got = client.request(method, path, headers=known)
        assert (got.status_code, [*got.json()]) == (status, ["error"])
        assert "POST /upscale" in got.json()["error"]
    assert client.get("/gradio_api/nosuch", headers=known).json() == {"detail": "Not Found"}


def test_nothing_is_served_without_the_token(client):
    for path in ("/", "/config", "/gradio_api/info", "/upscale", "/gradio_api/upload"):
        assert client.get(path).status_code == 401
        wrong = client.post(path, content=b"x", headers={"Authorization": "Bearer wrong"})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/config", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_people_come_in_by_a_form(client):
    asked = client.get("/", headers={"Accept": "text/html"})
    assert asked.status_code == 401
    assert 'name="token"' in asked.text
    wrong = client.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401
    assert "not the token" in wrong.text
    right = client.post("/login", data={"token": TOKEN})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    try:
        assert client.get("/config").status_code == 200
    finally:
        client.cookies.clear()


def test_the_page_asks_nothing_of_other_servers(client):
    page = client.get("/", headers={"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"})
    assert page.status_code == 200
    for elsewhere in ("fonts.googleapis", "cdnjs", "huggingface.co/"):
        assert elsewhere not in page.text


def test_other_machines_need_a_token(monkeypatch):
    monkeypatch.delenv("ANYSR_SERVE_TOKEN", raising=False)
    assert required_token("127.0.0.1") is required_token("::1") is required_token("localhost") is None
    for host in ("0.0.0.0", "::", "10.0.0.1"):
        with pytest.raises(UserError, match="ANYSR_SERVE_TOKEN"):
            required_token(host)
    with pytest.raises(UserError, match="IP address"):
        required_token("example.org")
    monkeypatch.setenv("ANYSR_SERVE_TOKEN", "short")
    with pytest.raises(UserError, match="16 characters"):
        required_token("127.0.0.1")
    monkeypatch.setenv("ANYSR_SERVE_TOKEN", TOKEN)
    assert required_token("0.0.0.0") == required_token("127.0.0.1") == TOKEN


def test_a_full_house_refuses_and_a_late_answer_is_cancelled():
    cancelled = []

    async def never(_job: Job) -> Answer | Refusal:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise
        raise AssertionError

    async def burst() -> list[Answer | Refusal]:
        service = Service(never, replace(LIMITS, seconds=0.2), replicas=2)

        async def job() -> Job:
            return parse_job({"scale": "2"})

        answers = await asyncio.gather(*(service.run(job) for _ in range(50)))
        assert service.gate.inside == 0
        return list(answers)

    refusals = asyncio.run(burst())
    assert sorted(r.status for r in refusals if isinstance(r, Refusal)) == [503] * 47 + [504] * 3
    assert all((r.retry_after_s is not None) == (r.status == 503) for r in refusals if isinstance(r, Refusal))
    assert len(cancelled) == 3


def test_a_place_is_given_back_after_an_error():
    gate = Gate(1)
    with pytest.raises(RuntimeError), gate.place() as free, gate.place() as more:
        assert (free, more) == (True, False)
        raise RuntimeError
    assert gate.inside == 0


def test_the_shelf_keeps_the_newest(tmp_path):
    shelf = Shelf(tmp_path, max_bytes=250, max_age_s=60)
    paths = [shelf.put({"a.png": bytes(50), "b.png": bytes(50)}) for _ in range(4)]
    assert [[path.exists() for path in two] for two in paths] == [[False] * 2] * 2 + [[True] * 2] * 2
    large = shelf.put({"c.png": bytes(1000)})
    assert large[0].stat().st_size == 1000
    assert len(list(tmp_path.iterdir())) == 1


def test_the_shelf_forgets_by_itself(tmp_path):
    shelf = Shelf(tmp_path, max_bytes=250, max_age_s=0.4)
    first = shelf.put({"a.png": b"1"})[0]
    time.sleep(0.2)
    second = shelf.put({"b.png": b"2"})[0]
    deadline = time.monotonic() + 10
    while first.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert second.exists()
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_login_of_unknown_length_is_cut_short(client):
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/login", content=(bytes(2**10) for _ in range(100)), headers=form)
    assert answer.status_code == 413
    assert client.post("/login", content=iter([f"token={TOKEN}".encode()]), headers=form).status_code == 303


def test_a_websocket_without_the_token_is_closed(client):
    client.cookies.clear()
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/any"):
        pass
    assert closed.value.code == 1008


def test_a_worker_survives_time_outs_kills_and_hostile_files(tmp_path):
    worker = Worker(str(save_network(tmp_path)), "cpu", replace(LIMITS, megapixels_out=400, seconds=4))
    worker.await_ready()
    try:
        job = replace(parse_job({"scale": "2"}), data=picture())
        assert isinstance(worker.enlarge(job), Answer)
        started = time.monotonic()
        late = worker.enlarge(replace(parse_job({"scale": "1000"}), data=picture()))
        assert isinstance(late, Refusal) and late.status == 504
        assert time.monotonic() - started < 8
        worker.await_ready()
        hostile = replace(job, data=b"?")
        assert worker.enlarge(hostile) == answer(Upscaler(bilinear_network()), LIMITS, hostile)
        stopper = threading.Timer(1.0, worker.stop)
        stopper.start()
        stopped = worker.enlarge(replace(parse_job({"scale": "1000"}), data=picture()))
        assert isinstance(stopped, Refusal) and stopped.status == 500
        worker.await_ready()
        again = worker.enlarge(job)
        assert isinstance(again, Answer)
        with Image.open(io.BytesIO(again.data)) as image:
            assert image.size == (32, 24)
    finally:
        worker.stop()


@pytest.mark.parametrize(("chunks", "taken"), [(3, 3), (9, 5)])
def test_a_refusal_waits_for_the_end_of_a_body_within_reason(chunks, taken):
    """Clients that are still sending would tell of a broken connection instead."""
    events = []

    async def refuse(scope, receive, send):
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"full"})

    async def receive():
        events.append("chunk")
        return {"type": "http.request", "body": bytes(100), "more_body": events.count("chunk") < chunks}

    async def send(message):
        events.append(message["type"])

    asyncio.run(HeardOut(refuse, 400)({"type": "http", "method": "POST"}, receive, send))
    assert events == ["chunk"] * taken + ["http.response.start", "http.response.body"]


@pytest.mark.parametrize(("status", "waits_s"), [(503, 0.1), (504, 0.0)])
def test_who_falls_silent_is_not_waited_for(status, waits_s, monkeypatch):
    monkeypatch.setattr(hearing, "_QUIET_S", 0.1)
    sent = []

    async def refuse(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message["status"])

    started = time.monotonic()
    asyncio.run(HeardOut(refuse, 400)({"type": "http", "method": "POST"}, receive, send))
    assert sent == [status]
    assert waits_s <= time.monotonic() - started < waits_s + 2
