"""Stage: takes published weights in the place of pretraining, and leaves what pretraining would leave.

Probes, samples and tables then treat such a row like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ldae.parts.published import denoiser_weights, encoder_weights
from ldae.parts.tokenizers.conv import LATENT_PATCH
from ldae.runtime.files import read_json
from ldae.runtime.weights import read_weights, save_weights
from ldae.study.base import PATCH
from ldae.study.record import Lineage, inputs_of, lineage, write_record
from ldae.study.spec import PublishedWeights
from ldae.study.stage_specs import AdoptStage, BaselineStage


def stored(weights: PublishedWeights) -> tuple[Path, dict[str, Tensor]]:
    """The path of published weights and what the file holds, once its SHA-256 is the expected one."""
    path = Path(weights.path).expanduser()
    return path, read_weights(path, weights.sha256)


def adopt(
    stage: AdoptStage,
    *,
    row: str,
    seed: int,
    revision: int,
    dataset: Path,
    tokenizer: Path,
    out: Path,
) -> None:
    """Writes a published DiT as a row's `model.safetensors`, `ema.safetensors` (the same) and `run.json`.

    Args:
        stage: the weights, and what they are composed with.
        row: the row's name.
        seed: of the random weights that a probe compares with.
        revision: of the code that takes them.
        dataset, tokenizer: folders of earlier stages.
        out: where to write.

    Raises:
        ValueError, OSError: in one line, for a file that is absent, or another one, or of other weights.
    """
    manifest = read_json(dataset / "manifest.json")
    path, found = stored(stage.weights)
    try:
        weights = denoiser_weights(
            found, stage.weights, dim=stage.tokenizer.dim, patch=LATENT_PATCH, grid=manifest["size"] // PATCH
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    about = {"row": row, "method": "denoiser", "seed": seed}
    made_from = lineage("pretrain", stage, revision, read_json(tokenizer / "tokenizer.json")["lineage"])
    inputs = inputs_of(dataset=dataset, tokenizer=tokenizer)
    _write(out, weights, ("model", "ema"), about, made_from=made_from, inputs=inputs)


def adopt_baseline(
    stage: BaselineStage,
    *,
    row: str,
    seed: int,
    revision: int,
    dataset: Path,
    out: Path,
) -> None:
    """Writes an encoder that MAE has trained as a row's `model.safetensors` and `run.json`.

    The arguments are those of `adopt`, and so is the `ValueError` for a file that holds something else.
    """
    if stage.weights is None:
        raise ValueError("weights: is missing; this stage takes published ones")
    manifest = read_json(dataset / "manifest.json")
    path, found = stored(stage.weights)
    try:
        weights = encoder_weights(found, stage.weights, grid=manifest["size"] // PATCH)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    about = {"row": row, "method": "mae", "seed": seed}
    made_from = lineage("pretrain", stage, revision, manifest["lineage"])
    _write(out, weights, ("model",), about, made_from=made_from, inputs=inputs_of(dataset=dataset))


def _write(
    out: Path,
    weights: dict[str, Tensor],
    names: tuple[str, ...],
    about: dict[str, Any],
    *,
    made_from: Lineage,
    inputs: dict[str, str],
) -> None:
    """The weights under each of the names, and the record; what their training cost the file does not say."""
    files = [out / f"{name}.safetensors" for name in names]
    for file in files:
        save_weights(file, weights)
    parameters = sum(tensor.numel() for name, tensor in weights.items() if name != "positions")
    about |= {"parameters": parameters, "training_flops": None}
    write_record(out / "run.json", about, lineage=made_from, inputs=inputs, files=files, device="CPU")
