"""Tokenizers: images (N, 3, S, S) in [-1, 1] to latents (N, T, d) and back, standardised on data.

The number of tokens T is the same for all of them: one for every 16 x 16 pixels. `ldae.study.tokenizers` lists the
kinds; each has a module of its name here, with `build` and, unless it is trained as a network, `fit`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Protocol

from torch import Tensor

from ldae.study import spec
from ldae.study.stage_specs import TokenizerStage


class TokenizerModule(Protocol):
    """What a row asks of its tokenizer; rows on images ask for all that a `LinearTokenizer` has."""

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) to latents (N, T, d)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S)."""


def module_of(kind: str) -> ModuleType:
    """The module of a kind of tokenizer."""
    return importlib.import_module(f"{__name__}.{kind}")


def fit(patches: Iterable[Tensor], stage: TokenizerStage, *, seed: int) -> dict[str, Tensor]:
    """The tensors of a tokenizer that is fitted to flattened patches (n, D).

    A fit of all dimensions depends on the patches alone, one of d dimensions also on `fitting` and the seed.
    """
    options = {} if stage.dim is None else {"dim": stage.dim, "fitting": stage.fitting, "seed": seed}
    fitted: dict[str, Tensor] = module_of(stage.kind).fit(patches, **options)
    return fitted


def build(tokenizer: spec.Tokenizer, fitted: dict[str, Tensor]) -> TokenizerModule:
    """The tokenizer of a row from its fitted tensors; a `ValueError` says that they are of another dimension."""
    built: TokenizerModule = module_of(tokenizer.kind).build(fitted, dim=tokenizer.dim, scale=tokenizer.scale)
    return built
