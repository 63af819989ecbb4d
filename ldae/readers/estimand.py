"""What a mean over seeds estimates, and what its interval contains, in words; no torch."""

from __future__ import annotations

from ldae.study.definitions import ViewDefinition

PARTS = {"dataset": "split", "tokenizer": "tokenizers", "classifier": "perceptual classifier"}  # that seeds may share


def estimand(definition: ViewDefinition) -> str:
    """What the numbers of a view estimate: a mean over the parts that differ between seeds."""
    shared = _shared(definition)
    varied = [word for part, word in (("split", "splits"), ("tokenizers", "tokenizers")) if part not in shared]
    text = f"Each number estimates the mean over {_listed([*varied, 'networks'])} for these images, not for others"
    return f"{text}; all seeds share the {_listed(shared)}." if shared else f"{text}."


def contents(definition: ViewDefinition) -> str:
    """What the intervals of a view contain."""
    shared = _shared(definition)
    text = "An interval contains how results differ between seeds"
    if definition.own_splits:
        return f"{text}, with their splits" + (
            f", but not how another {_listed(shared)} would change them." if shared else "."
        )
    return f"{text} and between groups of validation images, but not how another {_listed(shared)} would change them."


def _shared(definition: ViewDefinition) -> list[str]:
    """The parts that all seeds share; a given split is one of them."""
    words = [word for part, word in PARTS.items() if part in definition.shared]
    return words if definition.own_splits or "split" in words else ["split", *words]


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
