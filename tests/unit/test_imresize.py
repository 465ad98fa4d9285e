import numpy as np
import pytest

from pipeline.data.degrade import lr_hr_pair, luma_8_bits, pair_sizes
from pipeline.data.imresize import matlab_bicubic


def row(*values):
    return np.tile(np.array(values, np.uint8)[None, :, None], (8, 1, 3))


def test_enlarging_an_edge_by_hand():
    """Twice: taps at 0.25 from a pixel are (-9, 111, 29, -3) / 128, mirrored at the ends.

    100 | 200 between: 100 + 100 * 26/128 = 120.3 and 179.7; one further off -3/128 and 9/128 overshoot.
    """
    up = matlab_bicubic(row(100, 100, 100, 200, 200, 200), (8, 12))
    assert up[0, :, 0].tolist() == [100, 100, 100, 98, 93, 120, 180, 207, 202, 200, 200, 200]


def test_shrinking_an_edge_by_hand():
    """By two the kernel is twice as wide: taps (-3, -9, 29, 111, 111, 29, -9, -3) / 256.

    Around an edge between pixels 3 and 4, 0 | 128: output 1 lies between pixels 2 and 3, so that -9, -3
    ... of its right side, 29 - 9 - 3 = 17 of 256, see 128: 8.5, rounded up to 9; output 2: 119.5 to 120; the last
    lacks one -3: 129.5 to 130.
    """
    down = matlab_bicubic(row(0, 0, 0, 0, 128, 128, 128, 128), (4, 4))
    assert down[0, :, 0].tolist() == [0, 9, 120, 130]


def test_pixels_stay_8_bit_between_the_axes_and_doubles_do_not():
    noise = np.random.default_rng(0).integers(0, 256, (24, 18, 3), dtype=np.uint8)
    rows_first = matlab_bicubic(matlab_bicubic(noise, (12, 18)), (12, 9))
    np.testing.assert_array_equal(matlab_bicubic(noise, (12, 9)), rows_first)
    exact = matlab_bicubic(noise.astype(np.float64), (12, 9))
    assert 0.5 < np.abs(exact - rows_first).max() < 2


def test_the_axis_that_shrinks_most_goes_first():
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    columns_first = matlab_bicubic(matlab_bicubic(noise, (24, 6)), (12, 6))
    rows_first = matlab_bicubic(matlab_bicubic(noise, (12, 24)), (12, 6))
    np.testing.assert_array_equal(matlab_bicubic(noise, (12, 6)), columns_first)
    assert (columns_first != rows_first).any()


@pytest.mark.parametrize(
    ("size", "scale", "lr", "hr"),
    [
        ((41, 50), 2, (20, 25), (40, 50)),
        ((33, 55), 1.1, (30, 50), (33, 55)),  # 33 / 1.1 is 29.999… in floating point
        ((40, 50), (2, 3.1), (20, 16), (40, 50)),
        ((41, 50), (1.5, 4), (27, 12), (40, 48)),
    ],
)
def test_sizes_of_a_pair(size, scale, lr, hr):
    assert pair_sizes(size, scale) == (lr, hr)
    low, high = lr_hr_pair(np.zeros((*size, 3), np.uint8), scale, matlab_bicubic)
    assert (low.shape, high.shape) == ((*lr, 3), (*hr, 3))


def test_luma_by_hand():
    """Green: 128.553 + 16 = 144.553, rounded 145; white 235; black 16."""
    pixels = np.array([[[0, 255, 0], [255, 255, 255], [0, 0, 0]]], np.uint8)
    assert luma_8_bits(pixels)[0].tolist() == [[145.0], [235.0], [16.0]]
