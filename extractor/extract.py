"""Takes the vectors of all entities out of a model, as of one moment."""

# n entities, B of them at a time, E embedding width, L history length, W width of a kind,
# I width of an interaction, C categories

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from extractor.config import ExtractorConfig
from extractor.entities import active, latest
from extractor.errors import ExtractorError
from extractor.extraction import INTERACTION, ITEM, ITEM_STATE, USER, Extracted, Extraction
from extractor.keep import Keep
from knowledge_store.kinds import pair_ids
from stream.events import EventColumns
from stream.ids import salted
from stream.state import State
from stream.table import new_table
from trainer import idkernel
from trainer.entities import SeenEntities
from trainer.features import FeatureConfig, Features
from trainer.learner import Learner
from trainer.schema import FeatureSchema
from trainer.view import View

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]
Columns = dict[str, npt.NDArray[Any]]

BLOCK: Final = 8192  # entities at a time: 30 MB with a history of 20 vectors of 16
PAIRS: Final = 4096  # pairs at a time: the attention makes a matrix (E, units) for each


class NotKeep(ExtractorError):
    """A learner's model has no sides to extract."""

    def __init__(self, network: object) -> None:
        super().__init__(
            f"{type(network).__name__} does not fall apart into items and users: nothing can be "
            'extracted. Train with [model] model = "keep".'
        )


def extract(
    schema: FeatureSchema,
    feature_config: FeatureConfig,
    learner: Learner,
    view: View,
    config: ExtractorConfig,
    *,
    everybody: bool = False,
) -> Extraction:
    """Return the vectors of all entities that were seen in the last ``active_h``.

    ``view`` is what the loop gave in its order, so that ``learner`` (a `Keep`) has learned exactly
    what came before it. ``everybody``: those not seen for longer too, for a full rebuild. Nothing
    of the run is changed. Memory: the result, a copy of the features' state and a block.

    Raises:
        NotKeep: the learner has another model.

    """
    if not isinstance(learner.network, Keep):
        raise NotKeep(learner.network)
    features = Features(schema, feature_config)
    features.restore(view.features)
    features.lift()
    reader = _Reader(schema, features, learner, view, config)
    there, who = (
        active(view.entities[side], view.at_ms, config, everybody=everybody)
        for side in ("items", "users")
    )
    items, users = latest(there, config.max_entities), latest(who, config.max_entities)
    of_items, of_users = int(there.seen.sum()), int(who.seen.sum())
    with torch.no_grad():
        kinds = {
            **{name: replace(k, of=of_items) for name, k in reader.items(items).items()},
            **{name: replace(k, of=of_users) for name, k in reader.users(users).items()},
        }
    about = {"items": len(items), "users": len(users), "steps": learner.steps}
    found = Extraction(at_ms=view.at_ms, kinds=kinds, about=about)
    if learner.network.interaction is None or not config.max_pairs:
        return found
    if not config.category:
        return replace(
            found, pairs=lambda clusters: reader.by_cluster(users, items, clusters, of_users)
        )
    categories = np.unique(items.fields[:, config.all_item_fields.index(config.category)])
    pairs = reader.by_category(users, categories[categories != 0], of_users)
    return replace(found, kinds={**kinds, INTERACTION: pairs})


class _Reader:
    """Reads embeddings, numbers and histories of entities, and what the model makes of them."""

    def __init__(
        self,
        schema: FeatureSchema,
        features: Features,
        learner: Learner,
        view: View,
        config: ExtractorConfig,
    ) -> None:
        assert isinstance(learner.network, Keep)
        self._schema = schema
        self._events = schema.event_schema()
        self._features = features
        self._learner = learner
        self._keep = learner.network
        self._at_ms = view.at_ms
        self._config = config
        self._rows = _Rows(view.ids)

    def items(self, items: SeenEntities) -> dict[str, Extracted]:
        """Return the items' vectors [√s z, b, 1], and hidden states [s, numbers].

        The numbers are the tower's own inputs, standardised: what it has not made anything of.
        """
        vectors, states, own = [], [], self._keep.sides.item.numbers
        for block in _blocks(items, BLOCK):
            peeked = self._peek(block, ITEM, self._config.all_item_fields)
            numbers_BD = self._numbers(peeked)
            x_BX = self._keep.item_inputs(self._embedded(peeked["ids"]), numbers_BD)
            state_BS = self._keep.item.state(x_BX)
            top = self._keep.item.top
            assert top is not None
            z_BW = top(state_BS)
            one_B1 = torch.ones(len(block), 1)
            scaled_BW = self._keep.scale**0.5 * z_BW[:, :-1]
            vectors.append(torch.cat([scaled_BW, z_BW[:, -1:], one_B1], 1).numpy())
            states.append(torch.cat([state_BS, numbers_BD[:, own]], 1).numpy())
        return {
            ITEM: self._extracted(items, vectors, self._config.width),
            ITEM_STATE: self._extracted(items, states, self._keep.item.width + len(own)),
        }

    def users(self, users: SeenEntities) -> dict[str, Extracted]:
        """Return the users' vectors [√s z, 1, b]."""
        vectors = []
        for block in _blocks(users, BLOCK):
            peeked = self._peek(block, USER, self._config.user_fields)
            history_BLE, mask_BL = self._history(peeked)
            x_BX = self._keep.user_inputs(
                self._embedded(peeked["ids"]), self._numbers(peeked), history_BLE, mask_BL
            )
            z_BW = self._keep.user(x_BX)
            one_B1 = torch.ones(len(block), 1)
            scaled_BW = self._keep.scale**0.5 * z_BW[:, :-1]
            vectors.append(torch.cat([scaled_BW, one_B1, z_BW[:, -1:]], 1).numpy())
        return {USER: self._extracted(users, vectors, self._config.width)}

    def by_category(self, users: SeenEntities, categories: U64, of_users: int) -> Extracted:
        """Return the vectors of users × categories (C,), ids as events hold them."""
        query_CE = self._vectors(salted(categories, self._config.category))
        return replace(self._pairs(users, categories, query_CE), of=of_users * categories.size)

    def by_cluster(
        self, users: SeenEntities, items: SeenEntities, clusters: I32, of_users: int
    ) -> Extracted:
        """Return those of users × the clusters (n,) of items, whose embeddings' mean it asks by."""
        numbers = np.unique(clusters[clusters >= 0])
        query_CE = torch.zeros(numbers.size, self._width)
        with torch.no_grad():
            for c, number in enumerate(numbers):
                members = salted(items.ids[clusters == number], "item")
                query_CE[c] = self._vectors(members).mean(0)
        found = self._pairs(users, numbers.astype(np.uint64) + np.uint64(1), query_CE)
        return replace(found, of=of_users * numbers.size)

    @property
    def _width(self) -> int:
        return self._learner.config.embedding_width

    def _pairs(self, users: SeenEntities, categories: U64, query_CE: Tensor) -> Extracted:
        """Return one vector a user and category, of users that have clicked anything."""
        interaction = self._keep.interaction
        assert interaction is not None
        count = max(len(query_CE), 1)
        users = latest(users, self._config.max_pairs // count)
        ids, vectors, seen = [], [], []
        for wide in _blocks(users, BLOCK):
            history_BLE, mask_BL = self._history(self._peek(wide, USER, self._config.user_fields))
            assert history_BLE is not None
            assert mask_BL is not None
            clicked = np.flatnonzero(mask_BL.any(1).numpy())
            for start in range(0, clicked.size, max(PAIRS // count, 1)):
                some = clicked[start : start + max(PAIRS // count, 1)]
                keys_BLE = history_BLE[some].repeat_interleave(len(query_CE), 0)
                with torch.no_grad():
                    found_BI = interaction.vectors(query_CE.repeat(some.size, 1), keys_BLE)
                owners = np.repeat(wide.ids[some], categories.size)
                ids.append(pair_ids(owners, np.tile(categories, some.size)))
                seen.append(np.repeat(wide.seen[some], categories.size))
                vectors.append(found_BI.numpy())
        width = self._config.interaction_width
        none = np.zeros(0, np.uint64), np.zeros((0, width), np.float32), np.zeros(0, np.int64)
        if not ids:
            return Extracted(ids=none[0], vectors=none[1], seen=none[2])
        return Extracted(
            ids=np.concatenate(ids), vectors=np.concatenate(vectors), seen=np.concatenate(seen)
        )

    def _peek(self, block: SeenEntities, side: str, fields: tuple[str, ...]) -> Columns:
        """Return the rows of impressions of nothing but these items, or users, at this moment."""
        n = len(block)
        ids = np.zeros((n, len(self._events.ids)), np.uint64)
        for i, field in enumerate(fields):
            ids[:, self._events.ids.index(field)] = block.fields[:, i]
        at = np.full(n, self._at_ms, np.int64)
        blank = replace(EventColumns.empty(self._events, n), ts=at, at=at, ids=ids)
        if side == ITEM:
            return self._features.peek(replace(blank, item=block.ids))
        return self._features.peek(replace(blank, user=block.ids))

    def _numbers(self, peeked: Columns) -> Tensor:
        """Return a model's numbers, standardised; those relative to a request are missing."""
        numbers = np.full(
            (len(peeked["numbers"]), len(self._schema.numbers_of_model)), np.nan, np.float32
        )
        numbers[:, : peeked["numbers"].shape[1]] = peeked["numbers"]
        standardised: Tensor = self._learner.norm(torch.from_numpy(numbers))
        return standardised

    def _embedded(self, ids: U64) -> Tensor:
        return self._vectors(ids.ravel()).view(*ids.shape, self._width)

    def _history(self, peeked: Columns) -> tuple[Tensor | None, Tensor | None]:
        length = self._schema.history
        if not length:
            return None, None
        rows = self._rows.of(peeked["sequences"][:, :length].ravel()).reshape(-1, length)
        return self._learner.table.lookup(torch.from_numpy(rows)), torch.from_numpy(rows > 0)

    def _vectors(self, ids: U64) -> Tensor:
        with torch.no_grad():
            return self._learner.table.lookup(torch.from_numpy(self._rows.of(ids)))

    def _extracted(self, found: SeenEntities, blocks: list[F32], width: int) -> Extracted:
        vectors = np.concatenate(blocks) if blocks else np.zeros((0, width), np.float32)
        return Extracted(ids=found.ids, vectors=vectors, seen=found.seen)


class _Rows:
    """The rows of an `IdMap.state`, whatever the map was configured as."""

    def __init__(self, state: State) -> None:
        ids = np.array(state["ids"], np.uint64).view(np.int64)
        self._slots = new_table(ids.size)
        idkernel.put_all(self._slots, ids, ids.size)

    def of(self, ids: U64) -> I64:
        """Return the row of each id (n,), 0 where it has none."""
        flat = np.ascontiguousarray(ids).view(np.int64)
        rows = np.empty(flat.size, np.int64)
        idkernel.look_up(self._slots, flat, rows)
        return rows


def _blocks(found: SeenEntities, most: int) -> Iterator[SeenEntities]:
    for start in range(0, len(found), most):
        yield found.take(np.arange(start, min(start + most, len(found))))
