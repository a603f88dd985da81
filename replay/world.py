"""A simulated world of users, items and scenes whose click probabilities are known.

Every impression is clicked with a probability that follows from the user, the item, the scene, the
place and the time, so the best reachable AUC and log loss are those of that probability itself.
Tastes and qualities are hashes of who they belong to: the world needs no memory however many
users and items it has had. Shapes: R requests, K the longest slate, n impressions, m clicks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.ids import hash_integers, salted

BLOCK: Final = 512  # requests drawn at once; a part of what a seed means
DAY_S: Final = 86_400.0
DEVICES: Final = ("mobile", "desktop", "tablet")
AGE_GROUPS: Final = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
CATEGORIES: Final = (
    "news", "sport", "music", "travel", "food", "health", "science", "business", "games", "style",
)  # fmt: skip

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """How large the world is, and how quickly it changes. Spreads are of the click's logit."""

    seed: int = 0  # same seed, same world
    impressions: int | None = 200_000  # then it ends; None: never
    start_ms: int = 1_700_006_400_000  # 2023-11-15 00:00 UTC
    requests_per_s: float = 0.25  # of event time: the default world lasts about a day
    day_swing: float = 0.5  # traffic rises and falls by this share, peaking at noon
    slate: tuple[int, int] = (5, 12)  # the fewest and the most items a request shows
    users: int = 2000  # who come back at any time
    items: int = 600  # which can be shown at any time
    new_users_per_s: float = 0.0  # endless growth for tests of memory; the oldest stop coming
    new_items_per_s: float = 0.005  # each takes the place of the oldest: an item lives 33 h
    scenes: tuple[str, ...] = ("front_page", "article_page")
    scene_shares: tuple[float, ...] = (0.9, 0.1)  # the second is sparse
    scene_biases: tuple[float, ...] = (0.0, -0.5)  # and clicked less
    base: float = -2.1  # logit of an average click at the top of a slate: CTR about 0.1 over all
    item_spread: float = 0.7  # some items are better
    group_spread: float = 0.8  # age groups like categories: quick to learn
    taste_spread: float = 0.5  # so do users, each their own: slow to learn
    user_spread: float = 0.4  # some users click more
    scene_spread: float = 0.3  # categories do better on one scene than on another
    position_bias: float = 0.45  # lost with the log of the place
    age_bias: float = 0.25  # lost with the log of an item's age
    price_bias: float = 0.3  # lost with the log of the price
    drift_days: float = 4.0  # own tastes turn round in this time
    click_delay_s: float = 20.0  # median
    click_delay_spread: float = 1.0  # of its log: 1 in 2,900 comes after 10 minutes

    def __post_init__(self) -> None:
        if not len(self.scenes) == len(self.scene_shares) == len(self.scene_biases) > 0:
            raise ValueError("scenes, scene_shares and scene_biases must be of one length")
        if not 1 <= self.slate[0] <= self.slate[1] <= self.items:
            raise ValueError(f"slate = {self.slate} must rise, up to items = {self.items}")
        if self.requests_per_s <= 0 or not 0 <= self.day_swing < 1 or self.users < 1:
            raise ValueError("requests_per_s and users must be above 0, day_swing in [0, 1)")


@dataclass(frozen=True, eq=False)
class Impressions:
    """Columns (n,) in order of time; a request's stand together, by position."""

    at_ms: I64
    request: I64
    position: I64
    user: I64
    item: I64
    scene: I64  # index into WorldConfig.scenes; below into the constants of this module
    device: I64
    age_group: I64
    category: I64
    price: F64
    p: F64  # the true click probability, rounded to six digits
    clicked: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return self.at_ms.size


@dataclass(frozen=True, eq=False)
class Clicks:
    """Columns (m,) in order of time."""

    at_ms: I64
    request: I64
    position: I64
    user: I64

    def take(self, index: Any) -> "Clicks":
        """Return the clicks at ``index``."""
        return Clicks(
            self.at_ms[index], self.request[index], self.position[index], self.user[index]
        )


@dataclass(frozen=True, eq=False)
class WorldBlock:
    """What happens up to ``until_ms``, after the block before it."""

    impressions: Impressions
    clicks: Clicks  # of these and of earlier impressions
    until_ms: int


class World:
    """A deterministic stream of impressions and clicks: iterate it again, and it is the same."""

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()

    def blocks(self) -> Iterator[WorldBlock]:
        """Yield everything that happens in order of time; late clicks come after the last slate."""
        c = self.config
        left, clock, number = c.impressions, 0.0, 0
        waiting = Clicks(*(np.empty(0, np.int64) for _ in range(4)))
        while left is None or left > 0:
            rng = np.random.default_rng([c.seed, number])
            arrivals = clock + np.cumsum(rng.exponential(1.0 / c.requests_per_s, BLOCK))
            clock, at_s = float(arrivals[-1]), self._swing(arrivals)
            shown = self._requests(rng, at_s, number * BLOCK, left)
            clicks = _merged(waiting, self._clicks(rng, shown))
            number += 1
            if left is not None:
                left -= len(shown)
            until = int(shown.at_ms[-1])
            now = clicks.at_ms <= until
            waiting = clicks.take(~now)
            yield WorldBlock(shown, clicks.take(now), until)
        if waiting.at_ms.size:
            last = int(waiting.at_ms[-1])
            yield WorldBlock(_empty(), waiting, last)

    def oracle(self) -> dict[str, float | int | None]:
        """Return the best figures anyone can reach: those of the true probability itself.

        Walks through the whole (finite) world, at about a million impressions a second, and keeps
        nine bytes of each.
        """
        if self.config.impressions is None:
            raise ValueError("an endless world has no final figures: set impressions")
        p_parts, y_parts, of_requests, requests = [], [], 0.0, 0
        for block in self.blocks():
            shown = block.impressions
            p_parts.append(shown.p)
            y_parts.append(shown.clicked)
            total, n = _request_aucs(shown, self.config.slate[1])
            of_requests, requests = of_requests + total, requests + n
        p, y = np.concatenate(p_parts), np.concatenate(y_parts)
        base = float(y.mean())
        entropy = -(base * log(base) + (1 - base) * log(1 - base)) if 0 < base < 1 else None
        loss = float(-np.where(y, np.log(p), np.log1p(-p)).mean())
        return {
            "examples": int(y.size),
            "clicks": int(y.sum()),
            "logloss": loss,
            "logloss_base_rate": entropy,
            "normalized_entropy": loss / entropy if entropy else None,
            "auc": _auc(p, y),
            "auc_request": of_requests / requests if requests else None,
        }

    def _swing(self, s: F64) -> F64:
        """Warp an even stream so that traffic follows the day, by Newton steps."""
        swing, turn = self.config.day_swing, 2.0 * np.pi / DAY_S
        t = s.copy()
        for _ in range(8):
            passed = t - swing * np.sin(turn * t) / turn  # the integral of 1 - swing cos
            t -= (passed - s) / (1.0 - swing * np.cos(turn * t))
        return np.maximum.accumulate(t)

    def _requests(
        self, rng: np.random.Generator, at_s: F64, first: int, left: int | None
    ) -> Impressions:
        c, rows, wide = self.config, at_s.size, self.config.slate[1]
        newest = c.users - 1 + np.floor(at_s * c.new_users_per_s).astype(np.int64)
        rank = (c.users * rng.random(rows) ** 2.0).astype(np.int64)  # few come often, many rarely
        user_R = newest - rank
        scene_R = np.searchsorted(
            np.cumsum(c.scene_shares) / sum(c.scene_shares), rng.random(rows), side="right"
        )
        slots_R = rng.integers(c.slate[0], wide + 1, rows)
        drawn_RK = np.sort((c.items - wide + 1) * rng.random((rows, wide)) ** 2.0, axis=1)
        age_RK = drawn_RK.astype(np.int64) + np.arange(wide)  # distinct; the newest are shown most
        age_RK = np.take_along_axis(age_RK, np.argsort(rng.random((rows, wide)), axis=1), axis=1)
        born = np.floor(at_s * c.new_items_per_s).astype(np.int64)
        item_RK = (c.items - 1 + born)[:, None] - age_RK
        keep = np.arange(wide) < slots_R[:, None]
        request = np.repeat(np.arange(first, first + rows), slots_R)
        row, position = np.nonzero(keep)
        end = request.size if left is None else min(left, request.size)
        row, position, request = row[:end], position[:end], request[:end]
        user, item = user_R[row], item_RK[keep][:end]
        scene, at = scene_R[row], at_s[row]
        p, shown = self._probability(user, item, scene, position, at)
        return Impressions(
            at_ms=c.start_ms + (at * 1000.0).astype(np.int64),
            request=request,
            position=position,
            user=user,
            item=item,
            scene=scene,
            p=p,
            clicked=rng.random((rows, wide))[keep][:end] < p,
            **shown,
        )

    def _probability(
        self, user: I64, item: I64, scene: I64, position: I64, at_s: F64
    ) -> tuple[F64, dict[str, Any]]:
        """Return the click probability of impressions (n,), and the features that explain it."""
        c, kinds = self.config, len(CATEGORIES)
        device = self._choice(user, "device", (0.6, 0.3, 0.1))
        group = self._choice(user, "age_group", (1.0,) * len(AGE_GROUPS))
        category = self._choice(item, "category", 1.0 / np.arange(2, kinds + 2))
        price = np.round(np.exp(1.5 + 0.8 * self._normal(item, "price")), 2)
        if c.new_items_per_s > 0:
            age_h = np.maximum(at_s - (item - c.items + 1) / c.new_items_per_s, 0.0) / 3600.0
        else:
            age_h = at_s / 3600.0
        angle = 2.0 * np.pi * at_s / (c.drift_days * DAY_S)
        own = user * kinds + category
        taste = np.cos(angle) * self._normal(own, "taste")
        taste += np.sin(angle) * self._normal(own, "later taste")
        logit = (
            c.base
            + np.asarray(c.scene_biases)[scene]
            + c.item_spread * self._normal(item, "quality")
            + c.user_spread * self._normal(user, "activity")
            + c.group_spread * self._normal(group * kinds + category, "group")
            + c.scene_spread * self._normal(scene * kinds + category, "scene")
            + c.taste_spread * taste
            - c.position_bias * np.log1p(position) * np.array([1.3, 0.8, 1.0])[device]
            - c.age_bias * np.log1p(age_h / 6.0)
            - c.price_bias * (np.log(price) - 1.5)
        )
        p = np.clip(np.round(1.0 / (1.0 + np.exp(-logit)), 6), 1e-6, 1.0 - 1e-6)
        return p, {"device": device, "age_group": group, "category": category, "price": price}

    def _bits(self, of: I64, what: str) -> npt.NDArray[np.uint64]:
        return salted(hash_integers(of), f"world {self.config.seed} {what}")

    def _normal(self, of: I64, what: str) -> F64:
        """Return a nearly normal number (n,) that belongs to each: four 16-bit uniforms, summed.

        Only whole numbers are added up: the same on every machine.
        """
        bits = self._bits(of, what)
        total = np.zeros(of.size, np.int64)
        for k in range(4):
            total += ((bits >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.int64)
        return (total - 131_070) / 37_837.0  # mean 4 · 32767.5; deviation 65536 / √12 · √4

    def _choice(self, of: I64, what: str, weights: Any) -> I64:
        """Return which of the weighted options (n,) belongs to each."""
        edges = np.cumsum(weights) / np.sum(weights)
        uniform = (self._bits(of, what) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        option = np.searchsorted(edges, uniform, side="right")
        return np.asarray(np.minimum(option, edges.size - 1), np.int64)

    def _clicks(self, rng: np.random.Generator, shown: Impressions) -> Clicks:
        c, of = self.config, np.flatnonzero(shown.clicked)
        delay_s = c.click_delay_s * np.exp(c.click_delay_spread * rng.standard_normal(of.size))
        at = shown.at_ms[of] + np.maximum(delay_s * 1000.0, 1.0).astype(np.int64)
        return Clicks(at, shown.request[of], shown.position[of], shown.user[of])


def _merged(first: Clicks, second: Clicks) -> Clicks:
    both = Clicks(
        *(np.concatenate([getattr(first, f), getattr(second, f)]) for f in Clicks.__annotations__)
    )
    return both.take(np.argsort(both.at_ms, kind="stable"))


def _empty() -> Impressions:
    none = np.empty(0, np.int64)
    columns = dict.fromkeys(Impressions.__annotations__, none)
    return Impressions(**{**columns, "p": np.empty(0), "clicked": np.empty(0, bool)})


def _auc(p: F64, y: npt.NDArray[np.bool_]) -> float | None:
    values, group = np.unique(p, return_inverse=True)
    clicked = np.bincount(group[y], minlength=values.size).astype(np.float64)
    other = np.bincount(group[~y], minlength=values.size).astype(np.float64)
    pairs = clicked.sum() * other.sum()
    won = (clicked * (np.cumsum(other) - other / 2.0)).sum()
    return float(won / pairs) if pairs else None


def _request_aucs(shown: Impressions, wide: int) -> tuple[float, int]:
    """Return the sum and the number of the AUCs of the requests with both classes."""
    if not len(shown):
        return 0.0, 0
    row = shown.request - shown.request[0]
    p = np.full((int(row[-1]) + 1, wide), np.nan)
    yes, no = np.zeros(p.shape, bool), np.zeros(p.shape, bool)
    p[row, shown.position] = shown.p
    yes[row, shown.position] = shown.clicked
    no[row, shown.position] = ~shown.clicked
    pair = yes[:, :, None] & no[:, None, :]
    won = (p[:, :, None] > p[:, None, :]) + 0.5 * (p[:, :, None] == p[:, None, :])
    pairs = pair.sum(axis=(1, 2))
    both = pairs > 0
    return float(((won * pair).sum(axis=(1, 2))[both] / pairs[both]).sum()), int(both.sum())
