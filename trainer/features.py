"""Impressions as rows: everything that a model, the metrics and later feedback need of them.

m accepted impressions, F id fields, S positions of all sequences, D numbers, K statistics.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.events import EventColumns
from stream.ids import hash_integers, hash_text, salted
from stream.join import Joined, Settled
from stream.pending import ColumnSpec, PendingRows
from stream.state import State
from trainer.history import ClickHistory
from trainer.keys import combined
from trainer.schema import CLOCK, LAST_CLICK, FeatureSchema
from trainer.statistics import ClickRate, Decay, KeyStatistics, log_in_place
from trainer.timeline import Timeline

Columns = dict[str, npt.NDArray[Any]]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_COPIED: Final[dict[str, npt.DTypeLike]] = {  # event columns that a row has as they are
    "ts": np.int64,
    "at": np.int64,
    "impression": np.uint64,
    "user": np.uint64,
    "item": np.uint64,
    "request": np.uint64,
    "scene": np.uint64,
    "partition": np.int16,
    "offset": np.int64,
    "row": np.int32,
}
_SHOW: Final = ("at", "user", "item", "keys")  # what it takes to let an impression count
_CLICK: Final = ("at", "shown_at", "user", "item", "keys")  # and a click


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """How many keys and users are remembered."""

    max_keys: int = 500_000  # a statistic, twice: 200 bytes a key with four half-lives, 0.1 GB
    max_users: int = 200_000  # twice: 400 bytes a user with a history of 20, 80 MB

    def __post_init__(self) -> None:
        for name in ("max_keys", "max_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Set it to 1 or more.")


class Features:
    """Gives every accepted impression its row, as of its moment (docs/architecture.md §3).

    How the events are cut into blocks changes no bit of any row. Memory: for each statistic and
    for the users' clicks what `trainer.generations` states.
    """

    def __init__(self, schema: FeatureSchema, config: FeatureConfig | None = None) -> None:
        self._schema = schema
        self._config = config or FeatureConfig()
        events = schema.event_schema()
        self._id_column = {name: i for i, name in enumerate(events.ids)}
        self._list_column, start = {}, 0
        for name, width in events.lists:
            self._list_column[name] = slice(start, start + width)
            start += width
        self._scenes = [
            np.array([hash_text(name) for name in s.scenes], np.uint64) if s.scenes else None
            for s in schema.statistics
        ]
        self._clear()

    def _clear(self) -> None:
        schema, most = self._schema, self._config.max_keys
        self._history = ClickHistory(schema.history, max_users=self._config.max_users)
        self._rate = ClickRate()
        self._statistics = [
            KeyStatistics(s.half_lives_h, age=s.age, max_keys=most, held_s=s.held_s)
            for s in schema.statistics
        ]
        self._items = KeyStatistics((), age=True, max_keys=most)  # when items were first seen
        keys = len(self._statistics)  # of the last moment, which does not count yet:
        self._open_shows = {name: _none(name, keys) for name in _SHOW}
        self._open_clicks = {name: _none(name, keys) for name in _CLICK}

    def columns(self) -> ColumnSpec:
        """Return what a row consists of, for `PendingRows`."""
        schema = self._schema
        return {
            "ids": (np.uint64, len(schema.id_fields)),  # salted by field, 0 where absent
            "sequences": (np.uint64, sum(n for _, n in schema.sequences)),  # likewise, padded
            "numbers": (np.float32, len(schema.row_numbers)),  # NaN: missing in the event
            "keys": (np.uint64, len(schema.statistics)),  # that it counts for, as its click does
            "oracle": (np.float32, None),  # NaN where there is none
            "user_activity": (np.int32, None),  # the user's earlier impressions
            "item_age_h": (np.float32, None),  # since the item was first shown; 0: never before
            **{name: (dtype, None) for name, dtype in _COPIED.items()},
        }

    def observe(self, events: EventColumns, joined: Joined, pending: PendingRows | None) -> Columns:
        """Return the rows of ``joined.accepted``; let impressions and first clicks count.

        ``pending`` has the rows of all earlier impressions that may still get feedback; the caller
        appends the rows returned.
        """
        m = joined.accepted.size
        rows: Columns = {
            name: np.zeros(m if width is None else (m, width), dtype)
            for name, (dtype, width) in self.columns().items()
        }
        rows |= {name: getattr(events, name)[joined.accepted] for name in _COPIED}
        self._of_the_event(rows, events, joined.accepted)
        known, source, clicks = self._clicks(events, joined, pending, rows)
        show = {n: _after(self._open_shows[n], rows[n]) for n in ("at", "user", "item")}
        click = {n: _after(self._open_clicks[n], clicks[n]) for n in _CLICK if n != "keys"}
        if not show["at"].size + click["at"].size:
            return rows

        timeline = Timeline.of(show["at"], click["at"], click["shown_at"], show["at"].size - m)
        last_click, rows["user_activity"] = self._history.observe(
            timeline, show["user"], click["user"], click["item"], rows["sequences"]
        )
        parts = self._parts(events, joined.accepted, last_click)
        for i, name in enumerate(self._schema.ids):
            rows["ids"][:, i] = salted(parts[name], name)
        for i, cross in enumerate(self._schema.crosses, len(self._schema.ids)):
            rows["ids"][:, i] = combined([parts[p] for p in cross], f"cross:{'*'.join(cross)}")
        read_keys: dict[int, U64] = {}  # where others are read than are counted
        for k, s in enumerate(self._schema.statistics):
            rows["keys"][:, k] = combined([parts[p] for p in s.key], f"statistic:{s.name}")
            if (scenes := self._scenes[k]) is not None:
                read_keys[k] = rows["keys"][:, k].copy()
                rows["keys"][~np.isin(rows["scene"], scenes), k] = 0
        clicks["keys"][~known] = rows["keys"][source[~known]]
        show["keys"] = _after(self._open_shows["keys"], rows["keys"])
        click["keys"] = _after(self._open_clicks["keys"], clicks["keys"])
        rows["item_age_h"] = self._count(timeline, read_keys, show, click["keys"], rows["numbers"])
        open_shows, open_clicks = show["at"] == timeline.last, click["at"] == timeline.last
        self._open_shows = {name: show[name][open_shows] for name in _SHOW}
        self._open_clicks = {name: click[name][open_clicks] for name in _CLICK}
        return rows

    def peek(self, events: EventColumns) -> Columns:
        """Return the rows that impressions would have, all of one moment; none of them counts.

        The moment (`at`) lies after all that was observed: `last_ms`. It changes no bit of any row
        of that moment or later ones; only time has passed, and no earlier event may come.
        """
        last, m = self.last_ms, len(events)
        if m and (events.at != events.at[0]).any():
            raise ValueError("A peek is at one moment: give all its events the same `at`.")
        if m and last is not None and events.at[0] <= last:
            raise ValueError(
                f"A peek at {events.at[0]} would not see all of it: events until {last} have been "
                "observed. Peek at a later moment."
            )
        rows = self.observe(events, _all_accepted(m), None)
        if m:  # what was open before has counted by now; what came here never will
            keys = len(self._statistics)
            self._open_shows = {name: _none(name, keys) for name in _SHOW}
            self._open_clicks = {name: _none(name, keys) for name in _CLICK}
        return rows

    def lift(self) -> None:
        """Read statistics that are held as of the moment, from now on: vectors are made of that."""
        for statistics in self._statistics:
            statistics.lifted = True

    @property
    def last_ms(self) -> int | None:
        """The moment (event time, ms) of the newest observation; None: none, or time has passed."""
        return max(
            (int(o["at"][-1]) for o in (self._open_shows, self._open_clicks) if o["at"].size),
            default=None,
        )

    def _clicks(
        self, events: EventColumns, joined: Joined, pending: PendingRows | None, rows: Columns
    ) -> tuple[npt.NDArray[np.bool_], I64, Columns]:
        """Return the clicks that made a positive.

        Most of it is in the rows of their impressions, which are ``known`` (C,) to ``pending``, or
        else at the place ``source`` (C,) of ``rows``, which have no keys yet.
        """
        first = joined.matched_is_label
        seq = joined.matched_seq[first]
        source = seq - joined.first_seq
        known = source < 0
        old = None
        if known.any():
            assert pending is not None, "the rows of impressions that get feedback are waiting"
            old = pending.take(seq[known], ("keys", "user", "item", "at"))
        clicks: Columns = {"at": events.at[joined.matched_event[first]]}
        for name, column in (
            ("shown_at", "at"),
            ("user", "user"),
            ("item", "item"),
            ("keys", "keys"),
        ):
            clicks[name] = np.empty((seq.size, *rows[column].shape[1:]), rows[column].dtype)
            if old is not None:
                clicks[name][known] = old[column]
            clicks[name][~known] = rows[column][source[~known]]
        clicks["item"] = salted(clicks["item"], "item")  # as histories hold it
        return known, source, clicks

    def _parts(self, events: EventColumns, accepted: I64, last_click: U64) -> dict[str, U64]:
        """Return all that ids and keys are made of, (m,) each, by name."""
        position = events.position[accepted]
        parts = {
            "item": events.item[accepted],
            "user": events.user[accepted],
            "scene": events.scene[accepted],
            "position": np.where(position < 0, np.uint64(0), hash_integers(position)),
            LAST_CLICK: last_click,
        }
        ids = events.ids[accepted]
        return parts | {n: np.ascontiguousarray(ids[:, i]) for n, i in self._id_column.items()}

    def _count(
        self,
        timeline: Timeline,
        read_keys: dict[int, U64],
        show: Columns,
        click_keys: U64,
        numbers: F32,
    ) -> F32:
        """Fill the statistics' columns of ``numbers``, and return the items' ages (m,), hours."""
        schema = self._schema
        m = numbers.shape[0]
        if schema.prior_ctr is None:
            prior = self._rate.observe(timeline)
        else:
            prior = np.full(m, schema.prior_ctr)
        decays: dict[tuple[float, ...], Decay] = {}
        first = column = schema.statistic_columns.start
        for k, (s, counts) in enumerate(zip(schema.statistics, self._statistics, strict=True)):
            if s.half_lives_h not in decays:
                decays[s.half_lives_h] = Decay.of(timeline, s.half_lives_h)
            counts.observe(
                timeline,
                decays[s.half_lives_h],
                np.ascontiguousarray(show["keys"][:, k]),
                np.ascontiguousarray(click_keys[:, k]),
                read_key=read_keys.get(k),
                prior_shown=schema.prior_shown,
                prior_ctr=prior,
                out=numbers,
                column=column,
            )
            column += counts.columns
        log_in_place(numbers, first, column)
        age = np.empty((m, 1), np.float32)
        self._items.observe(
            timeline,
            Decay.of(timeline, ()),
            show["item"],
            np.zeros(timeline.click.size, np.uint64),
            prior_shown=schema.prior_shown,
            prior_ctr=prior,
            out=age,
            column=0,
        )
        return age[:, 0] - np.float32(1)

    def _of_the_event(self, rows: Columns, events: EventColumns, accepted: I64) -> None:
        """Fill in what depends on the event alone."""
        schema = self._schema
        measured = events.numbers[accepted]
        n = len(schema.numbers)
        rows["numbers"][:, :n] = measured[:, :n]
        if schema.hour_of_day:
            rows["numbers"][:, n : n + len(CLOCK)] = _clock(rows["ts"])
        rows["oracle"][:] = np.nan if schema.oracle is None else measured[:, n]
        listed = events.lists[accepted]
        start = schema.history
        for feature in schema.lists:
            values = listed[:, self._list_column[feature.name]]
            ids = salted(values.ravel(), feature.like or feature.name)
            rows["sequences"][:, start : start + feature.length] = ids.reshape(values.shape)
            start += feature.length

    def state(self) -> State:
        """Return a copy of all statistics and histories, and of what the last moment will add."""
        return {
            "history": self._history.state(),
            "rate": self._rate.state(),
            "statistics": {str(k): s.state() for k, s in enumerate(self._statistics)},
            "items": self._items.state(),
            "open_shows": {name: column.copy() for name, column in self._open_shows.items()},
            "open_clicks": {name: column.copy() for name, column in self._open_clicks.items()},
            "schema": self._schema.digest,
        }

    def restore(self, state: State) -> None:
        """Continue as the one that gave ``state``; it must have the same schema."""
        if state["schema"] != self._schema.digest:
            raise ValueError(
                f"the state is of feature schema {state['schema']}, not {self._schema.digest}: "
                "resume with the [features] it was made with"
            )
        self._history.restore(state["history"])
        self._rate.restore(state["rate"])
        for k, statistics in enumerate(self._statistics):
            statistics.restore(state["statistics"][str(k)])
        self._items.restore(state["items"])
        self._open_shows = {name: np.array(state["open_shows"][name]) for name in _SHOW}
        self._open_clicks = {name: np.array(state["open_clicks"][name]) for name in _CLICK}


def _all_accepted(m: int) -> Joined:
    """Return what a join says of ``m`` new impressions without any feedback."""
    none, no = np.zeros(0, np.int64), np.zeros(0, np.uint8)
    return Joined(
        accepted=np.arange(m, dtype=np.int64),
        first_seq=0,
        matched_event=none,
        matched_seq=none,
        matched_action=no,
        matched_is_label=no.astype(np.bool_),
        refused=none,
        settled=Settled(seq=none, label=no, label_at=none, actions=no, kind=no, before=none),
    )


def _none(name: str, keys: int) -> npt.NDArray[Any]:
    if name == "keys":
        return np.zeros((0, keys), np.uint64)
    return np.zeros(0, np.int64 if name in ("at", "shown_at") else np.uint64)


def _after(carried: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([carried, new]) if len(carried) else new


def _clock(ts: I64) -> F32:
    """Return the sine and cosine of the time of day, and 1 on Saturdays and Sundays, UTC (m, 3)."""
    angle = (ts % _DAY_MS) * (2 * np.pi / _DAY_MS)
    weekend = (ts // _DAY_MS + 3) % 7 >= 5  # 1970-01-01 was a Thursday: Monday is 0
    return np.stack([np.sin(angle), np.cos(angle), weekend], axis=1).astype(np.float32)
