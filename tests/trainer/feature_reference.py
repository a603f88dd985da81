"""What features ought to be, the slow and plain way; and random joined logs to compare on."""

from dataclasses import dataclass
from math import log, log1p
from typing import Any

import numpy as np

from stream.events import FEEDBACK, IMPRESSION, EventColumns
from stream.ids import hash_integers, hash_text, salted
from stream.join import Joined, Settled
from trainer.schema import FeatureSchema

START = 1_700_000_000_000
HOUR = 3_600_000


@dataclass
class Log:
    """Events in canonical order, which of them were accepted, and which feedback was matched."""

    events: EventColumns
    accepted: list[int]
    matched: list[tuple[int, int, bool]]  # event, seq, whether it made a positive

    def cut(self, low: int, high: int) -> tuple[EventColumns, Joined]:
        """Return the events from ``low`` to ``high`` as the join would hand them on."""
        here = [m for m in self.matched if low <= m[0] < high]
        none = np.zeros(0, np.int64)
        joined = Joined(
            accepted=np.array([i - low for i in self.accepted if low <= i < high], np.int64),
            first_seq=sum(i < low for i in self.accepted),
            matched_event=np.array([m[0] - low for m in here], np.int64),
            matched_seq=np.array([m[1] for m in here], np.int64),
            matched_action=np.zeros(len(here), np.uint8),
            matched_is_label=np.array([m[2] for m in here], np.bool_),
            refused=none,
            settled=Settled(
                none, *[none.astype(np.uint8)] * 1, none, *[none.astype(np.uint8)] * 2, none
            ),
        )
        return self.events.take(slice(low, high)), joined


def random_log(seed: int, schema: FeatureSchema, n: int = 60) -> Log:
    """Return a small world: equal times, duplicates, early clicks, second clicks."""
    rng = np.random.default_rng(seed)
    at = np.sort(
        START + rng.integers(0, 1 + n // 2, n) * int(rng.choice([1, 977, HOUR, 40 * HOUR]))
    )
    kind = np.where(rng.random(n) < 0.7, IMPRESSION, FEEDBACK).astype(np.uint8)
    order = np.lexsort((kind, at))
    events = EventColumns.empty(schema.event_schema(), n)
    events.kind[:], events.at[:] = kind[order], at[order]
    events.ts[:] = events.at - rng.integers(0, 5000, n)
    for name, most in (("user", 4), ("item", 5), ("scene", 3), ("request", 9)):
        getattr(events, name)[:] = hash_integers(rng.integers(0, most, n))
    events.scene[rng.random(n) < 0.2] = 0
    events.position[:] = rng.integers(-1, 3, n)
    events.ids[:] = rng.integers(0, 4, events.ids.shape)
    events.lists[:] = rng.integers(0, 4, events.lists.shape)
    events.numbers[:] = rng.normal(size=events.numbers.shape)
    accepted: list[int] = []
    matched = []
    positive = set()
    for i in range(n):
        if events.kind[i] == IMPRESSION:
            if rng.random() < 0.1:
                continue  # a duplicate
            accepted.append(i)
            if rng.random() < 0.15:  # its click came early
                matched.append((i, len(accepted) - 1, True))
                positive.add(len(accepted) - 1)
        elif accepted:
            seq = int(rng.integers(max(0, len(accepted) - 12), len(accepted)))
            matched.append((i, seq, seq not in positive))
            positive.add(seq)
    return Log(events, accepted, matched)


def expected(log_: Log, schema: FeatureSchema) -> list[dict[str, Any]]:
    """Return the statistics, history, activity and item age of every accepted impression."""
    events = log_.events
    names = schema.event_schema().ids
    at = [int(events.at[i]) for i in log_.accepted]
    clicks = [(int(events.at[e]), seq) for e, seq, first in log_.matched if first]
    keys: list[list[tuple[int, ...] | None]] = []
    rows = []
    for seq, i in enumerate(log_.accepted):
        now = at[seq]
        before = [j for j in range(seq) if at[j] < now]
        clicked = [j for when, j in clicks if when < now]

        item = int(events.item[i])
        user = int(events.user[i])
        mine = [j for j in clicked if events.user[log_.accepted[j]] == user]
        recent = [int(events.item[log_.accepted[j]]) for j in reversed(mine)][: schema.history]
        parts = {
            "item": item,
            "user": user,
            "scene": int(events.scene[i]),
            "position": int(events.position[i]) + 1,
            "last_click": int(events.item[log_.accepted[mine[-1]]]) if mine else 0,
            **{n: int(events.ids[i, k]) for k, n in enumerate(names)},
        }
        own = [tuple(parts[p] for p in s.key) for s in schema.statistics]
        keys.append([k if all(k) else None for k in own])

        def decayed(past: list[int], h: float, now: int = now) -> float:
            return float(sum(2 ** -((now - at[j]) / HOUR / h) for j in past))

        ctr = schema.prior_ctr
        if ctr is None:
            ctr = (decayed(clicked, 24) + 5) / (decayed(before, 24) + 100)
        numbers = []
        for k, s in enumerate(schema.statistics):
            known = keys[seq][k] is not None
            hold = None if s.held_s is None else round(1000 * s.held_s)
            as_of = now if hold is None else now // hold * hold
            counts = {hash_text(name) for name in s.scenes}
            mine = [
                j
                for j in range(seq)
                if known
                and keys[j][k] == keys[seq][k]
                and (not counts or int(events.scene[log_.accepted[j]]) in counts)
            ]
            same = [j for j in mine if at[j] < as_of]
            won = [j for when, j in clicks if when < as_of and j in mine]
            for h in s.half_lives_h:
                shown, click = decayed(same, h, as_of), decayed(won, h, as_of)
                a, b = schema.prior_shown * ctr, schema.prior_shown * (1 - ctr)
                odds = (click + a) / (shown - click + b)
                numbers += [log1p(shown), log1p(click), log(odds * b / a)]
            if s.age:
                numbers.append(log1p((as_of - at[same[0]]) / HOUR) if same else 0.0)
        first = [at[j] for j in before if int(events.item[log_.accepted[j]]) == item]
        rows.append(
            {
                "numbers": numbers,
                "history": salted(np.array(recent, np.uint64), "item").tolist(),
                "activity": sum(int(events.user[log_.accepted[j]]) == user for j in before),
                "item_age_h": (now - first[0]) / HOUR if first else 0.0,
            }
        )
    return rows
