"""One ONNX graph from two: what is computed once per image, inside an If, and the rows that are asked for.

An If runs one of its branches alone. So a caller who hands back the features that an earlier call
answered pays for the rows only, and one who does not know of all this gives an image and a scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from torch import Tensor
from torch.export import Dim, ExportedProgram

from anysr.export.network import ALL_ROWS, WHOLE_IMAGE, Answer, Prepare
from anysr.model import AnySR

OPSET = 20
# Any, but not square, and not of sizes that torch takes for special ones.
_EXAMPLE_LR, _EXAMPLE_SCALE = (12, 17), (2.0, 2.5)


def example(scale: tuple[float, float] = _EXAMPLE_SCALE) -> tuple[Tensor, Tensor, Tensor]:
    """(lr, scale, size) to trace with."""
    lr = torch.linspace(0, 1, 3 * _EXAMPLE_LR[0] * _EXAMPLE_LR[1]).view(1, 3, *_EXAMPLE_LR)
    return lr, torch.tensor(scale, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)


@torch.no_grad()
def build_graph(network: AnySR) -> ir.Model:
    """The graph of a network of one subnet: lr, scale, size, rows, window, features (…) to sr, features (…)."""
    once, rows = Prepare(network).eval(), Answer(network).eval()
    lr, scale, size = example(_scale_of(network))
    free = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    # Of the right shape: running the loops eagerly would compile them first.
    feat = torch.zeros(1, network.encoder.out_channels, *_EXAMPLE_LR)
    prepared = (feat, *(torch.zeros(shape) for shape in rows.decoder.state_shapes))
    prepare = torch.export.export(once, (lr, scale, size), dynamic_shapes=(free, None, None), strict=False)
    shapes = (free, None, None, None, None, (free, *[None] * (len(prepared) - 1)))
    given = (lr, scale, size, torch.tensor(ALL_ROWS), torch.tensor(WHOLE_IMAGE), *prepared)
    answer = torch.export.export(rows, given, dynamic_shapes=shapes, strict=False)
    names = ["features", *(f"state{i}" for i in range(len(prepared) - 1))]
    return _joined(_converted(prepare, names), _converted(answer, ["sr"]), names, prepared)


def _scale_of(network: AnySR) -> tuple[float, float]:
    factor = network.config.fixed_factor
    return _EXAMPLE_SCALE if factor is None else (float(factor), float(factor))


def _converted(program: ExportedProgram, outputs: Sequence[str]) -> ir.Model:
    converted = torch.onnx.export(program, dynamo=True, opset_version=OPSET, output_names=list(outputs), verbose=False)
    assert converted is not None
    return converted.model


def _joined(prepare: ir.Model, answer: ir.Model, names: Sequence[str], prepared: Sequence[Tensor]) -> ir.Model:
    graph, once = answer.graph, prepare.graph
    lr, scale, size, rows, window, *given = graph.inputs
    _prefix_names(once, "prepare.")
    for inner, outer in zip(once.inputs, (lr, scale, size), strict=True):
        inner.replace_all_uses_with(outer)
    once.inputs.clear()
    ready = [ir.Value(name=f"{name}_ready", shape=v.shape, type=v.type) for name, v in zip(names, given, strict=True)]
    for value, now in zip(given, ready, strict=True):
        value.replace_all_uses_with(now)
    for value, name, default in zip(given, names, prepared, strict=True):
        value.shape = ir.Shape([f"{name}_{i}" if n == 0 else n for i, n in enumerate(_empty(default))])
        value.name = f"{name}_given"
    graph.insert_before(graph[0], _choice(once, given, ready))
    for value, name in zip(ready, names, strict=True):
        value.name = name
    graph.outputs.extend(ready)
    defaults = [
        np.zeros(2, np.int64),
        np.array(ALL_ROWS),
        np.array(WHOLE_IMAGE),
        *(np.zeros(_empty(t), np.float32) for t in prepared),
    ]
    for value, array in zip((size, rows, window, *given), defaults, strict=True):
        value.const_value = ir.tensor(array, name=value.name)
        graph.register_initializer(value)
    for value in [v for v in (scale, size) if not v.uses()]:  # a network of one factor
        graph.inputs.remove(value)
        graph.initializers.pop(str(value.name), None)
    lr.shape, graph.outputs[0].shape = ir.Shape([1, 3, "h", "w"]), ir.Shape([1, 3, "rows", "W"])
    ready[0].shape = ir.Shape([1, prepared[0].shape[1], "h", "w"])
    RemoveUnusedNodesPass()(answer)
    ClearMetadataAndDocStringPass()(answer)  # where this machine keeps its files
    return answer


def _prefix_names(graph: ir.Graph, prefix: str) -> None:
    """Of all values and nodes, in graphs within the graph too: a name stands for one value in a whole model."""
    graphs = {id(graph): graph}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        assert isinstance(node.graph, ir.Graph)
        graphs[id(node.graph)] = node.graph
        for value in node.outputs:
            value.name = f"{prefix}{value.name}"
        node.name = f"{prefix}{node.name}"
    for each in graphs.values():
        for value in (*each.inputs, *list(each.initializers.values())):
            value.name = f"{prefix}{value.name}"


def _choice(once: ir.Graph, given: Sequence[ir.Value], ready: Sequence[ir.Value]) -> list[ir.Node]:
    """Nodes that answer ``given`` where there is something in it, else what ``once`` computes."""
    named = {name: [ir.Value(name=f"choice.{name}")] for name in ("count", "zero", "is_empty")}
    count = ir.node("Size", [given[0]], outputs=named["count"])
    zero = ir.node("Constant", [], {"value": ir.tensor(np.array(0, np.int64))}, outputs=named["zero"])
    is_empty = ir.node("Equal", [count.outputs[0], zero.outputs[0]], outputs=named["is_empty"])
    copies = [ir.node("Identity", [value], outputs=[ir.Value(name=f"{value.name}.kept")]) for value in given]
    kept = ir.Graph((), [copy.outputs[0] for copy in copies], nodes=copies, name="given")
    branches = [ir.AttrGraph("then_branch", once), ir.AttrGraph("else_branch", kept)]
    return [count, zero, is_empty, ir.Node("", "If", [is_empty.outputs[0]], branches, outputs=ready)]


def _empty(like: Tensor) -> tuple[int, ...]:
    return (like.shape[0], like.shape[1], *(0 for _ in like.shape[2:])) if like.dim() == 4 else (0, *like.shape[1:])
