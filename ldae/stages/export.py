"""Stage: writes a trained encoder as a folder that timm loads as a plain Vision Transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ldae.parts.folding import Folded, fold
from ldae.parts.loading import Finished, open_finished
from ldae.runtime.files import atomic_write, write_text
from ldae.runtime.progress import log
from ldae.study.base import PATCH
from ldae.study.methods import METHODS
from ldae.study.spec import Features

ARCHITECTURE = "vit_base_patch16_224"  # timm's name of the plain Vision Transformer; the arguments below set its size
TIMM = "1.0.16"  # the first version that loads such a folder
LICENCE = "apache-2.0"


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
    run, size = finished.run, finished.manifest["size"]
    if features.noisy:
        raise ValueError(f"{run['row']}: is probed with noise on its input, which no plain encoder adds by itself")
    try:
        folded = fold(finished.network, time=features.time, offset=features.offset)
    except ValueError as error:
        raise ValueError(f"{model}: {run['row']} cannot be exported: {error}") from None
    about = about | {"linear probe, validation": accuracy(finished, features)}
    card = model_card(folded, finished, features, about, out)
    with atomic_write(out / "model.safetensors") as partial:
        save_file(folded.state, partial, metadata={"format": "pt"})
    write_text(out / "README.md", card)
    write_text(out / "config.json", json.dumps(timm_config(folded, size, run), indent=1) + "\n")
    log(f'{out}: timm.create_model("local-dir:{out}", pretrained=True)')


def timm_config(folded: Folded, size: int, run: dict[str, Any]) -> dict[str, Any]:
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
            "tag": run["row"],
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


def accuracy(finished: Finished, features: Features) -> str:
    """The linear probe's accuracy of this encoder and of its random weights, if the results include it."""
    estimates = finished.probe(features)
    if estimates is None:
        return "not measured"
    trained, random = estimates["trained"], estimates["random"]
    value, low, high = (f"{100 * number:.1f}" for number in (trained.value, trained.low, trained.high))
    return f"{value} % (95 % interval {low} to {high}); its random weights {100 * random.value:.1f} %"


def model_card(folded: Folded, finished: Finished, features: Features, about: dict[str, str], out: Path) -> str:
    """The README of the exported folder: what it contains and how to load it."""
    run, size, classes = finished.run, finished.manifest["size"], finished.manifest["classes"]
    specs = {stage: step["spec"] for stage, step in run["lineage"].items()}
    blocks, depth = list(range(folded.depth))[-3:], f"{folded.depth} {'block' if folded.depth == 1 else 'blocks'}"
    grid, data, pretraining = folded.grid, specs["dataset"].get("dataset", {}), specs["pretrain"]
    lines = {
        "row": f"`{run['row']}`, seed {run['seed']}",
        "method": METHODS[run["method"]].title,
        "network": f"{depth}, width {folded.width}, {folded.heads} heads, patch {PATCH}, "
        f"{sum(tensor.numel() for tensor in folded.state.values()):,} parameters, positions included",
        "training images": f"{data.get('source', 'images')}, {size} x {size} pixels, {len(classes)} classes",
        **about,
        "code": run["provenance"]["commit"] or "unknown commit",
        "licence": "Apache-2.0, like the code; the training images keep their own",
    }
    folding = (
        f"""
Its conditioning at time step t = {features.time} is folded into the weights, and so is all that stands between the
pixels and the first block: no time step, no label and no tokenizer is needed.
"""
        if METHODS[run["method"]].denoises
        else ""
    )
    table = "\n".join(f"| {heading} | {text} |" for heading, text in lines.items())
    return f"""---
license: {LICENCE}
library_name: timm
pipeline_tag: image-feature-extraction
tags: [timm, image-feature-extraction, self-supervised]
---
# {run["row"]}: an encoder of the deconstruction of denoising diffusion models

A plain Vision Transformer for `timm` {TIMM} or newer. It takes images in [-1, 1], has neither a class token nor a final
norm, and its representation is the mean of the tokens.
{folding}
```python
import numpy as np
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:{out}", pretrained=True).eval()
size = model.patch_embed.img_size[0]  # {size}, unless img_size=... gives another


def prepare(image):  # the centre, as of the training images: halved while that leaves enough, then bicubic
    image = ImageOps.exif_transpose(image).convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1


images = prepare(Image.open("picture.jpg"))  # (1, 3, {size}, {size})
with torch.inference_mode():
    model(images)  # (1, {folded.width}), the mean of the tokens
    model.forward_features(images)  # (1, {grid**2}, {folded.width}), the tokens
    # the last blocks' activations, (1, {folded.width}, {grid}, {grid}) each
    timm.create_model("local-dir:{out}", pretrained=True, features_only=True, out_indices={blocks}).eval()(images)
```

`img_size=...` asks for another size, a multiple of {PATCH}, to which positions are interpolated, and `num_classes=...`
for a new head. `timm.data.create_transform` prepares images with augmentations for training; it resizes large pictures
in one step, so that pixels and features differ a little from these.

To share the encoder with this card: `huggingface_hub.upload_folder(repo_id="you/encoder", folder_path="{out}")`. Then
`timm.create_model("hf-hub:you/encoder", pretrained=True)` loads it.

| | |
|---|---|
{table}

What it was trained with, as far as it differs from the defaults:

```json
{json.dumps(pretraining, indent=1)}
```

The method: X. Chen, Z. Liu, S. Xie, K. He, "Deconstructing Denoising Diffusion Models for Self-Supervised Learning",
arXiv:2401.14404. The accuracy above is this run's own, not the paper's.
"""
