"""Scores batches, and learns them: the model, its table of vectors and their optimisers."""

# B examples, F id fields, L list positions, E embedding width, D numbers, N rows looked up

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from xxhash import xxh3_128

from networks.inputs import Inputs
from networks.losses import listwise, log_loss
from networks.norm import RunningNorm
from networks.shape import ModelShape
from stream.ids import U64
from stream.state import State, flatten
from trainer.baserate import BaseRate
from trainer.batch import Batch
from trainer.calibration import PlattCalibration
from trainer.embeddings import I64, TableConfig, make_table
from trainer.errors import TrainingDiverged
from trainer.learner_config import LearnerConfig
from trainer.models import ModelFactory, load_model

F32 = npt.NDArray[np.float32]


class Learner:
    """A click model that learns continually.

    `score` and `learn` run the same forward pass: what `learn` returns is bit for bit what `score`
    would have said before. Everything is a function of the configuration, the seed and the batches
    in their order, on one kind of processor and at one number of threads.

    Memory: the dense weights three times over (Adam's moments), and the table's bound.
    """

    def __init__(
        self,
        config: LearnerConfig,
        shape: ModelShape,
        *,
        max_rows: int,
        seed: int,
        factory: ModelFactory | None = None,
    ) -> None:
        """Build ``config.model``, or what ``factory`` gives, with rows 1 … ``max_rows``.

        Raises:
            ModelError: there is no such model, or it does not fit.
            ValueError: ``shape`` has another embedding width than ``config``.

        """
        if shape.embedding_width != config.embedding_width:
            raise ValueError(
                f"The shape's embedding width {shape.embedding_width} is not the configured "
                f"{config.embedding_width}: build both from one configuration."
            )
        self.config = config
        self.shape = shape
        self.steps = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            options = {"hidden": config.hidden, **config.options}
            self.network = load_model(factory or config.model, shape, options)
        self.norm = RunningNorm(len(shape.numbers))
        self.base_rate = BaseRate()
        self.calibration = PlattCalibration(config.calibration_half_life)
        self.table = make_table(
            TableConfig(
                width=config.embedding_width,
                learning_rate=config.embedding_learning_rate,
                init_scale=config.embedding_init,
                backend=config.embedding_backend,
            ),
            max_rows=max_rows,
            seed=seed,
        )
        self._dense = dict(self.network.named_parameters())
        self._adam = torch.optim.AdamW(
            self._dense.values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def score(self, batch: Batch) -> F32:
        """Return the click probabilities p (B,); changes nothing."""
        self._take_threads()
        with torch.no_grad():
            logit_B: F32 = self._logits(batch).numpy()
        return self.calibration.probabilities(logit_B)

    def learn(self, batch: Batch) -> F32:
        """Learn ``batch`` once; return p of its first ``fresh`` examples as they were before.

        Raises:
            TrainingDiverged: the loss is not finite (nothing has changed), or its gradient is not.

        """
        self._take_threads()
        logit_B = self._logits(batch)
        scored_B: F32 = logit_B.detach().numpy()[: batch.fresh]
        p_B = self.calibration.probabilities(scored_B)
        loss = self._loss(logit_B, batch)
        if not np.isfinite(value := loss.item()):
            raise TrainingDiverged(self.steps, "loss", value)
        # The sum over examples, not their mean: so that what a row learns from an example does not
        # depend on how many others share the batch. The dense gradients are divided again below.
        self._adam.zero_grad()
        (loss * len(batch)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._step_dense(len(batch))
        if self.shape.numbers:
            self.norm.update(_tensor(batch.numbers[: batch.fresh]))
        self.base_rate.update(batch.label[: batch.fresh])
        self.calibration.update(scored_B, batch.label[: batch.fresh])
        self.steps += 1
        return p_B

    def reset_rows(self, rows: I64, ids: U64) -> None:
        """Let ``rows`` (n,) begin anew, for ``ids`` (n,): newly admitted, or given to another."""
        self.table.reset(rows, ids)

    def state(self) -> State:
        """Return a copy of everything that decides what comes next."""
        return {**self._dense_state(), "table": self.table.state()}

    def recycle(self, state: State) -> None:
        """Take back the memory of a `state` that nobody reads any more."""
        self.table.recycle(state["table"])

    def restore(self, state: State) -> None:
        """Go on from ``state``, bit for bit.

        Raises:
            EmbeddingError, RuntimeError: it is another model's.

        """
        self.steps = int(state["steps"])
        self.network.load_state_dict(_tensors(state["dense"]))
        self.norm.load_state_dict(_tensors(state["norm"]))
        self.base_rate.restore(state["base_rate"])
        self.calibration.restore(state["calibration"])
        self._adam.state.clear()
        for name, moments in state.get("adam", {}).items():
            self._adam.state[self._dense[name]] = _tensors(moments)
        self.table.restore(state["table"])

    def weights_digest(self) -> str:
        """Return the xxh3-128 of all weights and optimisers' sums, by name: 32 hex digits."""
        table = {"weights": self.table.weights, "accumulator": self.table.accumulator}
        arrays, _ = flatten({**self._dense_state(), "table": table})
        digest = xxh3_128()
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _dense_state(self) -> State:
        moments = ((name, self._adam.state.get(w)) for name, w in self._dense.items())
        return {
            "steps": self.steps,
            "dense": _arrays(self.network.state_dict()),
            "adam": {name: _arrays(m) for name, m in moments if m is not None},
            "norm": _arrays(self.norm.state_dict()),
            "base_rate": self.base_rate.state(),
            "calibration": self.calibration.state(),
        }

    def _logits(self, batch: Batch) -> Tensor:
        size, fields, width = len(batch), len(self.shape.id_fields), self.shape.embedding_width
        lengths = [length for _, length in self.shape.sequences]
        ends = list(accumulate(lengths))
        # Fields, then sequence after sequence: each part in one piece, so its view needs no copy.
        parts = [
            batch.rows,
            *(batch.sequences[:, b - n : b] for n, b in zip(lengths, ends, strict=True)),
        ]
        rows_N = np.concatenate([part.reshape(-1) for part in parts])
        vectors_NE = self.table.lookup(torch.from_numpy(rows_N))
        ids_NE, *sequences = torch.split(vectors_NE, [size * n for n in (fields, *lengths)])
        logit_B: Tensor = self.network(
            Inputs(
                ids_BFE=ids_NE.view(size, fields, width),
                sequences_BLE=tuple(
                    s_NE.view(size, n, width) for s_NE, n in zip(sequences, lengths, strict=True)
                ),
                masks_BL=tuple(torch.from_numpy(part > 0) for part in parts[1:]),
                numbers_BD=self.norm(_tensor(batch.numbers)),
            )
        )
        return logit_B + self.base_rate.logit

    def _loss(self, logit_B: Tensor, batch: Batch) -> Tensor:
        label_B = _tensor(batch.label)
        loss = log_loss(logit_B, label_B)
        if self.config.listwise:
            requests, group_B = np.unique(batch.request, return_inverse=True)
            order = listwise(logit_B, label_B, _tensor(group_B), requests.size)
            loss = loss + self.config.listwise * order
        return loss

    def _step_dense(self, examples: int) -> None:
        grads = [w.grad for w in self._dense.values() if w.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads).item() / examples
        if not np.isfinite(norm):
            raise TrainingDiverged(self.steps, "gradient's norm", norm)
        limit = self.config.clip_norm
        scale = 1 / examples if limit is None or norm <= limit else limit / norm / examples
        for grad in grads:
            grad.mul_(scale)
        self._adam.step()

    def _take_threads(self) -> None:
        if torch.get_num_threads() != self.config.threads:  # torch keeps it by calling thread
            torch.set_num_threads(self.config.threads)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor over ``array``, which torch only takes where it may be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _arrays(values: Mapping[str, Any]) -> State:
    """Return copies as arrays; a module's extra state, if it is no tensor, stays as it is."""
    return {k: v.detach().numpy().copy() if isinstance(v, Tensor) else v for k, v in values.items()}


def _tensors(state: State) -> dict[str, Any]:
    return {
        k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in state.items()
    }
