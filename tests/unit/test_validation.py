"""Validation during training gives jobs/evaluate.py's numbers, whoever computes them."""

from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

import anysr
from pipeline.config import ValidationConfig
from pipeline.data.photo_map import open_photo_map
from pipeline.errors import UserError
from pipeline.evaluation.plan import Candidate, Evaluation
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.rows import open_rows
from pipeline.evaluation.run import evaluate, in_this_process
from pipeline.evaluation.scales import parse_scales
from pipeline.evaluation.suites import open_suite
from pipeline.evaluation.upscalers import Bicubic, Network
from pipeline.train.validation import metric_values, psnrs, validate
from tests.tiny import tiny_config

CPU = torch.device("cpu")
WHOLE = ("validation.crop_px=null", "validation.scales=[1.5, 2, 2.37, 4]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(61, 80), (50, 47), (72, 72)]):
        smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size[::-1]))
        Image.fromarray(smooth).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return anysr.build(tiny_config().model).eval()


def photos_of(folder, config):
    return open_photo_map(folder, config.data, config.validation_px)


def scores_of(model, folder, config, workers=1):
    """As ``workers`` of them would gather them, on as many threads."""
    photos = photos_of(folder, config)
    parts = []
    for rank in range(workers):
        context = SimpleNamespace(rank=rank, world_size=workers, gather=lambda mine: parts.append(mine) or mine)
        try:
            validate(model, photos, config, context)
        except ValueError:  # the mean of a scale of which this worker has no photo
            assert workers > 1
    whole = SimpleNamespace(rank=0, world_size=1, gather=lambda mine: [one for part in parts for one in part])
    return validate(model, photos, config, whole)


@pytest.mark.parametrize("protocol", ["liif", "anysr", "basicsr", "liif-div2k"])
def test_the_scores_are_those_of_an_evaluation(model, folder, tmp_path, protocol):
    config = tiny_config(*WHOLE, f"validation.protocol={protocol}")
    scores = scores_of(model, folder, config)
    scales = parse_scales([f"{scale}" for scale in config.scales])
    candidates = (
        Candidate(Network(model, "net", "n", Path()), ("auto", "full")),
        Candidate(Bicubic("pil"), ("full",)),
    )
    asked = Evaluation(candidates, (open_suite(f"s={folder}", scales),), scales, ("psnr",), protocol)
    with open_rows(tmp_path) as store:
        rows = evaluate(asked, store, in_this_process, lambda line: None)
    for score in scores:
        for name, values in {
            "own": [r.value for r in rows if (r.model, r.subnet, r.scale_h) == ("net", "auto", score.scale)],
            "full": [r.value for r in rows if (r.model, r.subnet, r.scale_h) == ("net", "full", score.scale)],
            "bicubic": [r.value for r in rows if (r.model, r.scale_h) == ("bicubic", score.scale)],
        }.items():
            assert len(values) == 3
            assert getattr(score, name) == np.mean(values), (name, score.scale)


def test_neither_workers_nor_threads_change_a_score(model, folder):
    config = tiny_config(*WHOLE)
    alone = scores_of(model, folder, config)
    torch.set_num_threads(2)
    try:
        assert scores_of(model, folder, config) == alone
    finally:
        torch.set_num_threads(1)
    assert scores_of(model, folder, config, workers=2) == alone


def test_metric_names_say_the_channel(model, folder):
    config = tiny_config(*WHOLE, "validation.scales=[2]")
    scores = scores_of(model, folder, config)
    names = {"eval/photos_x2/psnr_y", "eval/photos_x2/psnr_y_full", "eval/photos_x2/psnr_y_bicubic"}
    assert set(metric_values(scores, config.validation)) == names
    on_div2k = ValidationConfig(suite="DIV2K_valid")
    assert "eval/DIV2K_valid_x2/psnr_rgb" in metric_values(scores, on_div2k)


def test_the_configuration_knows_all_protocols():
    assert set(get_args(ValidationConfig.model_fields["protocol"].annotation)) == set(PROTOCOLS)


def test_photos_have_to_be_larger_than_the_border(model, folder):
    config = tiny_config(*WHOLE, "validation.scales=[1.5]", "validation.protocol=liif-div2k")
    assert config.validation_px == 19
    rng = np.random.default_rng(0)
    for side in (19, 20):
        hr = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        assert all(value > 0 for value in psnrs(model, hr, 1.5, PROTOCOLS["liif-div2k"]))
    with pytest.raises(UserError, match="at least 43"):
        tiny_config("validation.protocol=liif-div2k", "validation.scales=[10]", "validation.crop_px=42")


def test_training_goes_on_after_a_validation_of_its_own_weights(tmp_path):
    from pipeline.tracking.tracker import FileTracker
    from pipeline.train.local import fit_locally

    few = ("train.steps=4", "validation.every=2", "train.ema_decay=null", "run.name=r", f"run.storage={tmp_path}")
    fitted = fit_locally(tiny_config(*few), FileTracker(tmp_path / "r").sink)
    assert fitted.outcome.finished
