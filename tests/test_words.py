"""Every word that a study may say has an implementation, and every implementation a word; streams do not collide."""

from __future__ import annotations

import typing
from collections.abc import Collection

import pytest

from ldae.measures.measure import Measure, implementation
from ldae.parts import diffusion, noise, objective
from ldae.parts.classifiers import CLASSIFIERS
from ldae.readers.figures import FIGURES
from ldae.runtime.randomness import Stream
from ldae.study import file, schedules, spec
from ldae.study.base import Architecture
from ldae.study.measures import MEASURES
from ldae.study.scale import Sampling

FIGURE_KINDS = [
    kind
    for figure in typing.get_args(typing.get_args(file.Figure)[0])
    for kind in typing.get_args(figure.model_fields["kind"].annotation)
]


@pytest.mark.parametrize(
    ("words", "implementations"),
    [
        (spec.PREDICTIONS, objective.PREDICTIONS),
        (spec.WEIGHTS, objective.WEIGHTS),
        (spec.ERRORS, objective.ERRORS),
        (schedules.TIMES, noise.TIMES),
        (typing.get_args(Sampling.model_fields["method"].annotation), diffusion.METHODS),
        (typing.get_args(Architecture), CLASSIFIERS),
        (FIGURE_KINDS, FIGURES),
    ],
)
def test_words_are_the_names_of_implementations(words: Collection[str], implementations: Collection[str]) -> None:
    assert sorted(words) == sorted(implementations)


@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_is_implemented_by_the_module_of_its_name(name: str) -> None:
    """As `tests/parts` has it for the kinds of tokenizers and for the methods."""
    assert issubclass(implementation(name), Measure)


def test_no_two_streams_of_random_numbers_are_the_same() -> None:
    assert len(Stream) == len(Stream.__members__)  # an equal number would be another name of the same stream
