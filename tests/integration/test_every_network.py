"""Every encoder with every decoder through the real loop, and back from its file."""

from __future__ import annotations

import pytest
import torch

import anysr
from pipeline.tracking.tracker import FileTracker
from pipeline.train.local import LocalContext, fit_locally
from tests.tiny import OVERRIDES, tiny_config

ENCODERS = {
    "edsr-baseline": "model.encoder={num_blocks: 2, channels: 8}",
    "rdn": "model.encoder={channels: 8, growth: 8, num_blocks: 2, num_convs: 8}",
    "rcan": "model.encoder={channels: 8, num_groups: 2, num_blocks: 2, reduction: 4}",
}
DECODERS = {
    "liif": "model.decoder={hidden: 16, num_layers: 2}",
    "srno": "model.decoder={hidden: 32}",
    "metasr": "model.decoder={hidden: 16}",
    "arbsr": "model.decoder={bottleneck: 4}",
}
NAMES = [(f"{e}-{d}{kind}", ENCODERS[e], DECODERS[d]) for e in ENCODERS for d in DECODERS for kind in ("", "-anysr")]
FIXED = [
    ("edsr-baseline-x2", ENCODERS["edsr-baseline"], ""),
    ("rcan-x3", ENCODERS["rcan"], ""),
    ("vdsr", "", "model.decoder={num_layers: 3, hidden: 8}"),
    ("ecbsr-m4c16-x4", "", "model.decoder={num_blocks: 2, channels: 8}"),
]


def test_batch_statistics_are_of_training_alone(tmp_path, monkeypatch):
    """A validation, or a stop after each step, does not show in a network with batch normalisation."""
    own = [override for override in OVERRIDES if not override.startswith("model.")]
    few = ("train.steps=4", "validation.scales=[2.2]", "train.ema_decay=null", "tracking.backend=jsonl")
    encoder, decoder = ENCODERS["edsr-baseline"], DECODERS["arbsr"]

    def trained(name, *overrides):
        where = (f"run.storage={tmp_path}", f"run.name={name}", *few, *overrides)
        config = tiny_config("model=edsr-baseline-arbsr-anysr", encoder, decoder, *own, *where, base=())
        fitted = fit_locally(config, FileTracker(tmp_path / name).sink)
        return fitted.outcome.step, (fitted.checkpoint / "model.safetensors").read_bytes()

    _, undisturbed = trained("undisturbed", "validation.every=4")
    assert trained("validated", "validation.every=1") == (4, undisturbed)
    monkeypatch.setattr(LocalContext, "should_stop", lambda self: True)
    steps = [trained("stopped", "validation.every=4") for _ in range(4)]
    assert steps[-1] == (4, undisturbed)


@pytest.mark.parametrize(("name", "encoder", "decoder"), NAMES + FIXED)
def test_trains_and_reloads(name, encoder, decoder, tmp_path):
    own = [override for override in OVERRIDES if not override.startswith("model.")]
    where = (f"run.storage={tmp_path}", "run.name=r", "tracking.backend=jsonl")
    few = ("train.steps=3", "train.log_every=1", "train.checkpoint_every=3", "validation.scales=[2.2]")
    sizes = [override for override in (encoder, decoder) if override]
    widths = () if name.endswith("-anysr") else ("sampling.widths=one", "train.distillation=0")
    config = tiny_config(f"model={name}", *sizes, *own, *widths, *where, *few, base=())
    fitted = fit_locally(config, FileTracker(tmp_path / "r").sink)
    assert fitted.outcome.finished
    (score,) = fitted.outcome.scores
    assert score.own > 5
    model = anysr.load(fitted.checkpoint / "model.safetensors")
    assert model.config == config.model
    scale = config.scales[0]
    lr = torch.rand(1, 3, 9, 6)
    with torch.no_grad():
        assert model(lr, scale).isfinite().all()
        small = model.extract(0)
        torch.testing.assert_close(small(lr, scale), model(lr, scale, subnet=0), atol=1e-5, rtol=0)
