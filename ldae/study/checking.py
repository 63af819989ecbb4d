"""YAML read strictly, values checked against a model, and each mistake reported in one line; no torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ldae.study.base import Config

AnyConfig = TypeVar("AnyConfig", bound=Config)
Elsewhere = Callable[[tuple[str, ...]], str | None]  # from the path of an unknown key: the file where it belongs
LONGEST = 80  # characters of a value in a message


class StudyError(ValueError):
    """A mistake of the user's, in one line."""

    def __init__(self, text: str) -> None:
        super().__init__(text.replace("\n", "\\n").replace("\r", "\\r"))


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a repeated key, of which YAML's own silently keeps the last value."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} occurs twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """The mapping in a YAML file, which messages call `name`.

    Raises a `StudyError` for a file that is missing or broken, or repeats a key, with the line where there is one.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise StudyError(f"{path}: {(error.strerror or 'cannot be read').lower()}; name an existing file") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise StudyError(f"{name}:{line} {error.problem}; fix the YAML there") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{name}: {' '.join(str(error).split())}") from None
    if values is None:
        raise StudyError(f"{name}: is empty")
    if not isinstance(values, dict):
        raise StudyError(f"{name}: found {_text(values)}, should be a mapping of sections")
    return values


def checked(
    model: type[AnyConfig],
    values: dict[str, Any],
    where: str,
    *,
    overrides: Collection[str] = (),
    elsewhere: Elsewhere | None = None,
) -> AnyConfig:
    """Validated values of the file `where`, with the keys `overrides` from the command line.

    Raises a `StudyError` with the most informative of the mistakes; those of the command line come first.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = [mistake for mistake in error.errors() if mistake["loc"] and mistake["loc"][0] in overrides]
        where = "--config" if mistakes else where
        raise StudyError(f"{where}: {first_mistake(model, mistakes or error.errors(), elsewhere)}") from None


def first_mistake(model: type[BaseModel], mistakes: list[ErrorDetails], elsewhere: Elsewhere | None = None) -> str:
    """The most informative of pydantic's errors, in one line: an unknown key often explains a missing one."""
    # where a word or a mapping may stand and a mapping was written, the possible words do not help
    relevant = [m for m in mistakes if m["type"] != "literal_error" or not isinstance(m["input"], dict)] or mistakes
    mistake = min(relevant, key=lambda m: m["type"] != "extra_forbidden")
    schema = _schema(model)
    keys, expected = _located(schema, mistake["loc"])
    key, kind = ".".join(keys), mistake["type"]
    if kind == "value_error":  # the text of our own validators, which names its key
        text = mistake["msg"].removeprefix("Value error, ")
        if not key or text.startswith(f"{key}."):
            return text
        return f"{key}.{text}" if text.partition(":")[0] in _known_keys(expected) else f"{key}: {text}"
    if kind == "extra_forbidden":
        if elsewhere is not None and (hint := elsewhere(keys)):
            return hint
        known = _known_keys(_located(schema, mistake["loc"][:-1])[1])
        return f"unknown key {key!r}{nearest(keys[-1], known)}; allowed: {listed(known)}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind.startswith("union_tag"):
        word = mistake["ctx"]["discriminator"].strip("'")
        found = f"found {_text(mistake['input'][word])}, should be" if "tag" in mistake["ctx"] else "is missing; give"
        return f"{key}.{word}: {found} one of {listed(map(repr, expected['discriminator']['mapping']))}"
    alike = [m for m in relevant if _located(schema, m["loc"])[0] == keys]  # one value compared with several forms
    forms = dict.fromkeys(_requirement(m, _located(schema, m["loc"])[1]) for m in alike)
    return f"{key}: found {_text(mistake['input'])}, should {' or '.join(forms)}"


def _requirement(mistake: ErrorDetails, expected: dict[str, Any]) -> str:
    """What a value should be, or do, in words."""
    kind, value, message = mistake["type"], mistake["input"], mistake["msg"]
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"be like {_example(expected)}"
    if kind in ("list_type", "tuple_type"):
        return "be a list, in brackets"
    if kind in ("too_short", "string_too_short"):
        return "not be empty"
    if kind == "too_long":
        return f"have {mistake['ctx']['max_length']} at most"
    if kind == "string_type":
        return "be text" if value is None or isinstance(value, list | dict) else "be text; put it in quotes"
    types = {"int": "be a whole number", "float": "be a number", "bool": "be true or false"}
    if (start := kind.partition("_")[0]) in types:
        return types[start]
    return (message[0].lower() + message[1:]).removeprefix("input should ").removeprefix("should ")


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model, without references."""
    schema = model.model_json_schema()

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(inner) for inner in part]
        if isinstance(part, dict) and "$ref" in part:
            return resolved(schema["$defs"][part["$ref"].rpartition("/")[2]])
        return {key: resolved(inner) for key, inner in part.items()} if isinstance(part, dict) else part

    return {key: resolved(part) for key, part in schema.items() if key != "$defs"}


def _located(schema: dict[str, Any], loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The keys in the file that lead to one of pydantic's locations, and the schema of the value there.

    Pydantic's locations also contain the form that a value was compared with, such as a data set's `source`, which is
    not a key in the file.
    """
    keys: list[str] = []
    for place in loc:
        forms = [form for form in schema.get("anyOf", schema.get("oneOf", [])) if form.get("type") != "null"]
        schema = forms[0] if len(forms) == 1 else schema
        if len(forms) > 1:
            reference = schema.get("discriminator", {}).get("mapping", {}).get(place, place)
            schema = next((form for form in forms if form.get("title") == str(reference).rpartition("/")[2]), {})
        elif place != "[key]":
            keys.append(str(place))
            inner = schema.get("properties", {}).get(place)
            schema = inner or schema.get("additionalProperties") or schema.get("items") or {}
    return tuple(keys), schema


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a mapping with certain keys, the first of several; empty where any key is allowed."""
    forms = [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]
    return next((form for form in forms if "properties" in form), {})


def _known_keys(schema: dict[str, Any]) -> list[str]:
    """The keys that a mapping accepts."""
    return list(_form(schema).get("properties", {}))


def _example(schema: dict[str, Any]) -> str:
    """How a mapping is written, with its required keys or else its first key."""
    form = _form(schema)
    if not form:
        return "{name: ...}"
    keys = form.get("required") or _known_keys(form)[:1]
    examples = {key: form["properties"][key].get("examples", ["..."])[0] for key in keys}
    return "{" + ", ".join(f"{key}: {value}" for key, value in examples.items()) + "}"


def _text(value: Any) -> str:
    """A value as YAML has it, cut off where it is long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def check_folder_name(path: Path) -> None:
    """Raises a `StudyError` for a file name that cannot be the name of a results folder in rules and commands."""
    if not re.fullmatch(r"\w[\w.-]*", path.stem):
        other = re.sub(r"\W+", "_", path.stem).strip("_") or "mine"
        raise StudyError(
            f"{path}: its results folder is named after this file, so use only letters, digits, _, - and .; "
            f"rename it, e.g. {other}{path.suffix}"
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is most like an unknown one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(words: Iterable[str]) -> str:
    """Words for a message."""
    return ", ".join(words)


def alternatives(words: Collection[str]) -> str:
    """Words in quotes, for a message: `'a', 'b' or 'c'`."""
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}" if first else last


def word(registry: Collection[str]) -> BeforeValidator:
    """Validates a key whose values are the words of a registry, which messages about other values list."""

    def check(value: Any) -> str:
        if isinstance(value, str) and value in registry:
            return value
        hint = nearest(value, registry) if isinstance(value, str) else ""
        raise PydanticCustomError("word", "should be {words}", {"words": alternatives(registry) + hint})

    return BeforeValidator(check)
