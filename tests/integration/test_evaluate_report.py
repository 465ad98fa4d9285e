"""jobs/evaluate.py --report and jobs/report.py: costs, crops, the page, and the run in MLflow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

import anysr
from pipeline.errors import UserError
from pipeline.evaluation.rows import RowStore
from pipeline.tracking import evaluation_run
from tests.conftest import ROOT
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "hr").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (96, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"hr/{i}.png")
    torch.manual_seed(0)
    anysr.save(anysr.build(tiny_config().model), folder / "m.safetensors")
    run(folder, "evaluate.py", *EVALUATE)
    return folder


EVALUATE = ("--local", "--model", "m.safetensors", "--suite", "s=hr", "--scales", "2", "3", "--cost-size", "96x64",
            "--report", "r.html", "--track", "--tracking-uri", "sqlite:///mlflow.db")  # fmt: skip


def run(folder, script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "jobs" / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_costs_are_counted_and_measured(work):
    model = anysr.load(work / "m.safetensors")
    costs = pq.read_table(work / "evaluation/costs.parquet").to_pylist()
    assert {(c["subnet"], c["scale_h"]) for c in costs} == {
        (subnet, scale) for subnet in ("auto", "full", "0", "1", "2", "3") for scale in (2, 3)
    }
    for row in costs:
        subnet = int(row["subnet"]) if row["subnet"].isdigit() else row["subnet"]
        counted = anysr.cost(model, (32, 48) if row["scale_h"] == 2 else (21, 32), row["scale_h"], subnet)
        assert (row["params"], row["encoder_macs"]) == (counted.params, counted.encoder_macs)
        assert row["decoder_macs"] == counted.decoder_macs
        assert row["latency_ms"] > 0
        assert row["peak_bytes"] >= 0
        assert row["status"] == "ok"


def test_crops_show_the_same_place_of_every_candidate(work):
    pictures = pq.read_table(work / "evaluation/pictures.parquet").to_pylist()
    best = [p for p in pictures if p["rank"] == "best"]
    assert [p["what"] for p in best] == ["hr", "whole", *["answer", "error"] * 3]
    assert len({(p["image"], p["top"], p["left"]) for p in best}) == 1
    hr = np.asarray(Image.open(work / "hr" / best[0]["image"]))
    (work / "crop.png").write_bytes(best[0]["png"])
    top, left = best[0]["top"], best[0]["left"]
    assert np.array_equal(np.asarray(Image.open(work / "crop.png")), hr[top : top + 72, left : left + 72])


def test_the_page_comes_from_the_folder_alone(work):
    first = (work / "r.html").read_text()
    (work / "hr").rename(work / "away")
    run(work, "report.py", "evaluation", "--report", "again.html")
    (work / "away").rename(work / "hr")
    assert (work / "again.html").read_text() == first
    assert "m.safetensors" in first


def test_the_same_scores_are_one_run_in_mlflow(work):
    run(work, "evaluate.py", *EVALUATE)
    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    experiment = client.get_experiment_by_name("anysr-evaluation")
    (found,) = client.search_runs([experiment.experiment_id])
    rows = pq.read_table(work / "evaluation/rows.parquet").to_pylist()
    mine = [r["value"] for r in rows if (r["scale_h"], r["subnet"], r["metric"]) == (2, "auto", "psnr")]
    assert found.data.metrics["eval/s_x2/psnr_y"] == pytest.approx(np.mean(mine))
    assert "eval/s_x3/ssim_y_bicubic" in found.data.metrics
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {"r.html", "rows.parquet", "costs.parquet", "pictures.parquet", "environments.json"}
    assert found.info.status == "FINISHED"


def test_many_means_and_no_password(work, monkeypatch):
    store = RowStore(work / "evaluation")
    rows = [store[key] for key in store]
    monkeypatch.setattr(evaluation_run, "_AT_ONCE", 3)
    place = f"sqlite:///{work}/other.db"
    monkeypatch.chdir(work)
    said = evaluation_run.log_evaluation(place, rows, work / "evaluation", None)
    (experiment,) = MlflowClient(place).search_experiments(filter_string="name = 'anysr-evaluation'")
    (found,) = MlflowClient(place).search_runs([experiment.experiment_id])
    assert said == f"MLflow run {found.info.run_id} at {place}"
    assert found.data.metrics == pytest.approx(evaluation_run.mean_values(rows))
    assert len(found.data.metrics) > 3
    failed = replace(next(row for row in rows if row.metric == "psnr"), value=None, status="damaged")
    assert len(evaluation_run.mean_values([*rows, failed])) == len(found.data.metrics) - 1
    with pytest.raises(UserError) as refused:
        evaluation_run.log_evaluation("http://me:secret@127.0.0.1:9", rows, work / "evaluation", None)
    assert "secret" not in str(refused.value)


def test_costs_of_other_scales_are_kept(work):
    folder = work / "costs"
    for scale in ("2", "3", "2"):
        arguments = ("--local", "--model", "m.safetensors", "--suite", "s=hr", "--scales", scale, "--costs")
        run(work, "evaluate.py", *arguments, "--cost-size", "96x64", "--out", str(folder))
    costs = pq.read_table(folder / "costs.parquet").to_pylist()
    assert sorted((c["scale_h"], c["subnet"]) for c in costs) == [(2, "auto"), (3, "auto")]


def test_a_folder_without_rows_is_one_line(work):
    done = subprocess.run([sys.executable, str(ROOT / "jobs/report.py"), "nothing"], cwd=work, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing holds no such rows")
    assert done.stderr.count("\n") == 1
