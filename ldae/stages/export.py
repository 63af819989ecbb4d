"""Stage: writes a trained encoder as a folder that timm loads as a plain Vision Transformer."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from safetensors.torch import save_file

from ldae.parts.folding import Folded, fold
from ldae.parts.loading import FinishedRun, open_finished
from ldae.runtime.files import atomic_write, write_text
from ldae.runtime.progress import log
from ldae.study.base import PATCH
from ldae.study.methods import METHODS
from ldae.study.spec import Features

ARCHITECTURE = "vit_base_patch16_224"  # timm's name of the plain Vision Transformer; the arguments below set its size
TIMM = "1.0.16"  # the first version that loads such a folder
LICENCE = "apache-2.0"
FOLDING = """
Its conditioning at time step t = {time} is folded into the weights, and so is all that stands between the
pixels and the first block: no time step, no label and no tokenizer is needed.
"""


def export(model: Path, *, out: Path, features: Features, about: dict[str, str]) -> None:
    """Writes `model.safetensors`, `README.md` and `config.json`, for `timm.create_model("local-dir:...")`.

    `model` is the folder of a finished run inside the results of a scale, `features` are the activations that represent
    an image, and `about` has more lines for the model card by their headings.

    Raises:
        ValueError, OSError: in one line, for a folder that holds no run, an encoder that is no plain Vision
            Transformer, or an output folder that holds a run or another README.
    """
    if (out / "run.json").exists():
        raise ValueError(f"{out}: holds a trained run, whose weights would be lost; name another folder with --out")
    if (out / "README.md").exists() and not (out / "model.safetensors").exists():
        raise ValueError(f"{out}: holds a README.md of something else; name another folder with --out")
    finished = open_finished(model)
    run, size = finished.run, finished.manifest.size
    if features.noisy:
        raise ValueError(f"{run.row}: is probed with noise on its input, which no plain encoder adds by itself")
    try:
        folded = fold(finished.network, time=features.time, offset=features.offset)
    except ValueError as error:
        raise ValueError(f"{model}: {run.row} cannot be exported: {error}") from None
    about = about | {"linear probe, validation": accuracy(finished, features)}
    card = model_card(folded, finished, features, about, out)
    with atomic_write(out / "model.safetensors") as partial:
        save_file(folded.state, partial, metadata={"format": "pt"})
    write_text(out / "README.md", card)
    write_text(out / "config.json", json.dumps(timm_config(folded, size, run.row), indent=1) + "\n")
    log(f'{out}: timm.create_model("local-dir:{out}", pretrained=True)')


def timm_config(folded: Folded, size: int, row: str) -> dict[str, Any]:
    """The model's configuration for timm: its size, and how images of `size` pixels are prepared for it."""
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": folded.width,
        "global_pool": "avg",
        "model_args": {
            "img_size": size,
            "patch_size": PATCH,
            "embed_dim": folded.width,
            "depth": folded.depth,
            "num_heads": folded.heads,
            "class_token": False,
            "global_pool": "avg",
            "final_norm": False,
            "fc_norm": False,
            "act_layer": folded.activation,
        },
        "pretrained_cfg": {
            "tag": row,
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],  # maps pixels to [-1, 1]
            "std": [0.5, 0.5, 0.5],
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": LICENCE,
            "paper_ids": "arXiv:2401.14404",
        },
    }


def accuracy(finished: FinishedRun, features: Features) -> str:
    """The linear probe's accuracy of this encoder and of its random weights, as far as the results include them."""
    trained, untrained = finished.probe(features), finished.probe_untrained(features)
    if trained is None:
        return "not measured"
    value, low, high = (f"{100 * number:.1f}" for number in (trained.value, trained.low, trained.high))
    reference = f"; its random weights {100 * untrained.value:.1f} %" if untrained is not None else ""
    return f"{value} % (95 % interval {low} to {high}){reference}"


def model_card(folded: Folded, finished: FinishedRun, features: Features, about: dict[str, str], out: Path) -> str:
    """The README of the exported folder: what it contains and how to load it."""
    run, size, classes = finished.run, finished.manifest.size, finished.manifest.classes
    specs = {stage: step["spec"] for stage, step in run.lineage.items()}
    depth, data = f"{folded.depth} {'block' if folded.depth == 1 else 'blocks'}", specs["dataset"].get("dataset", {})
    lines = {
        "row": f"`{run.row}`, seed {run.seed}",
        "method": METHODS[run.method].title,
        "network": f"{depth}, width {folded.width}, {folded.heads} heads, patch {PATCH}, "
        f"{sum(tensor.numel() for tensor in folded.state.values()):,} parameters, positions included",
        "training images": f"{data.get('source', 'images')}, {size} x {size} pixels, {len(classes)} classes",
        **about,
        "code": run.provenance["commit"] or "unknown commit",
        "licence": "Apache-2.0, like the code; the training images keep their own",
    }
    return Template((Path(__file__).parent / "model_card.md").read_text()).substitute(
        row=run.row,
        folding=FOLDING.format(time=features.time) if METHODS[run.method].denoises else "",
        out=out,
        size=size,
        grid=folded.grid,
        tokens=folded.grid**2,
        width=folded.width,
        blocks=list(range(folded.depth))[-3:],
        patch=PATCH,
        timm=TIMM,
        licence=LICENCE,
        table="\n".join(f"| {heading} | {text} |" for heading, text in lines.items()),
        pretraining=json.dumps(specs["pretrain"], indent=1),
    )
