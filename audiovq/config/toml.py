"""TOML into nested frozen dataclasses: unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from audiovq.errors import AudiovqError, reading, shorten, suggest_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PRESETS = Path(__file__).parent / "presets"
_Tree = dict[str, Any]
"""A parsed TOML table."""
_Dataclass = TypeVar("_Dataclass", bound="DataclassInstance")
_LARGEST_FILE = 1 << 18
"""Bytes."""
_MOST_DOTS = 500
"""In a line: of nested keys, and of numbers."""
_LARGEST_NUMBER = 2**63
_LONGEST_LIST = 1 << 16


def raise_unless(condition: bool, message: str) -> None:
    """Raise AudiovqError unless a condition on a configuration holds."""
    if not condition:
        raise AudiovqError(f"configuration: {message}")


def require_range(name: str, value: float, least: float, most: float) -> None:
    """Raise AudiovqError unless a number of a configuration lies in a range; nan lies in none."""
    raise_unless(least <= value <= most, f"{name} must lie in {least}..{most}, not {value}")


def load_toml(path: str | Path, overrides: list[str] | None, kind: type[_Dataclass]) -> _Dataclass:
    """Read a TOML configuration; a bare name (`default`, `paper-vctk`) means one that ships.

    Args:
        overrides: `key.path=value` pairs, values in TOML syntax (`model.codebook.size=256`).
        kind: the dataclass to build.

    Raises: AudiovqError for a missing or invalid file, an unknown key or a value out of range.
    """
    path = Path(path)
    if not path.suffix and not os.path.isfile(path):
        path = _PRESETS / f"{path.name}.toml"
    if not os.path.lexists(path):
        raise _unknown_configuration(path)
    with reading(path, "not a readable TOML configuration", "correct it"):
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        tree = _parse_toml(content.decode("utf-8-sig"))
    for override in overrides or []:
        apply_override(tree, override)
    with reading(path, "not a readable TOML configuration", "correct it"):
        return dataclass_from_dict(kind, tree)


def _parse_toml(text: str) -> _Tree:
    """A TOML table. Raises: ValueError, RecursionError and what else tomllib raises."""
    # tomllib takes a time that grows with the square of the parts of a key, and more than that of a file.
    if len(text) > _LARGEST_FILE or max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
        raise ValueError("is too long for a configuration")
    return tomllib.loads(text)


def _unknown_configuration(path: Path) -> AudiovqError:
    shipped = sorted(preset.stem for preset in _PRESETS.glob("*.toml"))
    if path.parent != _PRESETS:
        return AudiovqError(
            f"{path}: does not exist; check the path, the bundled ones are {', '.join(shipped)}"
        )
    hint = suggest_name(path.stem, shipped, f"the bundled ones are {', '.join(shipped)}")
    return AudiovqError(f"{path.stem}: no such configuration; {hint}")


def apply_override(tree: _Tree, override: str) -> None:
    """Apply one `key.path=value` to a parsed TOML tree; `train.stages.0.steps=10` indexes the list."""
    key, equals, text = override.partition("=")
    if not equals:
        raise AudiovqError(
            f"override {shorten(override)}: expected key=value, such as model.codebook.size=256"
        )
    with reading(f"override {shorten(override)}", "no such key in the configuration", "correct it"):
        try:
            value = _parse_toml(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, last = key.strip().split(".")
        node: Any = tree
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        node[int(last) if isinstance(node, list) else last] = value


def dataclass_from_dict(kind: type[_Dataclass], tree: object, where: str = "") -> _Dataclass:
    """Build a (nested) dataclass from plain dicts and lists; unknown keys and wrong types are errors."""
    if not isinstance(tree, dict):
        raise AudiovqError(f"configuration: {where[:-1] or 'top level'} must be a table")
    hints = typing.get_type_hints(kind)
    for key in sorted(set(tree) - set(hints)):
        hint = suggest_name(key, hints, f"known: {', '.join(hints)}")
        name = shorten(where + key).strip("'")
        raise AudiovqError(f"configuration: unknown key {name}; {hint}")
    return kind(**{name: _convert(hints[name], value, f"{where}{name}.") for name, value in tree.items()})


def _convert(hint: object, value: object, where: str) -> object:
    name = where[:-1]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return dataclass_from_dict(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise AudiovqError(f"configuration: {name} must be a list")
        raise_unless(len(value) <= _LONGEST_LIST, f"{name} has {len(value)} entries, far too many")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise AudiovqError(f"configuration: {name} must be a table")
        return {k: _convert(float, v, f"{where}{k}.") for k, v in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        # JSON and TOML have integers that no library holds.
        raise_unless(abs(value) < _LARGEST_NUMBER, f"{name} is out of range, {shorten(value)}")
        value = float(value) if hint is float else value
    if isinstance(hint, type) and not isinstance(hint, types.UnionType):
        ok = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        raise_unless(ok, f"{name} must be {hint.__name__}, not {shorten(value)}")
    return value


def dataclass_to_dict(config: DataclassInstance) -> _Tree:
    """A dataclass as plain dicts, for JSON and TOML headers."""
    return dataclasses.asdict(config)
