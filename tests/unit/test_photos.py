from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.degrade import lr_hr_pair, resize_bicubic
from pipeline.data.photo_map import open_photo_map, trained_on
from pipeline.data.photos import decode_rgb, list_photos, photo_folder
from pipeline.errors import UserError
from pipeline.train.loop import open_photos
from tests.tiny import tiny_config


def noise(height=40, width=50, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        Image.fromarray(noise(seed=i)).save(photos / f"{i}.png")
    return photos


def test_the_box_holds_16_and_4_photos():
    assert len(list_photos(photo_folder(None, "train"))) == 16
    assert len(list_photos(photo_folder(None, "validation"))) == 4


def test_of_a_data_set_the_hr_images_alone_are_trained_on(folder):
    (folder / "HR").mkdir()
    (folder / "LR_bicubic/X2").mkdir(parents=True)
    Image.fromarray(noise()).save(folder / "LR_bicubic/X2/0.png")
    (folder / ".thumbnails").mkdir()
    Image.fromarray(noise()).save(folder / ".thumbnails/0.png")
    assert len(list_photos(folder)) == 3
    assert len(list_photos(folder / "LR_bicubic")) == 1
    assert photo_folder(folder, "train") == folder / "HR"
    assert photo_folder(folder / "LR_bicubic", "train") == folder / "LR_bicubic"


def test_a_missing_and_an_empty_folder_and_one_of_texts_are_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of photos"):
        list_photos(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="holds no image"):
        list_photos(tmp_path)


def test_every_kind_of_image_becomes_rgb(tmp_path):
    rgb = noise()
    grey = rgb[:, :, 0]
    cases = {
        "rgb.png": (Image.fromarray(rgb), rgb),
        "rgba.png": (Image.fromarray(np.dstack([rgb, np.full_like(grey, 9)])), rgb),
        "grey.png": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "grey16.png": (Image.fromarray(grey.astype(np.uint16) * 257), np.dstack([grey] * 3)),
        "palette.png": (Image.fromarray(grey // 64 * 64).convert("P"), np.dstack([grey // 64 * 64] * 3)),
        "float.tif": (Image.fromarray(grey.astype(np.float32)), np.dstack([grey] * 3)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        np.testing.assert_array_equal(decode_rgb(tmp_path / name, 100), expected, err_msg=name)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.tif")
    np.testing.assert_allclose(decode_rgb(tmp_path / "cmyk.tif", 100), rgb, atol=2)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("overshoot.tif", lambda grey: grey.astype(np.float32) * 1.002),
        ("share.tif", lambda grey: grey.astype(np.float32) / 255 * 1.002),
        ("undershoot.tif", lambda grey: grey.astype(np.float32) - 0.3 * (grey == 0)),
        ("whole.tif", lambda grey: grey.astype(np.int32)),
        ("whole16.tif", lambda grey: grey.astype(np.int32) * 257),
        ("float16.tif", lambda grey: grey.astype(np.float32) * 257),
    ],
)
def test_the_range_of_grey_is_told_by_its_largest_value(name, stored, tmp_path):
    grey = noise()[:, :, 0]
    assert (grey.min(), grey.max()) == (0, 255)
    Image.fromarray(stored(grey)).save(tmp_path / name)
    found = decode_rgb(tmp_path / name, 100).astype(int)
    np.testing.assert_allclose(found, np.dstack([grey] * 3).astype(int), atol=1)


def test_a_dark_16_bit_photo_stays_dark(tmp_path):
    Image.fromarray(np.full((40, 50), 200, np.uint16)).save(tmp_path / "dark.png")
    assert decode_rgb(tmp_path / "dark.png", 100).max() == 1


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.fromarray(noise())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decode_rgb(tmp_path / "turned.png", 100), np.rot90(noise(), -1))


@pytest.mark.parametrize("fault", ["truncated", "text", "bomb", "large", "small"])
def test_unusable_photos_end_the_run_or_are_listed(folder, fault, tmp_path):
    bad = folder / "bad.png"
    max_megapixels = 100.0
    if fault == "truncated":
        content = (folder / "0.png").read_bytes()
        bad.write_bytes(content[: len(content) // 2])
    elif fault == "text":
        bad.write_text("not an image")
    elif fault == "bomb":
        Image.new("1", (20_000, 20_000)).save(bad)
    elif fault == "large":
        Image.new("RGB", (1100, 1000)).save(bad)
        max_megapixels = 1.0
    else:
        Image.fromarray(noise(10, 50)).save(bad)
    data = {"max_megapixels": max_megapixels, "cache": tmp_path / "cache"}
    with pytest.raises(UserError, match=r"bad\.png.*, or set data\.on_error=skip$") as caught:
        open_photo_map(folder, DataConfig(**data), min_side_px=32)
    assert "\n" not in str(caught.value)
    photos = open_photo_map(folder, DataConfig(**data, on_error="skip"), min_side_px=32)
    assert photos.names == ["0.png", "1.png", "2.png"]
    assert len(photos.skipped) == 1
    assert "bad.png" in photos.skipped[0]
    assert "on_error" not in photos.skipped[0]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("data.train={}", "data.lr_crop_px=48"), "data.lr_crop_px or the largest scale"),
        (("data.validation={}", "validation.crop_px=48"), "validation.crop_px"),
        (("data.validation={}", "validation.crop_px=null", "validation.scales=[12]"), "validation.scales"),
    ],
)
def test_a_photo_that_is_too_small_names_the_key_that_wants_more(folder, overrides, key):
    config = tiny_config(*(override.format(folder) for override in overrides))
    with pytest.raises(
        UserError, match=rf"0\.png is 50 x 40, smaller than the \d+ px .*; lower {key} or remove it, or"
    ):
        open_photos(config)


def test_whatever_pillow_raises_for_a_damaged_file_is_one_line(folder, monkeypatch):
    def raises(image):
        raise TypeError("'float' object cannot be interpreted as an integer")  # seen on a damaged TIFF

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", raises)
    with pytest.raises(UserError, match=r"0\.png is not a readable image \('float'"):
        decode_rgb(folder / "0.png", 100)


def test_the_map_holds_the_photos_and_notices_changes(folder, tmp_path):
    data = DataConfig(cache=tmp_path / "cache")
    photos = open_photo_map(folder, data)
    for i, name in enumerate(photos.names):
        np.testing.assert_array_equal(photos[i], decode_rgb(folder / name, 100))
    again = open_photo_map(folder, data)
    assert again.fingerprint == photos.fingerprint
    Image.fromarray(noise(seed=9)).save(folder / "1.png")
    changed = open_photo_map(folder, data)
    assert changed.fingerprint != photos.fingerprint
    np.testing.assert_array_equal(changed[1], noise(seed=9))


def test_photos_that_are_trained_and_validated_on_are_noticed_by_their_contents(folder, tmp_path):
    data = DataConfig(cache=tmp_path / "cache")
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(noise(seed=7)).save(other / "0.png")
    train, validation = open_photo_map(folder, data), open_photo_map(other, data)
    assert trained_on(train, validation) is None
    (other / "again.png").write_bytes((folder / "2.png").read_bytes())
    found = trained_on(train, open_photo_map(other, data))
    assert found is not None
    assert found.startswith("warning: 1 of the 2 photos to validate on are trained on, too (again.png)")


def test_an_interrupted_decoding_is_done_again(folder, tmp_path):
    data = DataConfig(cache=tmp_path / "cache")
    open_photo_map(folder, data)
    (index,) = (tmp_path / "cache").rglob("index.json")
    index.unlink()
    assert len(open_photo_map(folder, data)) == 3


def test_shrinking_is_pillows_bicubic():
    hr = noise(60, 90)
    expected = np.asarray(Image.fromarray(hr).resize((30, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_bicubic(hr, (20, 30)), expected)


@pytest.mark.parametrize(
    ("scale", "lr", "hr"), [(2, (20, 25), (40, 50)), (3, (13, 16), (39, 48)), (2.5, (16, 20), (40, 50))]
)
def test_the_hr_image_is_cropped_to_what_the_lr_image_shows(scale, lr, hr):
    low, high = lr_hr_pair(noise(), scale)
    assert low.shape == (*lr, 3)
    assert high.shape == (*hr, 3)


def test_our_limit_replaces_pillows_own(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"20000 x 20000 pixels, more than data\.max_megapixels = 100"):
        decode_rgb(tmp_path / "wide.png", 100)


def test_threads_leave_pillows_limit_as_it_was(folder):
    before, path = Image.MAX_IMAGE_PIXELS, next(folder.glob("*.png"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode_rgb(path, 100), range(200)))
    assert before == Image.MAX_IMAGE_PIXELS


def test_hidden_files_are_no_photos(folder):
    (folder / "._0.png").write_bytes(b"a companion file of another system")
    assert [path.name for path in list_photos(folder)] == ["0.png", "1.png", "2.png"]
