"""YAML read strictly, values checked against a model, and each mistake told in one line; no torch."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ldae.spec import Part, Weights

AnyPart = TypeVar("AnyPart", bound=Part)


class StudyError(ValueError):
    """A mistake of the user's, in one line, whatever the words that it quotes."""

    def __init__(self, text: str) -> None:
        super().__init__(text.replace("\n", "\\n").replace("\r", "\\r"))


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys and says nothing."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; refuses one that is missing, broken, or says a key twice.

    Raises:
        StudyError: with the file's name, and the line where there is one.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise StudyError(f"{path}: {(error.strerror or 'cannot be read').lower()}; name an existing file") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is no UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise StudyError(f"{path.name}:{line} {error.problem}; mend the YAML there") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path.name}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise StudyError(f"{path.name}: found {type(values).__name__}, expected a mapping of sections")
    return values


def checked(model: type[AnyPart], values: dict[str, Any], where: str, only: str | None = None) -> AnyPart:
    """Validated values; with `only`, mistakes elsewhere than in that key are left for another check to tell.

    Raises:
        StudyError: with `where` and the most telling of the mistakes.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        if only is None or any(mistake["loc"][:1] == (only,) for mistake in error.errors()):
            raise StudyError(f"{where}: {first_mistake(model, error, only)}") from None
        return model.model_construct()


def first_mistake(model: type[BaseModel], error: ValidationError, only: str | None = None) -> str:
    """The most telling of pydantic's complaints, in one line: an unknown key often explains one that is missing."""
    mistakes = [m for m in error.errors() if only is None or m["loc"][:1] == (only,)]
    # of a word or a mapping, a mapping was written: which word it should have been says nothing
    told = [m for m in mistakes if m["type"] != "literal_error" or not isinstance(m["input"], dict)] or mistakes
    mistake = min(told, key=lambda m: m["type"] != "extra_forbidden")
    loc, kind, message = mistake["loc"], mistake["type"], mistake["msg"]
    if kind == "value_error":  # the text of our own validators, which names its key
        prefix = ".".join(map(str, loc))
        text = message.removeprefix("Value error, ")
        return text if not prefix or text.startswith(prefix) else f"{prefix}: {text}"
    key = ".".join(str(part) for part in loc if not _is_of_pydantic(part))
    if kind == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        return f"unknown key {key!r}{nearest(str(loc[-1]), known)}; allowed: {listed(known)}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind.startswith("union_tag"):
        context = mistake["ctx"]
        word = context["discriminator"].strip("'")
        return (
            f"{key}.{word}: found {context.get('tag')!r}, should be one of {context.get('expected_tags', 'the kinds')}"
        )
    message = message[0].lower() + message[1:]
    return f"{key}: found {mistake['input']!r}, {message.replace('input should', 'should')}"


def _is_of_pydantic(part: int | str) -> bool:
    """Whether a part of a place is no key of the file's: which of several forms a value was compared with."""
    return part in ("[key]", Weights.__name__) or str(part).startswith("literal[")


def _known_keys(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The keys that a configuration accepts at a place in it."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        return _known_keys(fields[str(loc[0])], loc[1:]) if loc else list(fields)
    origin, arguments = typing.get_origin(model), typing.get_args(model)
    if origin is Annotated:
        return _known_keys(arguments[0], loc)
    if origin is dict and loc:
        return _known_keys(arguments[1], loc[1:])
    if origin in (typing.Union, types.UnionType):
        chosen = [a for a in arguments if loc and isinstance(a, type) and loc[0] in {a.__name__, *_tags(a)}]
        return _known_keys(chosen[0], loc[1:]) if chosen else []
    return []


def _tags(model: type[BaseModel]) -> set[Any]:
    """The words that choose a member of a union, e.g. a data set's `source`."""
    annotations = (field.annotation for field in getattr(model, "model_fields", {}).values())
    return {word for a in annotations if typing.get_origin(a) is Literal for word in typing.get_args(a)}


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that an unknown one was probably meant to be, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(words: Iterable[str]) -> str:
    """Words for a message."""
    return ", ".join(words)
