"""The words of a row's objective, with the properties that the rest of the row depends on; no torch.

`ldae.parts.objective` has what each of them computes, under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """What the network is asked for."""

    on_images: bool = False  # whether a network with image output can be asked for it


@dataclass(frozen=True)
class Error:
    """How the distance of an output from its target is measured."""

    on_images: bool = False  # whether it works on images, where dropped components are known by their squared sum


PREDICTIONS = {"noise": Prediction(), "clean": Prediction(on_images=True)}
WEIGHTS = ("uniform", "signal")
ERRORS = {"squared": Error(on_images=True)}
