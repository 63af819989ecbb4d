"""l-DAE: the deconstruction of diffusion models for self-supervised learning, one row at a time.

Five parts, each with one question, composed by one `Denoiser`:

    tokenizers   how does an image become tokens?
    noise        how strongly are they corrupted at each time step?
    network      what maps noisy tokens to a prediction?
    objective    what is predicted, and how are errors weighed?
    denoiser     the composition: images in, loss out

Stages turn files into files: `prepare`, `fit_tokenizer`, `train_tokenizer`, `train_classifier`, `pretrain`,
`pretrain_baseline`, `adopt`, `probe`, `finetune`, `sample`, `judge`, `denoise`, `export`. Readers turn result files
into `tables`, `figures`, verdicts on `claims` and the page of a `report`; `plan` and `status` tell what a study costs
and where it stands. `spec` is the vocabulary, `variants` turns a study's rows into specs; `launch` starts several
processes for one stage, `ranks` lets them share it. `ldae.load` opens a finished run in Python; `folding` is how its
encoder becomes an ordinary Vision Transformer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.api import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, with which torch is imported only when it is asked for."""
    if name == "load":
        from ldae.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
