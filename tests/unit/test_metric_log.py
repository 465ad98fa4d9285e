import time

import pytest

from pipeline.errors import UserError
from pipeline.tracking.metric_log import JsonlSink, Metric, MetricLog


class FlakySink:
    """Fails while ``down``; may store and still fail, as a lost answer does."""

    def __init__(self):
        self.down = False
        self.loses_answers = 0
        self.stored: list[Metric] = []

    def last_steps(self):
        if self.down:
            raise ConnectionError("no answer")
        return {m.name: max(o.step for o in self.stored if o.name == m.name) for m in self.stored}

    def write(self, metrics):
        if self.down:
            raise ConnectionError("no answer")
        self.stored += metrics
        if self.loses_answers:
            self.loses_answers -= 1
            raise ConnectionError("answer lost")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(MetricLog, "RETRY_S", 0.05)


def steps(sink, name="loss"):
    return [m.step for m in sink.stored if m.name == name]


def test_a_dead_sink_does_not_stall_and_loses_nothing():
    sink = FlakySink()
    sink.down = True
    log = MetricLog(sink)
    began = time.perf_counter()
    for step in range(100):
        log.add(step, {"loss": step / 10})
    assert time.perf_counter() - began < 1
    with pytest.raises(UserError, match="100 metrics could not be sent"):
        log.flush(timeout_s=0.2)
    sink.down = False
    log.flush(5)
    log.close()
    assert steps(sink) == list(range(100))


def test_a_lost_answer_doubles_nothing():
    sink = FlakySink()
    sink.loses_answers = 2
    log = MetricLog(sink)
    for step in range(10):
        log.add(step, {"loss": 1.0, "rate": 2.0})
    log.flush(5)
    log.close()
    assert steps(sink) == steps(sink, "rate") == list(range(10))


def test_a_resumed_run_neither_repeats_nor_skips_a_step():
    sink = FlakySink()
    first = MetricLog(sink)
    for step in range(6):
        first.add(step, {"loss": 1.0})
    first.flush(5)
    sink.down = True
    first.add(6, {"loss": 1.0})
    pending = first.pending()  # what the checkpoint at step 6 carries
    first.close()
    sink.down = False
    second = MetricLog(sink)
    second.restore(pending)
    for step in range(4, 9):  # a checkpoint older than what was sent runs some steps again
        second.add(step, {"loss": 1.0})
    second.flush(5)
    second.close()
    assert steps(sink) == list(range(9))


def test_the_file_sink_drops_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write([Metric("loss", 0.5, step, 0) for step in range(3)])
    with path.open("a") as file:
        file.write('{"name": "loss", "val')
    assert sink.last_steps() == {"loss": 2}
    sink.write([Metric("loss", 0.5, 3, 0)])
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"3", b'{"name": "loss"}', b'{"name": "loss", "step": null}'])
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write([Metric("loss", 0.5, 1, 0)])
    path.write_bytes(path.read_bytes() + damage + b"\n")
    sink.write([Metric("loss", 0.5, 2, 0)])
    with pytest.raises(UserError, match=f"line 2 of {path} is damaged; remove that line"):
        sink.last_steps()


def test_a_dead_sink_is_not_asked_at_every_metric(monkeypatch):
    monkeypatch.setattr(MetricLog, "RETRY_S", 60)
    asked = []

    class Dead(FlakySink):
        def last_steps(self):
            asked.append(time.monotonic())
            raise ConnectionError("no answer")

    log = MetricLog(Dead())
    for step in range(50):
        log.add(step, {"loss": 1.0})
        time.sleep(0.01)
    log.close()
    assert len(asked) == 1


def test_closing_sends_what_is_left_and_does_not_wait_for_a_dead_sink(monkeypatch):
    monkeypatch.setattr(MetricLog, "RETRY_S", 60)

    class Slow(FlakySink):
        def write(self, metrics):
            time.sleep(0.2)
            super().write(metrics)

    for down in (False, True):
        sink = Slow()
        sink.down = down
        log = MetricLog(sink)
        began = time.monotonic()
        log.add(6, {"loss": 1.0})
        time.sleep(0.05)
        log.add(7, {"loss": 1.0})
        log.close()
        assert time.monotonic() - began < 10
        assert steps(sink) == ([] if down else [6, 7])
