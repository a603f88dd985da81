"""State as a value: what a part of the pipeline puts into a checkpoint.

Every stateful part has ``state() -> State``, a copy that stays as it is while the part goes on,
and ``restore(state)``. A state is a tree: dicts with string keys (no "/"), numpy arrays and JSON
scalars.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

State = dict[str, Any]


def flatten(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, np.ndarray], State]:
    """Split a state into its arrays, by path ("join/deadline"), and the rest as a JSON tree.

    >>> flatten({"join": {"at": np.zeros(2), "seq": 7}})
    ({'join/at': array([0., 0.])}, {'join': {'seq': 7}})
    """
    arrays: dict[str, np.ndarray] = {}
    rest: State = {}
    for key, value in state.items():
        if isinstance(value, np.ndarray):
            arrays[prefix + key] = value
        elif isinstance(value, Mapping):
            inner, rest[key] = flatten(value, f"{prefix}{key}/")
            arrays |= inner
        else:
            rest[key] = value
    return arrays, rest


def unflatten(arrays: Mapping[str, np.ndarray], rest: Mapping[str, Any]) -> State:
    """Put together what `flatten` took apart.

    >>> unflatten({"join/at": np.zeros(2)}, {"join": {"seq": 7}})
    {'join': {'seq': 7, 'at': array([0., 0.])}}
    """
    state: State = {k: unflatten({}, v) if isinstance(v, Mapping) else v for k, v in rest.items()}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        node = state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return state
