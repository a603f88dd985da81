"""One table of vectors for the ids of all fields, with its optimiser inside.

Ids are salted by field, so one map of ids to rows and one table serve all fields. The backward pass
of `EmbeddingTable.lookup` applies exact row-wise Adagrad (Duchi et al., JMLR 2011, one accumulator
a row) at once: no gradient table is ever built.
"""

# N rows looked up, R rows of the table, E embedding width

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor, nn

from stream.ids import U64, mix
from stream.state import State
from trainer.errors import EmbeddingError

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

_LINE = 64  # bytes of a cache line: a row of 16 floats, aligned, costs one miss and not two


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """How vectors begin and learn."""

    width: int = 16  # beyond 16 costs memory and time in proportion and gains little on CTR data
    learning_rate: float = 0.02  # Adagrad's first step moves each coordinate by about this much
    init_scale: float = (
        0.01  # uniform(±init_scale); small, so that an unseen id says little; 0: zeros
    )
    eps: float = 1e-8  # keeps the division finite where all gradients were 0
    backend: str = "auto"  # fbgemm where its wheel is installed, else torch


class EmbeddingTable(ABC):
    """Vectors (E,) of rows 1 … ``max_rows``; row 0 means "no id": the zero vector, no gradient.

    Memory: at most ``(max_rows + 1) · (E + 1) · 4`` bytes, reserved at once and taken from the
    system page by page as rows come into use, so growth copies nothing.

    A learning step is one `lookup` of all its rows and one backward pass through it: gradients of
    a row that occurs several times are summed before they are squared.
    """

    def __init__(self, config: TableConfig, *, max_rows: int, seed: int) -> None:
        self.config = config
        self.max_rows = max_rows
        self._seed = seed
        self._used = 1  # rows below this one may hold something
        self._weights = _zeros((max_rows + 1) * config.width)
        self._accumulator = _zeros(max_rows + 1)
        self._spare: F32 | None = None  # memory of a state that nobody needs any more

    @property
    def weights(self) -> F32:
        """The vectors of rows in use (R, E), row 0 included: a view, which learning changes."""
        return self._weights.reshape(-1, self.config.width)[: self._used]

    @property
    def accumulator(self) -> F32:
        """Adagrad's sums of mean squares of rows in use (R,): a view, which learning changes."""
        return self._accumulator[: self._used]

    def lookup(self, rows: Tensor) -> Tensor:
        """Return the vectors (…, E) of ``rows`` (int64, any shape …).

        Where gradients are on, the backward pass through the result updates the rows.

        Raises:
            EmbeddingError: a row lies outside 0 … ``max_rows``.

        """
        flat = np.ascontiguousarray(rows.numpy().reshape(-1))
        live_N, ends_N = np.empty(flat.size, np.int64), np.empty(flat.size + 1, np.int64)
        live, greatest = _bags(flat, live_N, ends_N)
        if greatest > self.max_rows:
            bad = flat[(flat < 0) | (flat > self.max_rows)][0]
            raise EmbeddingError(
                f"Row {bad} is outside the table of {self.max_rows} rows: "
                "give the table the max_rows of the id map that numbers its rows."
            )
        if torch.is_grad_enabled():
            self._used = max(self._used, int(greatest) + 1)
        shape = (*rows.shape, self.config.width)
        if live == 0:
            return torch.zeros(shape)
        vectors_NE = self._gather(torch.from_numpy(live_N[:live]), torch.from_numpy(ends_N))
        return vectors_NE.view(shape)

    def reset(self, rows: I64, ids: U64) -> None:
        """Give ``rows`` (n,) the vectors with which ``ids`` (n,) begin, and forget their gradients.

        A first vector is a function of the seed and the id alone, whatever its row and time.
        """
        if rows.size == 0:
            return
        if rows.min() < 1 or rows.max() > self.max_rows:
            raise EmbeddingError(
                f"Rows {rows.min()} … {rows.max()} cannot be reset: only 1 … {self.max_rows} hold "
                "ids. Give the table the max_rows of the id map that numbers its rows."
            )
        self._used = max(self._used, int(rows.max()) + 1)
        salt = np.uint64(self._seed & 0xFFFF_FFFF_FFFF_FFFF)
        scale = np.float32(self.config.init_scale)
        _reset(self.weights, self.accumulator, rows, ids, salt, scale)

    def state(self) -> State:
        """Return a copy of the rows in use and their accumulators."""
        rows, width = self._used, self.config.width
        spare, self._spare = self._spare, None
        if spare is None or spare.size < rows * (width + 1):
            spare = np.empty(rows * (width + 1) * 5 // 4, np.float32)  # room for a few more rows
        weights_RE = spare[: rows * width].reshape(rows, width)
        accumulator_R = spare[rows * width : rows * (width + 1)]
        weights_RE[...] = self.weights
        accumulator_R[...] = self.accumulator
        return {"weights": weights_RE, "accumulator": accumulator_R}

    def recycle(self, state: State) -> None:
        """Take back the memory of a `state` that nobody reads any more, for the next one.

        Touching fresh memory costs several times as much as copying into memory that is there.
        """
        memory = state["weights"].base
        if isinstance(memory, np.ndarray) and memory.base is None and memory.ndim == 1:
            self._spare = memory

    def restore(self, state: State) -> None:
        """Go on from ``state``.

        Raises:
            EmbeddingError: it has more rows than this table may have, or another width.

        """
        rows, width = state["weights"].shape
        if rows > self.max_rows + 1 or width != self.config.width:
            raise EmbeddingError(
                f"A state of {rows - 1} rows x {width} does not fit one of {self.max_rows} rows "
                f"x {self.config.width}: restore with the configuration it was written with."
            )
        self.weights[...] = 0
        self.accumulator[...] = 0
        self._used = rows
        self.weights[...] = state["weights"]
        self.accumulator[...] = state["accumulator"]

    @abstractmethod
    def _gather(self, live_N: Tensor, ends_N: Tensor) -> Tensor:
        """Return the vectors (N, E) of bags of one row or none: ``live_N``, cut at ``ends_N``."""


class FbgemmTable(EmbeddingTable):
    """FBGEMM's table-batched embedding with fused exact row-wise Adagrad, on CPU."""

    def __init__(self, config: TableConfig, *, max_rows: int, seed: int) -> None:
        super().__init__(config, max_rows=max_rows, seed=seed)
        with _quiet():
            self._bag = _fbgemm(config, self._weights, self._accumulator)

    def _gather(self, live_N: Tensor, ends_N: Tensor) -> Tensor:
        learns = torch.is_grad_enabled()
        # FBGEMM has no kernel outside autograd's dispatch, which inference mode leaves out.
        with torch.inference_mode(False), torch.set_grad_enabled(learns):
            vectors_NE: Tensor = self._bag(live_N, ends_N)
        return vectors_NE


class TorchTable(EmbeddingTable):
    """The same rule in plain torch: for machines without FBGEMM, and to prove it right."""

    def __init__(self, config: TableConfig, *, max_rows: int, seed: int) -> None:
        super().__init__(config, max_rows=max_rows, seed=seed)
        self.weights_RE = torch.from_numpy(self._weights).view(-1, config.width)
        self.accumulator_R = torch.from_numpy(self._accumulator)
        self._tape = torch.zeros((), requires_grad=True)  # autograd calls backward for its sake

    def _gather(self, live_N: Tensor, ends_N: Tensor) -> Tensor:
        vectors_NE: Tensor = _RowwiseAdagrad.apply(self._tape, self, live_N, ends_N)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return vectors_NE


class _RowwiseAdagrad(torch.autograd.Function):
    """``G ← G + mean(g²)``, ``w ← w − η g / (√G + ε)``, g summed over a row's occurrences."""

    @staticmethod
    def forward(
        ctx: Any, tape: Tensor, table: TorchTable, live_N: Tensor, ends_N: Tensor
    ) -> Tensor:
        ctx.table, ctx.live_N, ctx.filled_N = table, live_N, ends_N.diff().bool()
        vectors_NE = torch.zeros(ends_N.numel() - 1, table.config.width)
        vectors_NE[ctx.filled_N] = table.weights_RE.index_select(0, live_N)
        return vectors_NE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        table: TorchTable = ctx.table
        rows, place_N = torch.unique(ctx.live_N, return_inverse=True)
        g_RE = torch.zeros(rows.numel(), table.config.width)
        g_RE.index_add_(0, place_N, grads[0][ctx.filled_N])
        G_R = table.accumulator_R.index_select(0, rows) + g_RE.square().mean(1)
        table.accumulator_R.index_copy_(0, rows, G_R)
        step_RE = g_RE * (table.config.learning_rate / (G_R.sqrt() + table.config.eps)).unsqueeze(1)
        table.weights_RE.index_add_(0, rows, step_RE, alpha=-1)
        return None, None, None, None


BACKENDS = {"fbgemm": FbgemmTable, "torch": TorchTable}


def make_table(config: TableConfig, *, max_rows: int, seed: int) -> EmbeddingTable:
    """Return the table of ``config.backend``.

    Raises:
        EmbeddingError: there is no such backend, or its package is not installed.

    """
    if config.backend == "auto":
        try:
            return FbgemmTable(config, max_rows=max_rows, seed=seed)
        except (ImportError, OSError):  # no wheel for this platform
            return TorchTable(config, max_rows=max_rows, seed=seed)
    if config.backend not in BACKENDS:
        raise EmbeddingError(
            f"There is no embedding backend {config.backend!r}: write auto or one of "
            f"{', '.join(BACKENDS)}."
        )
    try:
        return BACKENDS[config.backend](config, max_rows=max_rows, seed=seed)
    except (ImportError, OSError) as error:
        raise EmbeddingError(
            f'The embedding backend fbgemm is not usable here ({error}): write backend = "torch".'
        ) from error


def _zeros(n: int) -> F32:
    """Return ``n`` zeros that begin a cache line; pages are taken when they are touched."""
    spare = _LINE // 4
    raw = np.zeros(n + spare, np.float32)
    start = -raw.ctypes.data % _LINE // 4
    return raw[start : start + n]


def _fbgemm(config: TableConfig, weights: F32, accumulator: F32) -> nn.Module:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        BoundsCheckMode,
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    table: nn.Module = SplitTableBatchedEmbeddingBagsCodegen(
        [(accumulator.size, config.width, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=config.learning_rate,
        eps=config.eps,
        pooling_mode=PoolingMode.SUM,
        bounds_check_mode=BoundsCheckMode.NONE,  # `lookup` has checked
        preallocated_host_buffers={
            "weights": torch.from_numpy(weights),
            "momentum1": torch.from_numpy(accumulator),
        },
    )
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep FBGEMM's import warnings and its set-up messages from the user and the root logger."""
    root, handler = logging.getLogger(), logging.NullHandler()
    disabled = logging.root.manager.disable
    root.addHandler(handler)  # without one, logging.info() would install its own for good
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of GPU kernels that the CPU wheel leaves out
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


@njit("UniTuple(int64, 2)(int64[::1], int64[::1], int64[::1])", cache=True, nogil=True)
def _bags(rows: I64, live: I64, ends: I64) -> tuple[int, int]:
    """Bring rows other than 0 together; return how many, and the greatest (2⁶² if one is < 0)."""
    n = 0
    greatest: Any = np.int64(0)  # an int to the compiler
    ends[0] = 0
    for i in range(rows.size):
        row = rows[i]
        if row != 0:
            live[n] = row
            n += 1
            greatest = max(greatest, row if row > 0 else np.int64(1 << 62))
        ends[i + 1] = n
    return n, greatest


@njit(
    "void(float32[:,::1], float32[::1], int64[:], uint64[:], uint64, float32)",
    cache=True,
    nogil=True,
)
def _reset(weights: F32, accumulator: F32, rows: I64, ids: U64, seed: int, scale: float) -> None:
    for i in range(rows.size):
        base = mix(ids[i] ^ mix(seed))
        for e in range(weights.shape[1]):
            bits = mix(base + np.uint64(e)) >> np.uint64(40)  # 24 bits: all that a float32 holds
            weights[rows[i], e] = scale * np.float32((np.int64(bits) - 8388607.5) / 8388608.0)
        accumulator[rows[i]] = 0.0
