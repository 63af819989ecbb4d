"""What a mean over seeds estimates, and what its interval contains, in words; no torch."""

from __future__ import annotations

from ldae.study.definitions import ViewDefinition

PARTS = {"dataset": "split", "tokenizer": "tokenizers", "classifier": "perceptual classifier"}  # that seeds may share


def estimand(definition: ViewDefinition) -> str:
    """What the numbers of a view estimate: a mean over the parts that differ between seeds."""
    text = f"Each number estimates the mean over {_listed(_varied(definition))} for these images, not for others"
    shared = _shared(definition)
    return f"{text}; all seeds share the {_listed(shared)}." if shared else f"{text}."


def contents(definition: ViewDefinition, *, one_seed: bool) -> str:
    """What the intervals of a view contain."""
    if one_seed:
        return "The interval of one seed contains the choice of validation images alone."
    text = f"An interval contains how {_listed(_varied(definition))} differ, and the choice of validation images"
    shared = _shared(definition)
    return f"{text}, but not what another {_listed(shared)} would change." if shared else f"{text}."


def _varied(definition: ViewDefinition) -> list[str]:
    """The parts that differ between seeds."""
    shared = _shared(definition)
    return [word for part, word in (("split", "splits"), ("tokenizers", "tokenizers")) if part not in shared] + [
        "networks"
    ]


def _shared(definition: ViewDefinition) -> list[str]:
    """The parts that all seeds share; a given split is one of them."""
    words = [word for part, word in PARTS.items() if part in definition.shared]
    return words if definition.own_splits or "split" in words else ["split", *words]


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
