"""A simulated world as logs of a site and of its sparse scene, as the runs read them."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.knowledge.scores import DAY_MS
from replay.world import World, WorldConfig

SITE: Final = Path(__file__).parent / "world-site.toml"  # what the extractor runs with
SCENE: Final = Path(__file__).parent / "world-scene.toml"  # and the scene's own model
SPARSE: Final = "article_page"
_SLOTS: Final = 64  # more than a slate has
_PER_REQUEST: Final = 8.5  # mean of the world's slates of 5 to 12


def world_of(
    seed: int, impressions: int, days: float, drift_days: float = WorldConfig.drift_days
) -> World:
    """Return the world of a seed, of so many impressions over about so many days."""
    per_s = impressions / _PER_REQUEST / (days * DAY_MS / 1000)
    return World(
        WorldConfig(seed=seed, impressions=impressions, requests_per_s=per_s, drift_days=drift_days)
    )


def write_world(world: World, folder: Path) -> None:
    """Write all events as site.parquet, and those of the sparse scene as scene.parquet."""
    shown, keys, times = [], [], []
    for block in world.blocks():
        shown.append(block.impressions)
        keys.append(block.clicks.request * _SLOTS + block.clicks.position)
        times.append(block.clicks.at_ms)
    columns = {
        name: np.concatenate([getattr(each, name) for each in shown])
        for name in ("at_ms", "request", "position", "user", "item", "scene", "device",
                     "age_group", "category", "price", "p", "clicked")
    }  # fmt: skip
    of_clicks, at_clicks = np.concatenate(keys), np.concatenate(times)
    order = np.argsort(of_clicks)
    of_clicks, at_clicks = of_clicks[order], at_clicks[order]
    wanted = columns["request"] * _SLOTS + columns["position"]
    found = at_clicks[np.minimum(np.searchsorted(of_clicks, wanted), of_clicks.size - 1)]
    scenes = np.array(world.config.scenes)[columns.pop("scene")]
    table = pa.table(
        {
            **columns,
            "scene": scenes,
            "clicked_ms": pa.array(found, mask=~columns["clicked"]),
            "clicked": columns["clicked"].astype(np.int8),
        }
    )
    pq.write_table(table, folder / "site.parquet")
    pq.write_table(table.filter(pa.array(scenes == SPARSE)), folder / "scene.parquet")
