"""Values of a `[features]` table, each checked at its place: ``path`` is the one in the TOML.

All raise `FeatureSchemaError`.
"""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


class FeatureSchemaError(ValueError):
    """A `[features]` table that says something impossible; the message names the TOML path."""

    def __init__(self, path: str, fact: str) -> None:
        super().__init__(f"{path}: {fact}")


def only(table: object, known: Collection[str], path: str) -> Mapping[str, Any]:
    """Return a table that has no other keys than the ``known`` ones."""
    if not isinstance(table, Mapping):
        raise FeatureSchemaError(path, f"must be a table, not {table!r}")
    for key in table:
        if key not in known:
            raise FeatureSchemaError(f"{path}.{key}", f"no such key{nearest(str(key), known)}")
    return table


def nearest(name: str, known: Collection[str]) -> str:
    """Return what to add to a message about a ``name`` that is not known."""
    near = get_close_matches(name, sorted(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(known) or 'none'}"


def sequence(value: object, path: str) -> Sequence[Any]:
    """Return a list."""
    if not isinstance(value, list | tuple):
        raise FeatureSchemaError(path, f"must be a list, not {value!r}")
    return value


def plain_name(value: object, path: str) -> str:
    """Return a name that columns can be made of."""
    if not isinstance(value, str) or not value or "*" in value or "/" in value:
        raise FeatureSchemaError(path, f'must be a name without "*" and "/", not {value!r}')
    return value


def no_doubles(keys: Sequence[str | tuple[str, ...]], path: str) -> None:
    """Refuse a key that comes twice, in whatever order of its parts."""
    seen: dict[object, int] = {}
    for i, key in enumerate(keys):
        same = key if isinstance(key, str) else frozenset(key)
        if same in seen:
            text = key if isinstance(key, str) else "*".join(key)
            raise FeatureSchemaError(f"{path}[{i}]", f"{text!r} is already {path}[{seen[same]}]")
        seen[same] = i


def whole(value: object, path: str, least: int) -> int:
    """Return a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FeatureSchemaError(path, f"must be a whole number of at least {least}, not {value!r}")
    return value


def flag(value: object, path: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise FeatureSchemaError(path, f"must be true or false, not {value!r}")
    return value


def real(value: object, path: str, low: float, high: float) -> float:
    """Return a number between ``low`` and ``high``, neither of them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise FeatureSchemaError(path, f"must lie between {low:g} and {high:g}, not {value!r}")
    return float(value)
