"""Networks from the files that a stage is given: a tokenizer's fit, the data set, trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldae.classifiers import CLASSIFIERS
from ldae.denoiser import Denoiser
from ldae.files import intact, read_json
from ldae.randomness import stream
from ldae.spec import AdoptStage, BaselineStage, DenoiserStage, PretrainStage

INITIAL = 0  # the stream of randomness that initial weights are drawn from


def build(stage: DenoiserStage, *, seed: int, tokenizer: Path, manifest: dict[str, Any]) -> Denoiser:
    """An untrained denoiser; the same seed gives the same weights.

    Args:
        stage: what it is made of.
        seed: of the run.
        tokenizer: the folder of the tokenizer's fit.
        manifest: of the data set.
    """
    fitted = load_file(intact(tokenizer / "tokenizer.safetensors", read_json(tokenizer / "tokenizer.json")))
    classes = stage.weights.classes if isinstance(stage, AdoptStage) else len(manifest["classes"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, INITIAL))
        return Denoiser(stage, fitted, image_size=manifest["size"], classes=classes)


class Trained(NamedTuple):
    """A finished run: its stage, its seed, its record and its weights."""

    stage: DenoiserStage
    seed: int
    run: dict[str, Any]
    weights: dict[str, Tensor]


def open_run(folder: Path, weights: str = "model") -> Trained:
    """Reads a finished pretraining; `weights` is `model`, or `ema` for the averaged ones that sampling uses.

    Raises:
        ValueError: for a method that is no denoiser, and for files that are damaged.
    """
    run = read_json(folder / "run.json")
    if run["method"] != "denoiser":
        raise ValueError(f"{folder}: holds {run['method']}, which is no denoiser")
    stage = stage_of(run)
    return Trained(stage, run["seed"], run, load_file(intact(folder / f"{weights}.safetensors", run)))


def stage_of(run: dict[str, Any]) -> DenoiserStage:
    """What the denoiser of a record is made of."""
    spec = run["lineage"]["pretrain"]["spec"]
    return (AdoptStage if "weights" in spec else PretrainStage).model_validate(spec)


def open_denoiser(folder: Path, tokenizer: Path, manifest: dict[str, Any], *, weights: str = "model") -> Denoiser:
    """A trained denoiser, ready to be used; the arguments are those of `build` and `open_run`."""
    trained = open_run(folder, weights)
    denoiser = build(trained.stage, seed=trained.seed, tokenizer=tokenizer, manifest=manifest)
    denoiser.network.load_state_dict(trained.weights)
    return denoiser.eval().requires_grad_(False)


def build_baseline(stage: BaselineStage, *, seed: int, image_size: int) -> nn.Module:
    """An untrained MAE or MoCo v3, or the encoder of a published one; the same seed gives the same weights."""
    from ldae.baselines.encoder import Encoder
    from ldae.baselines.mae import MAE  # timm, which they are built with, takes seconds to import
    from ldae.baselines.moco import MoCo

    size: dict[str, Any] = {
        "image_size": image_size,
        "width": stage.size.width,
        "heads": stage.size.heads,
        "blocks": stage.size.encoder_blocks,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, INITIAL))
        if stage.weights is not None:
            return nn.ModuleDict({"encoder": Encoder(**size, class_token=True)})
        if stage.mae is not None:
            decoder: dict[str, Any] = {
                name: getattr(stage.mae, name) for name in ("decoder_width", "decoder_heads", "decoder_blocks")
            }
            return MAE(**size, **decoder)
        assert stage.moco_v3 is not None
        return MoCo(**size, hidden=stage.moco_v3.hidden, out=stage.moco_v3.out)


def open_baseline(folder: Path, manifest: dict[str, Any], *, random: bool = False) -> nn.Module:
    """The encoder of a trained baseline, or the same with the random weights that it started from."""
    run = read_json(folder / "run.json")
    stage = BaselineStage.model_validate(run["lineage"]["pretrain"]["spec"])
    encoder = build_baseline(stage, seed=run["seed"], image_size=manifest["size"]).get_submodule("encoder")
    if not random:
        encoder.load_state_dict(load_file(intact(folder / "model.safetensors", run)))
    return encoder.eval().requires_grad_(False)


class Finished(NamedTuple):
    """A finished run of a row or a baseline, with all that lies around it in the results of a scale."""

    run: dict[str, Any]  # its record
    manifest: dict[str, Any]  # of the images that it was trained on
    network: nn.Module  # a `Denoiser`, or the `Encoder` of a baseline; frozen, on the CPU

    @property
    def denoiser(self) -> Denoiser:
        """The network of a row; a `ValueError` for a baseline's."""
        if not isinstance(self.network, Denoiser):
            raise ValueError(
                f"{self.run['row']}: is {self.run['method']}, which does not denoise; name a denoiser's run"
            )
        return self.network


def open_finished(folder: Path) -> Finished:
    """Opens a run by its folder, e.g. results/laptop/pretrain/ldae/seed0; what else it takes is found from there.

    Raises:
        ValueError, FileNotFoundError: in one line, for a folder that holds no run, or damaged or missing files.
    """
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"{folder}: holds no finished run (no run.json); name a folder like results/laptop/pretrain/ldae/seed0, "
            "which `ldae run ldae` makes"
        )
    results = folder.absolute().parent.parent.parent
    run, manifest = read_json(folder / "run.json"), read_json(results / "dataset/manifest.json")
    if run["method"] != "denoiser":
        return Finished(run, manifest, open_baseline(folder, manifest))
    stage = stage_of(run)
    tokenizer = results / "tokenizers" / stage.tokenizer.name
    return Finished(run, manifest, open_denoiser(folder, tokenizer, manifest))


def open_classifier(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained classifier, frozen, and its record."""
    about = read_json(folder / "classifier.json")
    network = CLASSIFIERS[about["architecture"]](about["classes"], about["width"])
    network.load_state_dict(load_file(intact(folder / "weights.safetensors", about)))
    return network.eval().requires_grad_(False), about
