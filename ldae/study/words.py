"""Registered words: the values of a key follow from a registry, and so does the message about any other value."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from ldae.study.checking import nearest


def word(registry: Collection[str]) -> BeforeValidator:
    """Validates a key whose values are the words of a registry."""

    def check(value: Any) -> str:
        if isinstance(value, str) and value in registry:
            return value
        hint = nearest(value, registry) if isinstance(value, str) else ""
        raise PydanticCustomError("word", "should be {words}", {"words": alternatives(registry) + hint})

    return BeforeValidator(check)


def alternatives(words: Collection[str]) -> str:
    """Words in quotes, for a message: `'a', 'b' or 'c'`."""
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}" if first else last
