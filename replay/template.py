"""A guess as TOML that a person edits: every line with its reason."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from replay.guess import Choice, Guess

_LIST_LENGTH: Final = 10  # elements of a list feature that are read
_SHORT_H: Final = 24 * 14  # logs up to two weeks: items live for hours or days
_HALF_LIVES_H: Final = {True: (0.5, 3, 12, 48), False: (12, 72, 336, 1344)}


def render(guess: Guess, input_lines: Sequence[str] = ()) -> str:
    """Return ``[input]`` (with ``input_lines``) and ``[features]`` of a configuration."""
    lines = [
        f"# Guessed from {guess.path.name}: {guess.rows:,} rows, of which the first "
        f"{guess.looked_at:,} were looked at.",
        "# Each guess has its reason beside it. Change what is wrong.",
        *(f"# TO DO: {problem}" for problem in guess.problems),
        "",
        *_input(guess, input_lines),
        "",
        *_features(guess),
    ]
    return "\n".join(lines) + "\n"


def _input(guess: Guess, input_lines: Sequence[str]) -> Iterator[str]:
    yield "[input]"
    yield from input_lines
    if guess.sort:
        yield "sort = true  # rows are not in the order of time: their columns are held in memory"
    yield ""
    yield "[input.columns]"
    yield from _choice("user_id", guess.user_id, needed=True)
    yield from _choice("item_id", guess.item_id, needed=True)
    yield from _choice("ts", guess.ts, needed=True)
    if guess.ts_unit is not None:
        yield f'ts_unit = "{guess.ts_unit}"  # from the size of the numbers'
    if guess.ts_shift_s:
        yield (
            f"ts_shift_s = {guess.ts_shift_s}  # whole weeks: the stream takes no times before "
            "2001-09-09"
        )
    yield from _choice("label", guess.label, needed=True)
    if guess.label_at_least is not None:
        yield f"label_at_least = {guess.label_at_least:g}  # the upper quarter of the scale"
    if guess.impression_id is None:
        yield '# impression_id = ""  # no column is different in every row: the row number is taken'
    yield from _choice("impression_id", guess.impression_id)
    yield from _choice("request_id", guess.request_id)
    yield from _choice("scene", guess.scene)
    yield from _choice("position", guess.position)
    yield ""
    yield "[input.feedback]"
    yield 'action = "click"'
    if guess.time_column is not None:
        yield from _choice("time_column", guess.time_column)
        if guess.delay_s is not None:
            median, ninth = (f"{seconds / 60:.1f}" for seconds in guess.delay_s)
            yield f"# in the sample half of it comes within {median} minutes, 90 % within {ninth}"
    else:
        yield "delay_s = 60  # the log does not say when; never 0, which shows the model the future"
    yield ""
    yield "[input.features]  # name in the event = column"
    for f in guess.features:
        yield f"{_key(f.name)} = {_text(f.column)}  # {f.reason}"
    for choice in guess.left_out:
        column = choice.column
        yield f"# {_key(column)} = {_text(column)}  # left out: {choice.reason}"


def _features(guess: Guess) -> Iterator[str]:
    scene = ["scene"] if guess.scene is not None else []
    names = {
        kind: [f.name for f in guess.features if f.kind == kind]
        for kind in ("id", "number", "list")
    }
    half_lives = _HALF_LIVES_H[guess.span_h <= _SHORT_H]
    yield "[features]"
    yield f"ids = {_list(['item', 'user', *scene, *names['id']])}"
    if names["number"]:
        yield f"numbers = {_list(names['number'])}"
    if names["list"]:
        lists = ", ".join(f"{_key(name)} = {_LIST_LENGTH}" for name in names["list"])
        yield f"lists = {{ {lists} }}"
    yield "history = 20  # the user's most recent clicks"
    keys = [["item"], ["user"], *([["item", *scene]] if scene else [])]
    for key in [*keys, ["user", "item"], ["last_click", "item"]]:
        yield ""
        yield "[[features.statistics]]"
        yield f"key = {_list(key)}"
        days = (
            f"{guess.span_h / 24:.1f} days" if guess.span_h >= 24 else f"{guess.span_h:.1f} hours"
        )
        span = f"  # for a log of {days}" if guess.span_h else ""
        yield f"half_lives_h = [{', '.join(f'{h:g}' for h in half_lives)}]{span}"


def _choice(key: str, choice: Choice | None, needed: bool = False) -> Iterator[str]:
    if choice is not None:
        columns = choice.columns
        value = _text(columns[0]) if len(columns) == 1 else _list(columns)
        yield f"{key} = {value}  # {choice.reason}"
    elif needed:
        yield f'# {key} = "..."  # TO DO: see above'


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str) -> str:
    return json.dumps(value)


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(_text(v) for v in values)}]"
