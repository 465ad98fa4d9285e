"""The data sets of this field: where their archives are, what is in them, and on what terms.

Sizes and SHA-256 of DIV2K's archives are those that TensorFlow Datasets publishes for the files on
DIV2K's own server. The benchmarks come as EDSR's authors distribute them (HR images as PNG, LR ones by
MATLAB's imresize); they publish no digest, and the one here is what others recorded of that file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.download import Remote
from pipeline.errors import UserError


@dataclass(frozen=True)
class Archive:
    """A file to fetch.

    Attributes:
        file: its name, also on a mirror.
        official: the folder of the official server that it lies in.
        num_bytes: its size.
        sha256: its digest.
    """

    file: str
    official: str
    num_bytes: int
    sha256: str

    def remote(self, mirror: str | None, verified: bool) -> Remote:
        """Where to fetch it, and what to expect unless it is taken unverified."""
        url = f"{(mirror or self.official).rstrip('/')}/{self.file}"
        return Remote(url, self.num_bytes, self.sha256) if verified else Remote(url)


@dataclass(frozen=True)
class Dataset:
    """Images that belong together.

    Attributes:
        name: on the command line.
        folder: below the root; replaced as a whole.
        images: below the root, the folder to train on or to score.
        count: images in it.
        archive: what it comes in.
        member: a regular expression that a member's name ends on; its group is the place below ``folder``.
        use: "training" images are decoded into a memory map.
        terms: its licence, as far as there is one.
        homepage: where it was published.
    """

    name: str
    folder: str
    images: str
    count: int
    archive: Archive
    member: str
    use: str
    terms: str
    homepage: str

    def place(self, member: str) -> str | None:
        """Where a member of the archive belongs below ``folder``; None for what is no part of this."""
        found = re.search(rf"(?:^|/){self.member}$", member)
        return found[1] if found else None

    def images_in(self, root: Path) -> Path:
        """The folder of images."""
        return root / self.images


_ETH, _SNU = "https://data.vision.ee.ethz.ch/cvl/DIV2K", "https://cv.snu.ac.kr/research/EDSR"
_BENCHMARK = Archive(
    "benchmark.tar", _SNU, 250_112_000, "80c21c333bbf6ceb5308b7243761f8284478274413a97b96f1d63e9045fd93e8"
)
_ANY_PNG = r"([^/]+\.png)"


def _div2k(split: str, kind: str, num_bytes: int, sha256: str) -> Dataset:
    """``kind`` is HR, or X2 for the LR images of that scale."""
    hr = kind == "HR"
    file = f"DIV2K_{split}_HR.zip" if hr else f"DIV2K_{split}_LR_bicubic_{kind}.zip"
    folder = f"DIV2K/{split}/HR" if hr else f"DIV2K/{split}/LR_bicubic/{kind}"
    return Dataset(
        name=f"DIV2K_{split}" if hr else f"DIV2K_{split}_LR_{kind}",
        folder=folder,
        images=folder,
        count=800 if split == "train" else 100,
        archive=Archive(file, _ETH, num_bytes, sha256),
        member=_ANY_PNG,
        use="training" if hr else "LR images",
        terms="academic research only; each photo belongs to its author",
        homepage="https://data.vision.ee.ethz.ch/cvl/DIV2K/",
    )


def _benchmark(name: str, count: int, terms: str, homepage: str) -> Dataset:
    return Dataset(
        name=name,
        folder=name,
        images=f"{name}/HR",
        count=count,
        archive=_BENCHMARK,
        member=rf"{name}/((?:HR|LR_bicubic/X[0-9])/[^/]+\.png)",
        use="benchmark",
        terms=terms,
        homepage=homepage,
    )


_NONE_STATED = "none stated; used for research"
_ALL = (
    _div2k("train", "HR", 3_530_603_713, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
    _div2k("valid", "HR", 448_993_893, "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"),
    _benchmark("Set5", 5, _NONE_STATED, "https://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html"),
    _benchmark("Set14", 14, _NONE_STATED, "https://sites.google.com/site/romanzeyde/research-interests"),
    _benchmark(
        "B100",
        100,
        "non-commercial research and education",
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
    ),
    _benchmark("Urban100", 100, "Creative Commons photos from Flickr", "https://github.com/jbhuang0604/SelfExSR"),
    _div2k("train", "X2", 925_390_592, "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850"),
    _div2k("train", "X3", 427_847_282, "ad5c8e5507e2765823d3c2c5bd0934842efcd487c5370604c224090898b3163a"),
    _div2k("train", "X4", 246_914_039, "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a"),
    _div2k("valid", "X2", 117_763_600, "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57"),
    _div2k("valid", "X3", 54_513_392, "04b9a2ed3b4a0715d3924d3ae8514830c3328fac8d30512ce716d6f419e052a3"),
    _div2k("valid", "X4", 31_505_881, "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553"),
)
DATASETS = {dataset.name: dataset for dataset in _ALL}
BY_DEFAULT = tuple(dataset.name for dataset in _ALL if dataset.use != "LR images")
_GROUPS = {
    "div2k": ("DIV2K_train", "DIV2K_valid"),
    "benchmarks": ("Set5", "Set14", "B100", "Urban100"),
    "bsd100": ("B100",),
}
MANGA109 = "Manga109"
MANGA109_TERMS = (
    "Manga109 is given out after an agreement of its own, at http://www.manga109.org; once you have its images, name "
    "their folder with --manga109 FOLDER"
)


def chosen(names: Sequence[str]) -> list[Dataset]:
    """The data sets of these names, or of the groups DIV2K and benchmarks, in any case.

    Raises:
        UserError: no data set is called so.
    """
    found: list[Dataset] = []
    known = {name.lower(): (name,) for name in DATASETS} | _GROUPS
    for name in names:
        if name.lower() == MANGA109.lower():
            raise UserError(MANGA109_TERMS)
        if name.lower() not in known:
            close = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"did you mean {known[close[0]][0]}?" if close else f"there are {', '.join(DATASETS)}"
            raise UserError(f"no data set is called {name!r}; {hint}")
        found += [DATASETS[one] for one in known[name.lower()]]
    return list(dict.fromkeys(found))
