"""What a Compose implementation makes of compose.yaml, as far as the tests need it.

Interpolation and .env follow the Compose specification; merge keys and anchors are YAML's own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class CannotInterpolate(Exception):
    """A value that a Compose implementation refuses."""


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` with ``$NAME`` and ``${NAME…}`` replaced, nested ones too, ``$$`` as ``$``.

    >>> interpolated("$$ $A ${B:-${A}} ${C-none} ${A:+set}", {"A": "1", "B": "", "C": ""})
    '$ 1 1  set'
    """
    result, at = "", 0
    while (dollar := text.find("$", at)) >= 0:
        result += text[at:dollar]
        if text[dollar : dollar + 2] == "$$":
            result, at = result + "$", dollar + 2
        elif text[dollar : dollar + 2] == "${":
            at = _closing(text, dollar + 2) + 1
            result += _braced(text[dollar + 2 : at - 1], variables)
        elif name := NAME.match(text, dollar + 1):
            result, at = result + variables.get(name[0], ""), name.end()
        else:
            raise CannotInterpolate(f"{text!r}: a $ that begins no name. Write $$ for a plain one.")
    return result + text[at:]


def _closing(text: str, at: int) -> int:
    """Return where the brace closes that opened before ``at``."""
    depth = 1
    for i in range(at, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return i
    raise CannotInterpolate(f"{text!r}: a brace is not closed.")


def _braced(inside: str, variables: Mapping[str, str]) -> str:
    name = NAME.match(inside)
    rest = inside[name.end() :] if name else inside
    operator = re.match(r":?[-?+]|$", rest)
    if name is None or operator is None:
        raise CannotInterpolate(f"${{{inside}}}: expected a name, then one of :- - :? ? :+ +.")
    value, other = variables.get(name[0]), rest[operator.end() :]
    given = bool(value) if operator[0].startswith(":") else value is not None
    match operator[0][-1:]:
        case "-" if not given:
            return interpolated(other, variables)
        case "?" if not given:
            raise CannotInterpolate(f"{name[0]}: {interpolated(other, variables)}")
        case "+":
            return interpolated(other, variables) if given else ""
    return value or ""


def interpolate(node: Any, variables: Mapping[str, str]) -> Any:
    """Return a YAML tree with its values interpolated; keys stay as they are."""
    match node:
        case str():
            return interpolated(node, variables)
        case list():
            return [interpolate(each, variables) for each in node]
        case dict():
            return {key: interpolate(value, variables) for key, value in node.items()}
    return node


def dotenv(text: str) -> dict[str, str]:
    """Return the variables of an .env file, of the plain kind that all implementations read alike.

    Raises ValueError for a line that they read in different ways: quotes, a comment behind a value,
    blanks around the equals sign.
    """
    variables = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        plain = re.fullmatch(rf"({NAME.pattern})=([^\s#'\"$\\]*)", line)
        if plain is None:
            raise ValueError(f".env:{number}: {line!r} is not plainly NAME=value.")
        variables[plain[1]] = plain[2]
    return variables


def composed(**variables: str) -> dict[str, Any]:
    """Return compose.yaml with the variables of .env, and these before them."""
    settings = dotenv((ROOT / ".env").read_text("utf-8"))
    text = (ROOT / "compose.yaml").read_text("utf-8")
    result: dict[str, Any] = interpolate(yaml.safe_load(text), settings | variables)
    return result
