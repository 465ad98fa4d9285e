"""What every named network costs, as Markdown: `python -m benchmarks.cost_table > docs/costs.md`."""

from __future__ import annotations

import torch

import anysr
from anysr import AnySR

LR_SIZE = (256, 256)
SCALES = (1.5, 2.0, 3.0, 4.0)

HEAD = """# What the networks cost

Parameters and multiply-adds for one 256 × 256 input, counted on the published, textbook form of each network
(`anysr.cost`). For the any-resource networks each scale runs through its own subnet; *saved* is against their own full
network at that scale: of the whole network, and of the encoder alone. The paper's widths leave the decoder whole, so
the whole saves little wherever the decoder is the larger part; `decoder_width` in a group narrows it too.

Made by `python -m benchmarks.cost_table`.
"""


def main() -> None:
    """Print the table."""
    any_scale = [name for name in anysr.list_models() if name.endswith("-anysr")]
    print(HEAD)
    print("## Any scale, any resource\n")
    print("| network | parameters, M | " + " | ".join(f"×{s:g}: G, saved (encoder)" for s in SCALES) + " |")
    print("|---|--:|" + "--:|" * len(SCALES))
    for name in any_scale:
        model = _on_paper(name)
        cells = " | ".join(_cell(model, scale) for scale in SCALES)
        print(f"| {name} | {anysr.cost(model, LR_SIZE, 2.0, 'full').params / 1e6:.2f} | {cells} |")
    print("\n## As published\n")
    print("| network | parameters, M | " + " | ".join(f"×{s:g}: G" for s in SCALES) + " |")
    print("|---|--:|" + "--:|" * len(SCALES))
    for name in anysr.list_models():
        if name not in any_scale:
            _published_row(name)


def _on_paper(name: str) -> AnySR:
    with torch.device("meta"):
        return anysr.build(name)


def _cell(model: AnySR, scale: float) -> str:
    own, full = (anysr.cost(model, LR_SIZE, scale, subnet) for subnet in ("auto", "full"))
    return f"{own.macs / 1e9:.0f}, {1 - own.macs / full.macs:.0%} ({1 - own.encoder_macs / full.encoder_macs:.0%})"


def _published_row(name: str) -> None:
    model = _on_paper(name)
    factor = model.config.fixed_factor
    cells = [f"{anysr.cost(model, LR_SIZE, s).macs / 1e9:.0f}" if factor in (None, s) else "–" for s in SCALES]
    params = anysr.cost(model, LR_SIZE, factor or 2.0).params / 1e6
    print(f"| {name} | {params:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
