"""Feature extractors for the Fréchet distance: Inception, or a small classifier that the study trains."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldae.data.prepared import to_float
from ldae.parts.classifiers import SmallResNet
from ldae.parts.loading import open_classifier, published_weights
from ldae.study.scale import Judging

INCEPTION_FEATURES = "2048"  # the last pooling layer, which FID is defined with (Heusel et al., 2017)


class Extractor(NamedTuple):
    """A feature extractor and the name of the distance between its features."""

    features: Callable[[Tensor], Tensor]  # uint8 images (n, 3, S, S) to (n, F)
    distance: str


def open_extractor(judging: Judging, judge: Path | None, device: torch.device) -> Extractor:
    """Opens the extractor that a scale names; `judge` is the folder of the study's own classifier, for `builtin`.

    Raises:
        ValueError, OSError: for weights that are absent or have another checksum or format.
    """
    if judging.features != "builtin":
        extractor = published_weights(judging.features, inception).to(device)
        return Extractor(lambda images: extractor(images)[0], "FID")
    if judge is None:
        raise ValueError("judging.features 'builtin' needs --judge, the folder of the trained classifier")
    network, record = open_classifier(judge)
    if not isinstance(network, SmallResNet):
        raise ValueError(
            f"{judge}: is a {record.architecture}, which the perceptual loss may have trained with; name the resnet"
        )
    network.to(device)
    return Extractor(lambda images: network.features(to_float(images)), "Fréchet distance (judge)")


def inception(state: dict[str, Tensor]) -> nn.Module:
    """torch-fidelity's Inception, which resizes as TensorFlow's; other weights than the standard ones are refused."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.NamedTemporaryFile(suffix=".pth") as copy:
        torch.save(state, copy.name)  # torch-fidelity unpickles its file, so it reads one that was just written here
        try:
            return FeatureExtractorInceptionV3("inception", [INCEPTION_FEATURES], copy.name)
        except RuntimeError:
            raise ValueError("not the Inception weights that FID is defined with") from None
