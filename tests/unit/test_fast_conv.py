"""3 x 3 convolutions by oneDNN, with what follows them, against plain ones in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anysr import fast_conv
from anysr.fast_conv import fast_conv3x3
from anysr.fast_linear import has_fast_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "num_out", "size"), [(64, 64, (64, 64)), (37, 29, (127, 65))])
@pytest.mark.parametrize(("relu", "factor"), [(True, None), (False, None), (False, 1.0), (False, 0.1), (True, 0.5)])
def test_with_what_follows(monkeypatch, dtype, channels, num_out, size, relu, factor):
    """Without a skip where ``factor`` is None."""
    monkeypatch.setenv("ANYSR_KERNELS", "off")
    torch.manual_seed(0)
    x, skip = (_image(2, n, *size).to(dtype) for n in (channels, num_out))
    weight, bias = (torch.randn(num_out, channels, 3, 3) / 3 / channels**0.5).to(dtype), torch.randn(num_out).to(dtype)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    expected = expected.relu() if relu else expected
    expected = expected if factor is None else skip.double() + factor * expected
    with torch.no_grad():
        if factor is None:
            answer = fast_conv3x3(x, weight, bias, relu=relu)
        else:
            answer = fast_conv3x3(x, weight, bias, relu=relu, skip=skip, factor=factor)
    assert answer.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(answer.double(), expected, rtol=tolerance, atol=tolerance)


def test_one_call_where_nothing_needs_gradients(monkeypatch):
    """The case that an encoder's blocks are made of takes oneDNN's operator, and training never does."""
    x, weight = _image(1, 16, 64, 64), torch.randn(16, 16, 3, 3)
    assert not fast_conv._can_follow(x, weight, x)
    with torch.no_grad():
        assert fast_conv._can_follow(x, weight, x)
        assert not fast_conv._can_follow(x.contiguous(), weight, x)
        assert fast_conv._can_follow(x.bfloat16(), weight.bfloat16(), None) == has_fast_bf16(CPU)


@pytest.mark.parametrize("size", [(9, 8), (48, 48)])  # too few rows for the kernel, and enough
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_can_be_differentiated_again(size, relu):
    torch.manual_seed(0)
    given = [_image(1, 16, *size), torch.randn(16, 16, 3, 3) / 12, torch.randn(16)]
    given = [x.requires_grad_() for x in given]
    directions = [torch.randn_like(x) for x in given]

    def again(convolve):
        first = torch.autograd.grad(convolve(*given).pow(3).sum(), given, create_graph=True)
        return torch.autograd.grad([(g * d).sum() for g, d in zip(first, directions, strict=True)], given)

    def plain(x, weight, bias):
        y = F.conv2d(x, weight, bias, padding=1)
        return y.relu() if relu else y

    for ours, theirs in zip(again(lambda *xs: fast_conv3x3(*xs, relu=relu)), again(plain), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def _image(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)
