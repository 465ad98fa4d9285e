"""Files for other runtimes, which appear once they have been found to answer as the network does."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

import anysr_runtime
from anysr.export.check import check_answers
from anysr.export.description import FORMAT, KEY, describe_subnet
from anysr.export.network import Enlarge
from anysr.files import whole_file, write_whole
from anysr.geometry import Pair
from anysr.model import AnySR
from anysr.serialization import save

Format = Literal["onnx", "pt2", "safetensors"]
MANIFEST = "manifest.json"


def export_folder(model: AnySR, folder: Path, kind: Format, name: str) -> Iterator[tuple[Path, float]]:
    """Write every subnet, and for ONNX the manifest and the runtime beside them.

    Args:
        model: the network, in float32 on the CPU.
        folder: made if it is not there.
        kind: of files.
        name: of the network, for people.

    Yields:
        Each file once it is there, and its largest difference from the network.

    Raises:
        ValueError: a file answers differently; it is not kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subnets = []
    for subnet in model.subnets:
        path = folder / f"subnet{subnet.index}.{kind}"
        yield path, export_file(model, subnet.index, path, kind, name)
        subnets.append({"file": path.name, **describe_subnet(model, subnet.index, name)})
    if kind == "onnx":
        write_whole(folder / "anysr_runtime.py", Path(anysr_runtime.__file__).read_bytes())
        write_whole(
            folder / MANIFEST, json.dumps({"format": FORMAT, "name": name, "subnets": subnets}, indent=2).encode()
        )


def export_file(model: AnySR, subnet: int, path: Path, kind: Format, name: str) -> float:
    """Write one subnet; its largest difference from the network.

    Raises:
        ValueError: it answers differently; nothing is kept.
    """
    model = copy.deepcopy(model).cpu().float().eval()  # files hold float32, whatever the network was kept in
    network = model.extract(model.subnets[subnet].index).fuse()
    about = describe_subnet(model, subnet, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, f".{kind}") as partial:
        return _WRITERS[kind](model, subnet, network, partial, about)


def _write_onnx(model: AnySR, subnet: int, network: AnySR, path: Path, about: dict[str, Any]) -> float:
    import onnx_ir
    import onnxruntime

    from anysr.export.onnx_graph import build_graph

    with _quiet():
        graph = build_graph(network)
    graph.metadata_props[KEY] = json.dumps(about)
    onnx_ir.save(graph, path)
    session = onnxruntime.InferenceSession(path, _session_options(), providers=["CPUExecutionProvider"])
    inputs = {value.name for value in session.get_inputs()}

    def answer(lr: Tensor, scale: Pair) -> np.ndarray:
        given = {"lr": lr.numpy(), "scale": np.array(scale)}
        return np.asarray(session.run(["sr"], {key: value for key, value in given.items() if key in inputs})[0])

    return check_answers(model, subnet, answer, "the ONNX graph")


def _write_pt2(model: AnySR, subnet: int, network: AnySR, path: Path, about: dict[str, Any]) -> float:
    from anysr.export.onnx_graph import example

    whole = Enlarge(network).eval().requires_grad_(False)
    with torch.no_grad(), _quiet():
        free = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        program = torch.export.export(whole, example(), dynamic_shapes=(free, None, None), strict=False)
    for graph in [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]:
        for node in graph.nodes:
            node.meta.pop("stack_trace", None)  # where this machine keeps its files is nobody's business
    torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(about)})
    module = torch.export.load(path).module()

    def answer(lr: Tensor, scale: Pair) -> np.ndarray:
        sr: Tensor = module(lr, torch.tensor(scale, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
        return sr.numpy()

    return check_answers(model, subnet, answer, "the exported program")


def _write_safetensors(model: AnySR, subnet: int, network: AnySR, path: Path, _: dict[str, Any]) -> float:
    save(network, path)
    return check_answers(model, subnet, lambda lr, scale: network(lr, scale).numpy(), "the extracted network")


_WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2, "safetensors": _write_safetensors}


def _session_options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return options


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks to its developers."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
