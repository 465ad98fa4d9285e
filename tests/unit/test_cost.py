import pytest
import torch

import anysr
from anysr import ModelConfig, SubnetConfig, fast_linear
from anysr.cost import mean_macs
from anysr.native import fused as native

from .test_model import small_model


def test_published_sizes():
    """EDSR-baseline and LIIF as METHOD states them: 1.22 M multiply-adds a LR pixel, 1.38 M an HR pixel."""
    plain = anysr.build(ModelConfig(interweave=None, subnets=(SubnetConfig((1.0, 4.0)),)))
    cost = anysr.cost(plain, (10, 10), 2.0)
    assert cost.encoder_macs / 100 == pytest.approx(1.22e6, rel=0.005)
    assert cost.decoder_macs / 400 == pytest.approx(1.38e6, rel=0.005)
    assert cost.params == sum(p.numel() for p in plain.parameters())


def test_a_narrow_subnet_costs_what_its_extracted_network_costs():
    model = small_model()
    for index in range(3):
        inside, alone = anysr.cost(model, (9, 7), 2.3, index), anysr.cost(model.extract(index), (9, 7), 2.3)
        assert inside == alone
        assert inside.params == sum(p.numel() for p in model.extract(index).parameters())


def test_executed_multiply_adds_are_counted_right(monkeypatch):
    """Against torch's own counter on the network as it runs, by the layers that it knows."""
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(native, "kernels", lambda: None)
    monkeypatch.setattr(fast_linear, "can_pack", lambda weight: False)
    model = small_model()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 9, 7), 2.3, subnet=1)
    # The cell's share of the first layer is a matrix-vector product, once per image.
    assert counter.get_total_flops() / 2 == pytest.approx(anysr.cost(model, (9, 7), 2.3, 1).executed_macs, rel=0.005)


@pytest.mark.parametrize("scales", [(2, 2), (3, 2), (0.5, 2), (1, float("inf")), (1, 2, 3), 4, ("1", "2")])
def test_ranges_of_scales_that_are_none_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales must be \(lowest, highest\)"):
        mean_macs(small_model(), scales=scales)
    with pytest.raises(ValueError, match=r"must be \[low, high\], two finite numbers"):
        SubnetConfig(scales)


@pytest.mark.parametrize("lr_size", [(-5, 5), (0, 0), (48.5, 48), 48, (4, 4, 4)])
def test_sizes_that_are_none_are_refused(lr_size):
    with pytest.raises(ValueError, match=r"lr_size must be \(h, w\)"):
        anysr.cost(small_model(), lr_size, 2)
