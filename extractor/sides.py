"""Which inputs of a model belong to the item, to the user, to the occasion, or to several of them.

What belongs to one entity alone can be extracted: it is the same wherever the entity occurs.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from networks.shape import ModelShape
from trainer.errors import ModelError
from trainer.schema import CLOCK, HISTORY, LAST_CLICK

Side = Literal["item", "user", "context", "pair"]

_STATISTIC: Final = re.compile(r"(.+)\.(?:(?:shown|clicked|ctr)\.[^.]+(?:\.\d+)?h|age)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class SideInputs:
    """The inputs of one side: indices of id fields and of numbers."""

    ids: tuple[int, ...]
    numbers: tuple[int, ...]

    def width(self, embedding: int) -> int:
        """Return the width of them side by side."""
        return len(self.ids) * embedding + len(self.numbers)


class Sides:
    """Who owns each id field and each number of a shape, by its name.

    A statistic belongs to its key; a cross, a number of the event, and what is relative to the
    request say more than one entity's, so they are of the pair: used, and never extracted.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        item_fields: Collection[str] = (),
        user_fields: Collection[str] = (),
        category: str = "",
    ) -> None:
        """Sort the inputs of ``shape``. Raises ModelError where the model would have no sides."""
        for field in (
            "item",
            "user",
            *item_fields,
            *user_fields,
            *([category] if category else []),
        ):
            if field not in shape.id_fields:
                raise ModelError(
                    f"keep: {field!r} is not among the id fields {', '.join(shape.id_fields)}: "
                    "put it into features.ids, or take it out of [extractor]."
                )
        self._items = frozenset(("item", *item_fields, *([category] if category else [])))
        self._users = frozenset(("user", LAST_CLICK, *user_fields))
        if both := self._items & self._users:
            raise ModelError(f"keep: {min(both)!r} is the item's and the user's: choose one.")
        names = {"ids": shape.id_fields, "numbers": shape.numbers}
        owner = {
            "ids": [self._of_field(name) for name in shape.id_fields],
            "numbers": [self.of_number(name) for name in shape.numbers],
        }

        def of(side: Side) -> SideInputs:
            return SideInputs(
                **{
                    kind: tuple(i for i in range(len(names[kind])) if owner[kind][i] == side)
                    for kind in names
                }
            )

        self.item, self.user = of("item"), of("user")
        self.context, self.pair = of("context"), of("pair")
        named = [name for name, _ in shape.sequences]
        self.history = named.index(HISTORY) if HISTORY in named else None
        self.lists = tuple(i for i in range(len(named)) if i != self.history)  # of the occasion
        self.query = shape.id_fields.index(category or "item")  # what attends to the history

    def of_number(self, name: str) -> Side:
        """Return the side of a number.

        >>> shape = ModelShape(("item", "user"), (), (), (), 4)
        >>> sides = Sides(shape)
        >>> [sides.of_number(n) for n in ("item@a.ctr.0.5h", "user*item.age", "hour_sin", "price")]
        ['item', 'pair', 'context', 'pair']
        """
        if name in CLOCK:
            return "context"
        found = _STATISTIC.fullmatch(name)
        return self._of_parts(found[1].partition("@")[0].split("*")) if found else "pair"

    def _of_field(self, name: str) -> Side:
        return "pair" if "*" in name else self._of_parts([name])

    def _of_parts(self, parts: Collection[str]) -> Side:
        if self._items.issuperset(parts):
            return "item"
        if self._users.issuperset(parts):
            return "user"
        return "pair" if not (self._items | self._users).isdisjoint(parts) else "context"
