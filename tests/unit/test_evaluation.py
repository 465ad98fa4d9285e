import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import anysr
from benchmarks.model_card import suite_folder
from pipeline.data.imresize import matlab_bicubic
from pipeline.errors import UserError
from pipeline.evaluation.perceptual import LpipsAlex
from pipeline.evaluation.plan import Candidate, Evaluation
from pipeline.evaluation.protocols import PROTOCOLS, protocol_for
from pipeline.evaluation.rows import Row, read_rows
from pipeline.evaluation.scales import Scale, named_sweeps, parse_scales, sides
from pipeline.evaluation.score import score
from pipeline.evaluation.suites import open_suite
from pipeline.evaluation.summary import print_summary
from pipeline.evaluation.upscalers import open_upscaler
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("name", "scale", "border"),
    [
        ("liif", Scale(2, 2), (2, 2)),
        ("liif", Scale(2.5, 2.5), (3, 3)),
        ("liif", Scale(2, 3.1), (2, 4)),
        ("liif-div2k", Scale(4, 4), (10, 10)),
        ("anysr", Scale(2, 2), (3, 3)),
        ("anysr", Scale(2.5, 3.1), (3, 4)),
        ("arbsr", Scale(2.1, 4), (3, 4)),
        ("basicsr", Scale(3, 3), (3, 3)),
    ],
)
def test_borders(name, scale, border):
    assert PROTOCOLS[name].border(scale) == border


def test_a_case_worked_by_hand_tells_the_protocols_apart():
    """20 x 20, x2, an error of 0.3/255 everywhere but in a ring: 0.5 in its third row and column from the edge.

    liif, arbsr and basicsr cut 2 and see the ring (60 of 256 pixels), anysr cuts 3 and liif-div2k 8.
    In luma an error d in all colours is d * 219/255. Rounded, as by arbsr and basicsr, 0.3/255 vanishes.
    """
    hr = torch.zeros(3, 20, 20)
    sr = torch.full((3, 20, 20), 0.3 / 255)
    ring = torch.zeros(20, 20, dtype=torch.bool)
    ring[2:18, 2:18] = True
    ring[3:17, 3:17] = False
    sr[:, ring] = 102 / 255
    small, large, luma = (0.3 / 255) ** 2, 0.4**2, (219 / 255) ** 2
    both = luma * (60 * large + 196 * small) / 256
    ring_alone = luma * 60 * large / 256
    expected = {"liif": both, "arbsr": ring_alone, "basicsr": ring_alone, "anysr": luma * small}
    for name, mse in {**expected, "liif-div2k": small}.items():
        assert PROTOCOLS[name].psnr(sr, hr, Scale(2, 2)) == pytest.approx(-10 * math.log10(mse), abs=1e-4), name


def test_liif_scores_div2k_in_its_own_way():
    assert protocol_for("liif", "DIV2K_valid").name == "liif-div2k"
    assert protocol_for("liif", "Set5").name == "liif"
    assert protocol_for("anysr", "DIV2K_valid").name == "anysr"
    with pytest.raises(UserError, match="choose one of liif"):
        protocol_for("psnr", "Set5")


def test_scales_are_parsed():
    assert parse_scales(["2,2x3.1", "2"]) == (Scale(2, 2), Scale(2, 3.1))
    sweep = parse_scales(["1.1:4.0:0.1"])
    assert len(sweep) == 30
    assert sweep[9] == Scale(2.0, 2.0)
    assert str(sweep[-1]) == "4"


@pytest.mark.parametrize(
    "text", ["0.5", "2x0.9", "two", "2x3x4", "1:4", "4:1:0.1", "1:2:0", "nan", "inf", "", "1:1e9:0.1"]
)
def test_what_is_no_scale(text):
    with pytest.raises(UserError):
        parse_scales([text])


def test_sweeps_by_name():
    assert len(named_sweeps(["paper"], [])) == 30
    assert named_sweeps(["benchmark", "paper"], [])[:3] == (Scale(2, 2), Scale(3, 3), Scale(4, 4))
    assert all(scale.height > 4 for scale in named_sweeps(["ood"], []))
    assert all(scale.height != scale.width for scale in named_sweeps(["asymmetric"], []))
    assert [str(scale) for scale in named_sweeps(["boundaries"], [1.75, 2.55])] == ["1.7", "1.8", "2.5", "2.6"]
    with pytest.raises(UserError, match="several scale groups"):
        named_sweeps(["boundaries"], [])


@pytest.mark.parametrize(
    ("edge", "below", "above"), [(1.75, 1.7, 1.8), (2.0, 1.9, 2.0), (3.0, 2.9, 3.0), (1.05, 1, 1.1)]
)
def test_both_sides_of_an_edge(edge, below, above):
    assert sides(edge) == (Scale(below, below), Scale(above, above))


def save(path, height=32, width=40, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def paired(tmp_path, hr, lr, scale="2"):
    """The LR file that each HR file gets."""
    folders = []
    for kind, names, size in (("hr", hr, (32, 40)), ("lr", lr, (16, 20))):
        folders.append(tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}")
        for name in names:
            save(folders[-1] / name, *size)
    (one,) = parse_scales([scale])
    suite = open_suite(f"s={folders[0]},{folders[1]}", [one])
    return {h.name: low.relative_to(folders[1]).as_posix() for h, low in zip(suite.hr, suite.lr[one], strict=True)}


def test_lr_images_are_paired_by_name_and_else_by_number(tmp_path):
    # Sorted by name, a1x2 comes before ax2, and 10 before 2.
    assert paired(tmp_path, ["a.png", "a1.png"], ["ax2.png", "a1x2.png"]) == {"a.png": "ax2.png", "a1.png": "a1x2.png"}
    assert paired(tmp_path, ["a.png", "a1.png"], ["a_low.png", "a1_low.png"])["a.png"] == "a_low.png"
    numbered = paired(tmp_path, ["1.png", "2.png", "10.png"], ["001_LR.png", "002_LR.png", "010_LR.png"])
    assert numbered == {"1.png": "001_LR.png", "2.png": "002_LR.png", "10.png": "010_LR.png"}
    urban = paired(tmp_path, ["img_001_SRF_2_HR.png", "img_002_SRF_2_HR.png"], ["low/img1.png", "low/img2.png"])
    assert urban["img_002_SRF_2_HR.png"] == "low/img2.png"


@pytest.mark.parametrize("lr", [["0.png", "1.png", "2.png"], ["1.png", "2.png", "02.png"], ["a.png", "b.png", "c.png"]])
def test_lr_images_that_cannot_be_paired_are_refused(tmp_path, lr):
    with pytest.raises(UserError, match=r"not clear which image in .* is the LR image of \S+\.png; call it"):
        paired(tmp_path, ["1.png", "2.png", "3.png"], lr)


def test_of_a_data_set_the_hr_images_alone_are_scored(tmp_path):
    """In the layout of jobs/prepare_data.py, and where folders of LR images lie beside others."""
    for name in ("b.png", "a.png"):
        save(tmp_path / "Set5/HR" / name)
        save(tmp_path / "Set5/LR_bicubic/X2" / name, 16, 20)
        save(tmp_path / "mine/DIV2K_HR" / name)
        save(tmp_path / "mine/DIV2K_LR_bicubic/X2" / name, 16, 20)
    said: list[str] = []
    two = parse_scales(["2"])
    suite = open_suite(f"{tmp_path}/Set5,{tmp_path}/Set5/LR_bicubic/X{{scale}}", two, said.append)
    assert (suite.name, [suite.image_name(i) for i in range(2)]) == ("Set5", ["a.png", "b.png"])
    assert [low.parent.name for low in suite.lr[two[0]]] == ["X2", "X2"]
    assert said == [f"suite Set5: the 2 images in {tmp_path}/Set5/HR are scored, and nothing beside that folder"]
    assert len(open_suite(f"{tmp_path}/mine", two).hr) == 2


@pytest.mark.parametrize(
    ("folder", "name"),
    [("DIV2K/valid/HR", "DIV2K_valid"), ("DIV2K/valid", "DIV2K_valid"), ("Set5/HR", "Set5"), ("B100", "B100")],
)
def test_a_suite_is_called_as_its_data_set(tmp_path, folder, name):
    """LIIF's protocol knows DIV2K by it."""
    save(tmp_path / folder / "a.png")
    suite = open_suite(str(tmp_path / folder), parse_scales(["2"]))
    assert suite.name == name
    assert (protocol_for("liif", suite.name).name == "liif-div2k") == name.startswith("DIV2K")


@pytest.mark.parametrize("folder", ["BSD100", "B100"])
def test_cards_take_bsd100_by_either_name(tmp_path, folder):
    with pytest.raises(UserError, match=r"there is no folder BSD100 or B100 in .*; get it as --help says, or leave"):
        suite_folder(tmp_path, "BSD100")
    (tmp_path / folder / "HR").mkdir(parents=True)
    assert suite_folder(tmp_path, "BSD100") == tmp_path / folder


def test_turned_images_are_paired_as_they_are_shown(tmp_path):
    """Pillow turns a TIFF by itself, a JPEG it leaves as stored."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.tif", "b.jpg"):
        (tmp_path / "hr").mkdir(exist_ok=True)
        Image.new("RGB", (40, 32)).save(tmp_path / "hr" / name, exif=turned)
        save(tmp_path / f"lr/{Path(name).stem}.png", height=20, width=16)
    (scale,) = parse_scales(["2"])
    assert len(open_suite(f"s={tmp_path}/hr,{tmp_path}/lr", [scale]).lr[scale]) == 2


def test_what_is_no_suite(tmp_path):
    scales = parse_scales(["2"])
    save(tmp_path / "hr/a.png")
    save(tmp_path / "hr/b.png")
    save(tmp_path / "one/a.png", 16, 20)
    save(tmp_path / "wrong/a.png", 16, 20)
    save(tmp_path / "wrong/b.png", 16, 21)
    (tmp_path / "empty").mkdir()
    cases = {
        f"s={tmp_path}/nothing": "there is no folder",
        f"s={tmp_path}/empty": "holds no image",
        f"s={tmp_path}/hr,{tmp_path}/one": "2 HR images in .*, but 1 LR images",
        f"s={tmp_path}/hr,{tmp_path}/wrong": "is 21 x 16, but .* is 20 x 16",
        f"={tmp_path}/hr": "not a suite",
    }
    for text, message in cases.items():
        with pytest.raises(UserError, match=message):
            open_suite(text, scales)
    with pytest.raises(UserError, match="cannot serve 2 scales"):
        open_suite(f"s={tmp_path}/hr,{tmp_path}/one", parse_scales(["2", "3"]))


def test_paths_of_a_suite_may_hold_what_parts_its_name_and_folders(tmp_path, monkeypatch):
    for folder, size in (("d/x=1,y/HR", (20, 16)), ("d/x=1,y/LR/X=2", (10, 8))):
        save(tmp_path / folder / "0.png", *size)
    monkeypatch.chdir(tmp_path)
    scales = parse_scales(["2"])
    for text, name in (
        ("s=d/x=1,y/HR,d/x=1,y/LR/X={scale}", "s"),
        ("d/x=1,y/HR,d/x=1,y/LR/X={scale}", "x=1,y"),
        (f"{tmp_path}/d/x=1,y", "x=1,y"),
        ("s=d/x=1,y", "s"),
    ):
        suite = open_suite(text, scales)
        assert (suite.name, suite.folder) == (name, tmp_path / "d/x=1,y/HR")
        assert len(suite.lr.get(scales[0], ())) == ("LR" in text)
    monkeypatch.chdir(tmp_path / "d")
    assert open_suite("x=1,y", scales).name == "x=1,y"
    with pytest.raises(UserError, match=r"suite x: there is no folder .*/d/2"):
        open_suite("x=2", scales)


def test_a_models_path_may_hold_an_equals_sign(tmp_path, monkeypatch):
    (tmp_path / "a=b").mkdir()
    anysr.save(anysr.build("ecbsr-m4c16-x4"), tmp_path / "a=b/m.safetensors")
    monkeypatch.chdir(tmp_path)
    for text in ("mine=a=b/m.safetensors", f"mine={tmp_path}/a=b/m.safetensors"):
        assert open_upscaler(text, "pil").name == "mine"
    assert open_upscaler("a=b/m.safetensors", "pil").name == "m.safetensors"


def test_lpips_is_the_packages(shared):
    import lpips

    weights = shared / "weights/lpips_alexnet_features_fp16.pth"
    images = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    trunk = {name: tensor.float() for name, tensor in torch.load(weights, weights_only=True).items()}
    own = {name: trunk["features." + name.split(".", 1)[1]] for name in package.net.state_dict()}
    package.net.load_state_dict(own)
    expected = float(package(images[:1], images[1:], normalize=True).detach())
    assert expected > 0.1
    assert LpipsAlex(weights)(images[0], images[1]) == pytest.approx(expected, abs=1e-6)


def test_lpips_says_where_its_weights_are_to_be_had(tmp_path):
    with pytest.raises(UserError, match=r"https://download\.pytorch\.org/models/alexnet-\S+ there"):
        LpipsAlex(tmp_path / "trunk.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "trunk.pth")
    with pytest.raises(UserError, match="needs the keys features"):
        LpipsAlex(tmp_path / "trunk.pth")


def test_lpips_takes_all_of_torchvisions_alexnet(tmp_path):
    """Its file holds the classifier, too; here without that one's 55 million weights."""
    from torchvision.models import AlexNet

    pytest.importorskip("lpips")
    content = {name: tensor for name, tensor in AlexNet().state_dict().items() if name.startswith("features")}
    torch.save(content | {"classifier.1.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    assert LpipsAlex(tmp_path / "alexnet.pth")(torch.zeros(3, 64, 64), torch.ones(3, 64, 64)) > 0


def test_exact_images_count_up_to_120_db():
    rows = [
        Row(
            "d",
            "s",
            f"{image}.png",
            "f",
            scale,
            scale,
            "pil",
            "liif",
            "auto",
            "psnr",
            "m",
            "any-scale",
            "liif: Y",
            2,
            2,
            db,
        )
        for scale, values in ((1.0, (math.inf, 166.96)), (1.5, (math.inf, 40.0)))
        for image, db in enumerate(values)
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(rows, console)
    first, second = (line for line in console.export_text().splitlines() if "×1" in line)
    assert "exact" in first
    assert "80.00" in second  # not hidden behind the exact one


def scene(tmp_path, lr="pil", protocol="liif", metrics=("psnr",), models=("bicubic",), scales=("2",)):
    parsed = parse_scales(scales)
    opened = [open_upscaler(str(model), lr) for model in models]
    candidates = tuple(Candidate(one, one.subnets(["auto", "full"])) for one in opened)
    return Evaluation(candidates, (open_suite(f"s={tmp_path}/hr", parsed),), parsed, metrics, protocol, lr)


def test_matlabs_bicubic_is_scored_on_8_bit_luma_under_protocols_of_luma(tmp_path):
    """As the classic scripts do: rgb2ycbcr, imresize down and up in doubles, rounding, PSNR."""
    save(tmp_path / "hr/a.png")
    pixels = np.asarray(Image.open(tmp_path / "hr/a.png"))
    luma = np.floor(pixels @ np.array([65.481, 128.553, 24.966]) / 255 + 16 + 0.5)[..., None]
    back = np.clip(np.floor(matlab_bicubic(matlab_bicubic(luma, (16, 20)), (32, 40)) + 0.5), 0, 255)
    expected = 10 * np.log10(255**2 / np.mean((back - luma)[2:-2, 2:-2] ** 2))
    for protocol in ("liif", "basicsr"):
        evaluation = scene(tmp_path, "matlab", protocol)
        (row,) = score(evaluation, evaluation.units()[0])
        assert row.value == pytest.approx(expected, abs=1e-4)
        assert "8 bits" in row.scoring
    evaluation = scene(tmp_path, "matlab", "liif-div2k", scales=("1.5",))
    (row,) = score(evaluation, evaluation.units()[0])
    assert "RGB" in row.scoring


def test_equal_subnets_are_run_once(tmp_path):
    save(tmp_path / "hr/a.png", 48, 48)
    anysr.save(anysr.build(tiny_config().model), tmp_path / "m.safetensors")
    evaluation = scene(tmp_path, models=[tmp_path / "m.safetensors"], scales=("1.5", "4"), metrics=("psnr", "ssim"))
    network = evaluation.candidates[0].upscaler
    calls = []
    network.model.register_forward_hook(lambda *_: calls.append(1))
    narrow, full = (score(evaluation, unit) for unit in evaluation.units())
    assert len(calls) == 3
    assert [(row.subnet, row.metric) for row in full] == [(s, m) for s in ("auto", "full") for m in ("psnr", "ssim")]
    assert full[0].value == full[2].value
    assert narrow[0].subnet == "auto"


def test_grey_and_odd_images_and_any_thread_count_give_the_same(tmp_path):
    (tmp_path / "hr").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 51), dtype=np.uint8)).save(tmp_path / "hr/grey.png")
    evaluation = scene(tmp_path, metrics=("psnr", "ssim"), scales=("1.7", "2x3.1"))
    found = [[row.value for unit in evaluation.units() for row in score(evaluation, unit)] for _ in range(2)]
    assert found[0] == found[1]
    assert all(10 < value < 100 or 0 < value < 1 for value in found[0])


def test_models_need_names_of_their_own(tmp_path):
    save(tmp_path / "hr/a.png")
    with pytest.raises(UserError, match="name of its own"):
        scene(tmp_path, models=("bicubic", "bicubic"))
    with pytest.raises(UserError, match="the same model"):
        scene(tmp_path, models=("bicubic", "again=bicubic"))
    with pytest.raises(UserError, match="a released checkpoint"):
        open_upscaler(str(tmp_path / "none.safetensors"), "pil")
    assert open_upscaler("plain=bicubic", "pil").name == "plain"


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"3", b'{"model": "net"}'])
def test_a_damaged_line_of_the_journal_is_named_and_a_last_one_cut_short_left_out(tmp_path, damage):
    key = ("d", "s", "a.png", "e", 2.0, 2.0, "pil", "liif", "auto", "psnr")
    row = Row(*key, "net", "any-scale", "Y", 2, 2, 30.0)
    line, journal = json.dumps(asdict(row)).encode(), tmp_path / "rows.journal.jsonl"
    journal.write_bytes(line + b"\n" + line[:20])
    assert read_rows(tmp_path) == [row]
    journal.write_bytes(line + b"\n" + damage + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=f"line 2 of {journal} is damaged; remove that line, and give the command"):
        read_rows(tmp_path)
