import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from anysr.metrics import psnr, scored_region, ssim


def test_psnr_of_a_constant_error_by_hand():
    """A difference of 0.1 in all channels is 0.1 * 219/255 in luma: -20 log10(0.0858824) = 21.3219 dB."""
    hr = torch.full((3, 10, 12), 0.4)
    assert psnr(hr + 0.1, hr, 2) == pytest.approx(21.3219, abs=1e-3)


def test_psnr_of_green_alone_by_hand():
    """0.1 in green is 0.1 * 128.553/255 in luma: -20 log10(0.0504129) = 25.9491 dB."""
    hr = torch.zeros(3, 8, 8)
    sr = hr.clone()
    sr[1] = 0.1
    assert psnr(sr, hr, 0) == pytest.approx(25.9491, abs=1e-3)


def test_the_border_is_not_scored_and_answers_are_clamped():
    hr = torch.rand(3, 12, 12)
    sr = hr.clone()
    sr[:, :2] = 9.0
    sr[:, :, -2:] = -1.0
    assert psnr(sr, hr, 2) == math.inf
    assert psnr(torch.full((3, 9, 9), 7.0), torch.ones(3, 9, 9), 1) == math.inf


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one size"):
        psnr(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5), 0)
    with pytest.raises(ValueError, match="leaves nothing"):
        psnr(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), 2)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_images_of_another_kind_are_refused(score):
    hr = torch.rand(3, 16, 16)
    eight_bits = (hr * 255).byte()
    with pytest.raises(ValueError, match=r"sr .*torch\.uint8.*divide 8-bit images by 255"):
        score(eight_bits, hr, 0)
    with pytest.raises(ValueError, match=r"hr .*torch\.uint8.*divide 8-bit images by 255"):
        score(hr, eight_bits, 0)
    with pytest.raises(ValueError, match=r"hr must be RGB in \[0, 1\], got values from .* to 25.*divide"):
        score(hr, hr * 254 + 1, 0)
    with pytest.raises(ValueError, match=r"hr must be RGB in \[0, 1\], got values from -"):
        score(hr, hr * 2 - 1, 0)
    with pytest.raises(TypeError, match=r"sr must be a torch tensor, got ndarray.*torch\.from_numpy"):
        score(hr.numpy(), hr, 0)
    assert math.isfinite(score(torch.rand(3, 16, 16), hr * 1.009 - 0.005, 0))


@pytest.mark.parametrize("score", [psnr, ssim])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_answers_that_are_not_finite_have_no_score(score, value, dtype):
    hr = torch.rand(3, 16, 16)
    sr = (hr * 0.9).to(dtype)
    sr[1, 8, 8] = value
    assert math.isnan(score(sr, hr, 2, "rgb", rounded=True))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_answers_with_a_gradient_are_scored(score):
    sr, hr = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    assert score(sr.clone().requires_grad_(), hr, 2) == score(sr, hr, 2)


def test_psnr_of_rgb_by_hand():
    """0.1 in one colour of three is a mean square of 0.01 / 3: 24.7712 dB."""
    hr = torch.zeros(3, 8, 8)
    sr = hr.clone()
    sr[1] = 0.1
    assert psnr(sr, hr, 0, "rgb") == pytest.approx(24.7712, abs=1e-3)


def test_rounding_comes_before_luma():
    """0.4 / 255 rounds away; 0.6 / 255 to 1 / 255, in luma 219 / 255 of that: -20 log10(219 / 255²) = 49.4525 dB."""
    hr = torch.zeros(3, 8, 8)
    assert psnr(hr + 0.4 / 255, hr, 0, rounded=True) == math.inf
    assert psnr(hr + 0.6 / 255, hr, 0, rounded=True) == pytest.approx(49.4525, abs=1e-3)


def test_each_axis_has_its_own_border():
    hr = torch.rand(3, 12, 12)
    sr = hr.clone()
    sr[:, :3] = 1 - sr[:, :3]
    assert psnr(sr, hr, (3, 0)) == math.inf
    assert psnr(sr, hr, (0, 3)) < 20


def test_ssim_of_flat_images_by_hand():
    """Without variance only luminance is left: (2 * 0.4 * 0.6 + 1e-4) / (0.16 + 0.36 + 1e-4) = 0.923092."""
    hr = torch.full((3, 13, 15), 0.4)
    assert ssim(hr + 0.2, hr, 1, "rgb") == pytest.approx(0.4801 / 0.5201, abs=1e-6)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_other_channels_and_borders_are_refused(score):
    image = torch.rand(3, 30, 30)
    for channel in ("RGB", "Y", "cb", None):
        with pytest.raises(ValueError, match='channel must be "y" or "rgb", got'):
            score(image, image, 2, channel)
    for border in (1.5, (1, 2, 3), "2", None):
        with pytest.raises(ValueError, match="border must be"):
            score(image, image, border)
    for border in (np.int64(2), torch.tensor(2), np.array([2, 2])):
        assert score(image, image.flip(2), border) == score(image, image.flip(2), (2, 2))


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_ssim_is_the_published_double_loop(channel):
    """What scikit-image gives for gaussian_weights=True, sigma=1.5, use_sample_covariance=False."""
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(3, 19, 17, generator=generator)
    sr = (hr + 0.2 * torch.randn(3, 19, 17, generator=generator)).clamp(0, 1)
    images = [scored_region(image, image, 2, channel, rounded=False)[0].numpy() for image in (sr, hr)]
    expected = np.mean([textbook_ssim(a, b) for a, b in zip(*images, strict=True)])
    assert ssim(sr, hr, 2, channel) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("height", "width", "border"), [(37, 52, 0), (64, 33, 3)])
def test_ssim_is_scikit_images(height, width, border):
    generator = torch.Generator().manual_seed(height)
    hr = torch.rand(3, height, width, generator=generator)
    sr = (hr + 0.1 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)
    published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    for channel in ("y", "rgb"):
        a, b = scored_region(sr, hr, border, channel, rounded=False)
        expected = structural_similarity(a.numpy(), b.numpy(), channel_axis=0, **published)
        assert ssim(sr, hr, border, channel) == pytest.approx(expected, abs=1e-4)


def textbook_ssim(a, b):
    place = np.arange(11) - 5
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq, c = ((window * v).sum() for v in ((p - mp) ** 2, (q - mq) ** 2, (p - mp) * (q - mq)))
            luminance = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
            values.append(luminance * (2 * c + 9e-4) / (vp + vq + 9e-4))
    return np.mean(values)


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(torch.zeros(3, 14, 14), torch.zeros(3, 14, 14), 2)
