import math

import numpy as np
import pytest
import torch
from PIL import Image

from anysr.metrics import psnr_y


def test_psnr_of_a_constant_error_by_hand():
    """A difference of 0.1 in all channels is 0.1 * 219/255 in luma: -20 log10(0.0858824) = 21.3219 dB."""
    hr = torch.full((3, 10, 12), 0.4)
    assert psnr_y(hr + 0.1, hr, 2) == pytest.approx(21.3219, abs=1e-3)


def test_psnr_of_green_alone_by_hand():
    """0.1 in green is 0.1 * 128.553/255 in luma: -20 log10(0.0504129) = 25.9491 dB."""
    hr = torch.zeros(3, 8, 8)
    sr = hr.clone()
    sr[1] = 0.1
    assert psnr_y(sr, hr, 0) == pytest.approx(25.9491, abs=1e-3)


def test_the_border_is_not_scored_and_answers_are_clamped():
    hr = torch.rand(3, 12, 12)
    sr = hr.clone()
    sr[:, :2] = 9.0
    sr[:, :, -2:] = -1.0
    assert psnr_y(sr, hr, 2) == math.inf
    assert psnr_y(torch.full((3, 9, 9), 7.0), torch.ones(3, 9, 9), 1) == math.inf


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one size"):
        psnr_y(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5), 0)
    with pytest.raises(ValueError, match="leaves nothing"):
        psnr_y(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), 2)


@pytest.mark.parametrize(("scale", "expected"), [(2, 33.67), (3, 30.40), (4, 28.43)])
def test_bicubic_on_set5_scores_as_published(shared, scale, expected):
    from pipeline.data.degrade import lr_hr_pair, resize_bicubic
    from pipeline.evaluate import to_tensor

    scores = []
    for path in sorted((shared / "data/bench/Set5").glob("*.png")):
        lr, hr = lr_hr_pair(np.asarray(Image.open(path).convert("RGB")), scale)
        scores.append(psnr_y(to_tensor(resize_bicubic(lr, hr.shape[:2])), to_tensor(hr), scale))
    assert np.mean(scores) == pytest.approx(expected, abs=0.011)
