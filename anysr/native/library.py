"""Builds ``kernels.cpp`` and ``resize.cpp`` for this processor and loads them.

Nothing happens at import time. The first call compiles (a few seconds, once for each processor,
compiler and version of the source) into :func:`anysr.files.cache_root`. Without a compiler, or on a
processor without AVX-512, the plain PyTorch path is taken (Pillow for the resize, which needs no
AVX-512); ``ANYSR_KERNELS=off`` asks for that.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path

import torch

from anysr.files import cache_root

KERNELS, RESIZE = (Path(__file__).with_name(name) for name in ("kernels.cpp", "resize.cpp"))
# FMA contraction is GCC's default; errno and traps would keep loops from becoming vectors.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
OFF_VALUES = ("0", "off", "false", "no")

_lock = threading.Lock()


def are_wanted() -> bool:
    """Whether ``ANYSR_KERNELS`` leaves compiled kernels on."""
    return os.environ.get("ANYSR_KERNELS", "on").lower() not in OFF_VALUES


def is_plain_wanted() -> bool:
    """Whether torch's operators must do it: gradients and traces know nothing of kernels."""
    is_tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or is_tracing


def kernels() -> ctypes.CDLL | None:
    """The decoders' kernels, or None where there are none or ``ANYSR_KERNELS`` is "off"."""
    return _wanted(KERNELS)


def resizer() -> ctypes.CDLL | None:
    """The resize of photos, likewise."""
    return _wanted(RESIZE)


def _wanted(source: Path) -> ctypes.CDLL | None:
    if not are_wanted():
        return None
    with _lock:
        return _load(source)


@cache
def _load(source: Path) -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None or (source == KERNELS and not torch.cpu.get_capabilities().get("avx512_f")):
        return None
    try:
        library = ctypes.CDLL(str(_built(source, compiler)))
        if source == KERNELS:
            if hasattr(process := ctypes.CDLL(None), "GOMP_parallel"):
                library.anysr_use_openmp(process.GOMP_parallel)
            library.anysr_has_tiles()  # asks the system for leave to use them, once for the process
        return library
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        first = detail.strip().splitlines()[0] if detail.strip() else type(error).__name__
        warnings.warn(
            f"compiled kernels are off, the plain path is used: {first}; ANYSR_KERNELS=off silences this", stacklevel=2
        )
        return None


def _built(source: Path, compiler: str) -> Path:
    """The library for a source, this compiler and processor, built if it is not in the cache."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    key = hashlib.sha256("\0".join((source.read_text(), version, " ".join(FLAGS), _processor())).encode())
    library = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        # Compiled aside and moved, so that another process never loads half a file.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            fresh = Path(folder) / library.name
            command = [compiler, *FLAGS, str(source), "-o", str(fresh)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            fresh.replace(library)
    return library


def _cache_folder() -> Path:
    folder = cache_root()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _process_folder()


@cache
def _process_folder() -> Path:
    """A private folder that ends with the process, where there is no home to write to."""
    folder = tempfile.TemporaryDirectory(prefix="anysr-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith("flags")), platform.processor())
