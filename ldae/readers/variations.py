"""The paper's claims where all rows have a further change, beside the claims as they are; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ldae.measures.intervals import Estimate
from ldae.readers.estimand import contents, estimand
from ldae.readers.layout import Part, interval
from ldae.readers.results import Results
from ldae.readers.verdicts import HOLDS, UNDECIDED, ClaimFinding, Comparison, judge, quantity_text
from ldae.runtime.files import write_text
from ldae.study.definitions import ClaimDefinition, SettingDefinition, VariationDefinition
from ldae.study.results import Record

AS_IT_IS = "as it is"  # a claim without the further change


class VariedFinding(Part):
    """What results say about a claim under a variation."""

    value: Any = None  # of the variation's key
    text: str  # what all rows have in common
    finding: ClaimFinding
    change: Estimate | None = None  # of the quantity, from the claim as it is; None for a peak or a rank correlation

    @property
    def verdict(self) -> str:
        """One of four verdicts; with one seed, no claim can hold."""
        return UNDECIDED if self.finding.n == 1 and self.finding.verdict == HOLDS else self.finding.verdict

    @property
    def said(self) -> str:
        """The verdict with what it lacks, and with a remark where there is one seed."""
        if self.finding.n > 1:
            return self.finding.said
        if self.finding.verdict == HOLDS:
            return f"{UNDECIDED} (one seed, points to: {HOLDS})"
        return f"{self.finding.said} (one seed)"


class VariedClaim(Part):
    """A claim as it is, and under a variation at each value of its key."""

    name: str
    text: str
    base: VariedFinding
    varied: tuple[VariedFinding, ...]

    @property
    def depends(self) -> bool:
        """Whether the verdicts differ."""
        return any(one.verdict != self.base.verdict for one in self.varied)


class Varied(Part):
    """All claims that were judged under a variation."""

    name: str
    claims: tuple[VariedClaim, ...]


class VariationRecord(Record):
    """`claims_<variation>.json`."""

    judged: Varied


def judge_varied(definition: VariationDefinition, results: Results) -> Varied:
    """Judges the claims of a variation as they are and under it, by the accuracy."""
    claims = []
    for claim in definition.claims:
        base = VariedFinding(value=definition.base, text=AS_IT_IS, finding=judge(claim, results, "accuracy"))
        varied = tuple(_under(setting, claim, results) for setting in definition.settings)
        claims.append(VariedClaim(name=claim.name, text=claim.text, base=base, varied=varied))
    return Varied(name=definition.name, claims=tuple(claims))


def _under(setting: SettingDefinition, claim: ClaimDefinition, results: Results) -> VariedFinding:
    """A claim under one setting; the change is paired over the seeds that all its rows have with and without it."""
    names = setting.rows
    other = claim.model_copy(
        update={
            "rows": tuple(names[row] for row in claim.rows),
            "sum": _renamed(claim.sum, names) if claim.sum is not None else None,
            "rank": [names[row] for row in claim.rank] if claim.rank is not None else None,
            "points": tuple((names[row], value) for row, value in claim.points),
        }
    )
    change = None
    if claim.sum is not None and other.sum is not None:
        weights = {row: other.sum.get(row, 0.0) - claim.sum.get(row, 0.0) for row in {**claim.sum, **other.sum}}
        rows = results.paired(weights)
        change = Comparison.of([(weights[row.name], row) for row in rows], "accuracy").estimate()
    finding = judge(other, results, "accuracy")
    return VariedFinding(value=setting.value, text=setting.text, finding=finding, change=change)


def _renamed(weights: dict[str, float], names: dict[str, str]) -> dict[str, float]:
    """The weights of other rows; two rows may have become the same one."""
    found: dict[str, float] = {}
    for row, weight in weights.items():
        found[names[row]] = found.get(names[row], 0.0) + weight
    return found


def write_variation(definition: VariationDefinition, results: Results, *, out: Path) -> Varied:
    """Writes `<out>.md` and `<out>.csv`: each claim as it is and under a variation; returns the same.

    Args:
        definition: the variation, with its claims and rows.
        results: of the rows.
        out: path of the files, without ending.
    """
    judged = judge_varied(definition, results)
    lines = [
        {
            "claim": claim.text if one is claim.base else "",
            "rows": one.text,
            "ours [95 %]": one.finding.text,
            "verdict": one.said,
            "change [95 %]": quantity_text(one.change, 1) if one.change is not None else "",
        }
        for claim in judged.claims
        for one in (claim.base, *claim.varied)
    ]
    parts = [f"## The paper's claims under the variation {definition.name}", _markdown(lines), *_notes(judged)]
    parts += ["### Accuracies of the rows", _markdown(_accuracies(definition, results))]
    parts.append(f"{estimand(definition)} {contents(definition, one_seed=len(definition.seeds) == 1)}")
    write_text(out.with_suffix(".md"), "\n\n".join(parts) + "\n")
    frame = pd.DataFrame(varied_records(judged))
    write_text(out.with_suffix(".csv"), frame.to_csv(index=False, float_format="%.6f"))
    return judged


def _markdown(lines: list[dict[str, str]]) -> str:
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def _accuracies(definition: VariationDefinition, results: Results) -> list[dict[str, str]]:
    """The accuracy of each row as it is and under the variation, a line each."""
    rows = results.rows
    return [
        {"row": rows[base].label, AS_IT_IS: interval(rows[base].accuracy)}
        | {setting.text: interval(rows[setting.rows[base]].accuracy) for setting in definition.settings}
        for base in definition.settings[0].rows
    ]


def _notes(judged: Varied) -> list[str]:
    """Which verdicts differ, and how a change is meant."""
    depend = [claim.text for claim in judged.claims if claim.depends]
    few = "The verdicts are the same with and without the further change."
    some = f"Depends on the {judged.name}: {'; '.join(depend)}."
    return [
        some if depend else few,
        "Change: the quantity less that of the claim as it is, paired over the seeds that all rows share. A verdict "
        "that differs is no proof of a change: that takes an interval of the change without zero. Peaks and rank "
        "correlations have no such interval.",
    ]


def varied_records(judged: Varied) -> Iterator[dict[str, Any]]:
    """A line of a CSV file for each claim as it is, and for each value of the variation."""
    for claim in judged.claims:
        for one in (claim.base, *claim.varied):
            value, low, high, _ = one.finding.quantity or (None, None, None, None)
            change, change_low, change_high, _ = one.change or (None, None, None, None)
            yield {
                "claim": claim.name,
                "rows": one.text,
                "value": one.value,
                "verdict": one.verdict,
                "said": one.said,
                "estimate": value,
                "low": low,
                "high": high,
                "n": one.finding.n,
                "change": change,
                "change_low": change_low,
                "change_high": change_high,
            }
