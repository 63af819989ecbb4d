"""Tables in Markdown, CSV and LaTeX, from results alone; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ldae.files import read_json, write_text
from ldae.results import Results
from ldae.statistics import Estimate

LATEX = str.maketrans({"γ": r"$\gamma$", "σ": r"$\sigma$", "√": r"$\surd$", "−": "$-$", "±": r"$\pm$"})


def write_table(definition: dict[str, Any], results: Results, *, out: Path) -> None:
    """Writes `<out>.md`, `<out>.csv` (full precision) and `<out>.tex`.

    Accuracies are in percent, each with its 95 % interval; the gain is over the same network with random weights.
    """
    shown, exact = [], []
    seeds = len(definition["seeds"])
    for name, row in results.rows.items():
        probe = row.paper.get("probe")
        shown.append(
            {
                "row": row.label,
                "paper": "" if probe is None else f"{probe:.1f}",
                "accuracy": _interval(row.accuracy),
                **({"over seeds": f"± {100 * row.by_seed.std(ddof=1):.1f}"} if seeds > 1 else {}),
                "gain over random": _interval(row.gain, signed=True),
                "random weights": f"{100 * row.random.value:.1f}",
                "k-NN": f"{100 * row.knn:.1f}",
            }
        )
        exact.append(
            {"name": name, "label": row.label, "paper": probe}
            | _exact("accuracy", row.accuracy)
            | _exact("gain", row.gain)
            | _exact("random", row.random)
            | {"knn": row.knn, "rate_at_edge": row.rate_at_edge}
            | {f"seed{seed}": value for seed, value in zip(definition["seeds"], row.by_seed, strict=True)}
        )
    frame = pd.DataFrame(shown)
    notes = [
        f"Linear probe accuracy in percent [95 % interval], {results.num_val:,} validation images in "
        f"{results.num_groups:,} groups, {seeds} {'seed' if seeds == 1 else 'seeds'}. "
        f"Raw pixels: {_interval(results.pixels)}. Chance: {100 / results.classes:.1f}.",
    ]
    edge = [row.label for row in results.rows.values() if row.rate_at_edge]
    if edge:
        notes.append(f"The best learning rate of the probe was the smallest or largest tried for: {'; '.join(edge)}.")
    text = f"## {definition['title']}\n\n{frame.to_markdown(index=False, disable_numparse=True)}\n\n" + "\n\n".join(
        notes
    )
    write_text(out.with_suffix(".md"), text + "\n")
    write_text(out.with_suffix(".csv"), pd.DataFrame(exact).to_csv(index=False, float_format="%.6f"))
    latex = frame.to_latex(index=False, escape=True, caption=definition["title"])
    write_text(out.with_suffix(".tex"), latex.translate(LATEX))


def write_cost(results: list[Path], *, out: Path) -> None:
    """Writes `<out>.md` and `<out>.csv`: what each run has cost, and on what. These differ from one run to the next."""
    rows = []
    for path in results:
        about = read_json(path)
        made = about["provenance"]
        rows.append(
            {
                "stage": "pretrain" if path.name == "run.json" else "probe",
                "row": about["row"],
                "seed": about["seed"],
                "seconds": made["seconds"],
                "imports": made["import_seconds"],
                "peak MB": made["peak_memory_mb"],
                "device": made["device"],
                "commit": made["commit"],
            }
        )
    frame = pd.DataFrame(rows)
    total = frame.groupby("stage", sort=False)[["seconds", "imports"]].sum()
    total["jobs"] = frame.groupby("stage").size()
    total["imports, %"] = 100 * total["imports"] / total["seconds"]
    text = (
        f"## Cost\n\n{total.to_markdown(floatfmt='.1f')}\n\n"
        f"All jobs together: {frame['seconds'].sum() / 3600:.2f} hours.\n\n"
        f"{frame.to_markdown(index=False, floatfmt='.1f')}\n"
    )
    write_text(out.with_suffix(".md"), text)
    write_text(out.with_suffix(".csv"), frame.to_csv(index=False))


def _interval(estimate: Estimate, *, signed: bool = False) -> str:
    """A value in percent with its interval."""
    value, low, high = (f"{100 * part:{'+' if signed else ''}.1f}" for part in estimate)
    return f"{value} [{low}, {high}]"


def _exact(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
