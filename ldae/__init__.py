"""l-DAE: which parts of a diffusion model learn representations, one row at a time.

The method has four parts, each with one question, and one module that combines them:

    parts.tokenizers   how does an image become tokens?
    parts.noise        how strongly are they corrupted at each time step?
    parts.network      what maps noisy tokens to a prediction?
    parts.objective    what is predicted, and how are errors weighted?
    parts.denoiser     the combination: images in, loss out

The folders of the package, in the order in which they may import each other: `runtime` (processes and files), `study`
(rows, scales, the graph of jobs), `data` and `parts`, `measures` and `overview`, `training`, `stages` (one module per
job) and `readers` (tables, figures, claims, the page), `commands` and `api`. `ldae.load` opens a finished run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.api import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Imports `load`, and with it torch, only when it is used."""
    if name == "load":
        from ldae.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
