"""The prepared linear layer against the plain one, and the precision it is run in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anysr import fast_linear
from anysr.fast_linear import Activation, FastLinear, inference_dtype

PLAIN = {"none": lambda x: x, "relu": torch.relu, "gelu": F.gelu}


@pytest.mark.parametrize("activation", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "num_in", "num_out"), [(1, 5, 3), (7, 64, 1024), (2048, 57, 44)])
def test_equals_plain_linear(activation: Activation, dtype: torch.dtype, rows: int, num_in: int, num_out: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, num_in), torch.randn(num_out, num_in) / num_in**0.5, torch.randn(num_out)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    expected = PLAIN[activation](F.linear(x.float(), weight.float(), bias.float()))
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    with torch.no_grad():
        torch.testing.assert_close(FastLinear(weight, bias, activation)(x).float(), expected, rtol=0.01, atol=tolerance)


def test_gradients_take_the_plain_layer() -> None:
    weight, bias = torch.randn(4, 3, requires_grad=True), torch.zeros(4, requires_grad=True)
    FastLinear(weight, bias, "relu")(torch.randn(5, 3)).sum().backward()
    assert weight.grad is not None
    assert bias.grad is not None


def test_precision_follows_autocast_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    single, half = torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)
    monkeypatch.setattr(fast_linear, "_cpu_has_fast_bf16", lambda: True)
    assert inference_dtype(single) == torch.float32
    assert inference_dtype(half) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert inference_dtype(single) == torch.bfloat16
    monkeypatch.setattr(fast_linear, "_cpu_has_fast_bf16", lambda: False)
    assert inference_dtype(half) == torch.float32
