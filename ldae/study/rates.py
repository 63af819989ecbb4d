"""Each row's learning rate as a multiple of the scale's, from the scale's file of rates; no torch.

`scales/<scale>.rates.yaml` holds the factors of the study in `config.yaml`. Another study has a file of its own,
`scales/<scale>.<study>.rates.yaml`. Without a file every row has the scale's rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from ldae.study.base import Config
from ldae.study.checking import StudyError, checked, listed, nearest, read_yaml
from ldae.study.rows import Variant
from ldae.study.spec import Multiple, Spec, Tokenizer

if TYPE_CHECKING:
    from ldae.study.study import Study

TUNING_SEEDS = (100, 101)  # the replications that rates are tuned on; no table shows them


class Tuned(Config):
    """A factor on the scale's rate, and how `ldae tune` found it."""

    factor: Annotated[float, Field(gt=0)]
    # By factor, the mean over the replications of the held-out accuracy in percent, or for a tokenizer of the PSNR of
    # held-out images in dB; None where training diverged.
    tried: dict[Multiple, float | None] = {}
    lead: float | None = None  # of the best factor over 1, in the same unit
    error: float | None = None  # the paired standard error of that lead
    seeds: tuple[int, ...] = ()
    commit: str = ""
    device: str = ""


def _from_number(value: Any) -> Any:
    """A factor that stands alone, as a person writes it."""
    return {"factor": value} if isinstance(value, int | float) else value


Entry = Annotated[Tuned, BeforeValidator(_from_number)]


class Rates(Config):
    """The file of rates."""

    rows: dict[str, Entry] = {}
    tokenizers: dict[str, Entry] = {}  # convolutional ones, by the name of their fit

    @property
    def is_empty(self) -> bool:
        """Whether nothing is tuned."""
        return not self.rows and not self.tokenizers

    def of_tokenizer(self, tokenizer: Tokenizer) -> float:
        """The factor of a convolutional tokenizer on the scale's rate; its own `rate` comes on top."""
        tuned = self.tokenizers.get(tokenizer.at_scale_rate.name)
        return tuned.factor if tuned is not None else 1.0


class Factor(NamedTuple):
    """The factor of a row."""

    value: float
    tuned: str | None  # the row that it was tuned for, this one or an ancestor; None: the scale's own rate


def rates_path(folder: Path, scale: str, study: str | None) -> Path:
    """The file of rates of a scale and a study, in the folder of scales; the study in `config.yaml` has no name."""
    return folder / ".".join([scale, *([study] if study is not None else []), "rates", "yaml"])


def read_rates(path: Path) -> Rates:
    """The rates in a file, none if it is absent; raises a `StudyError` for a mistake in it."""
    name = f"{path.parent.name}/{path.name}"
    return checked(Rates, read_yaml(path, name), name) if path.is_file() else Rates()


def factors(rates: Rates, variants: Mapping[str, Variant], runs: Mapping[str, str]) -> dict[str, Factor]:
    """The factor of each row: its own, or else that of the nearest row that it is from and that has one.

    Rows that share a training have one factor. Another method has a rate of its own, so it inherits no factor.
    """
    found: dict[str, Factor] = {}
    for name, variant in variants.items():  # each behind its parent, and behind the row whose training it shares
        parent = variants.get(variant.parent or "")
        if runs[name] != name:
            found[name] = found[runs[name]]
        elif name in rates.rows:
            found[name] = Factor(rates.rows[name].factor, name)
        elif parent is not None and _inherits(variant.spec, parent.spec):
            found[name] = found[parent.name]
        else:
            found[name] = Factor(1.0, None)
    return found


def _inherits(row: Spec, parent: Spec) -> bool:
    """Whether a row has its parent's factor: if it is trained, and by the same method."""
    return row.method.weights is None and row.method.name == parent.method.name


def rate_in_words(study: Study, row: str) -> str:
    """What rate a row and its convolutional tokenizer are trained with, and whether these were tuned."""
    factor, spec = study.factors[row], study.variants[row].spec
    words = "the scale's rate, not tuned"
    if factor.tuned is not None:
        whose = "tuned" if factor.tuned == study.runs[row] else f"not tuned: the factor of {factor.tuned}"
        words = f"{factor.value:g} x the scale's rate, {whose}"
    if study.is_denoiser(row) and study.tokenizers[spec.tokenizer.name].is_trained:
        fit = study.rates.tokenizers.get(spec.tokenizer.at_scale_rate.name)
        words += f"; its tokenizer: {f'{fit.factor:g} x ' if fit else ''}the scale's rate, {'' if fit else 'not '}tuned"
    return words


def check_rates(study: Study, path: Path) -> None:
    """Raises a `StudyError` for an entry without effect, and for a study with the seeds of the tuning."""
    where = f"{path.parent.name}/{path.name}"
    for row in study.rates.rows:
        place = f"{where}: rows.{row}"
        if row not in study.variants:
            raise StudyError(f"{place}: there is no such row{nearest(row, study.variants)}; rename or delete the entry")
        if (run := study.runs[row]) != row:
            raise StudyError(f"{place}: shares the training of {run!r}; give the factor to that row")
        if study.is_published(row):
            raise StudyError(f"{place}: takes published weights and is not trained; delete the entry")
    tuned = [name for name, stage in study.tokenizers.items() if stage.is_trained]
    for name in study.rates.tokenizers:
        if name not in tuned:
            raise StudyError(
                f"{where}: tokenizers.{name}: there is no such trained tokenizer{nearest(name, tuned)}; "
                f"known: {listed(tuned) or 'none'}"
            )
    used = [seed for seed in study.file.seeds if seed in TUNING_SEEDS]
    if used and not study.rates.is_empty:
        raise StudyError(f"seeds: {used[0]} is one of those that the rates in {where} were tuned on; give others")
