"""Scores batches, and learns them: the model, its table of vectors and their optimisers."""

# B examples, F id fields, L list positions, E embedding width, D numbers, N rows looked up,
# T tasks

from contextlib import nullcontext
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
from networks.plug import Plug
from networks.plug_config import PlugConfig, PlugError
from networks.selection import Appended
from networks.shape import ModelShape
from stream.ids import U64
from stream.state import State, flatten
from trainer.baserate import BaseRate
from trainer.batch import Batch
from trainer.calibration import PlattCalibration
from trainer.dense import DenseWeights, arrays, tensors
from trainer.embeddings import I64, TableConfig, make_table
from trainer.errors import ModelError, TrainingDiverged
from trainer.knowledge_input import knowledge_of
from trainer.learner_config import LearnerConfig
from trainer.models import ModelFactory, load_model, plug_into, tasks_of

F32 = npt.NDArray[np.float32]


class Learner:
    """A click model that learns continually.

    `score` and `learn` run the same forward pass: what `learn` returns is bit for bit what `score`
    would have said before. Everything is a function of the configuration, the seed and the batches
    in their order, on one kind of processor and at one number of threads.

    A plug is beside the model: neither its first weights, nor its optimiser, nor its clipping touch
    the model's. So it may be added to a run and taken from it, see `restore`.

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
        plug: PlugConfig | None = None,
    ) -> None:
        """Build ``config.model``, or what ``factory`` gives, with rows 1 … ``max_rows``.

        ``plug`` says how the model uses the knowledge of ``shape``; None: not at all.

        Raises:
            ModelError: there is no such model, or it or its plug does not fit.
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
        self._appended = _appended(plug, shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            options = {"hidden": config.hidden, **config.options}
            model_shape = shape if self._appended is None else self._appended.widen(shape)
            self.network = load_model(factory or config.model, model_shape, options)
        self.tasks = tasks_of(self.network)
        self.plug: Plug | None = None
        if plug is not None and plug.mode in ("gated", "add"):
            self.plug = plug_into(self.network, plug, shape, seed=seed)
        self.norm = RunningNorm(len(shape.numbers))
        self.base_rate = BaseRate()
        self.task_rates = [BaseRate() for _ in range(1, self.tasks)]
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
        plugs = {} if self.plug is None else {"plug": self.plug}
        self._dense = DenseWeights({"model": self.network, **plugs}, config)

    def score(self, batch: Batch) -> F32:
        """Return the click probabilities p (B,); changes nothing."""
        self._take_threads()
        with torch.no_grad():
            logit_B: F32 = self._logits(batch)[0].numpy()
        return self.calibration.probabilities(logit_B)

    def learn(self, batch: Batch) -> F32:
        """Learn ``batch`` once; return p of its first ``fresh`` examples as they were before.

        Raises:
            TrainingDiverged: the loss is not finite (nothing has changed), or its gradient is not.

        """
        self._take_threads()
        logit_B, tasks_BT = self._logits(batch)
        scored_B: F32 = logit_B.detach().numpy()[: batch.fresh]
        p_B = self.calibration.probabilities(scored_B)
        loss = self._loss(logit_B, tasks_BT, batch)
        if not np.isfinite(value := loss.item()):
            raise TrainingDiverged(self.steps, "loss", value)
        # The sum over examples, not their mean: so that what a row learns from an example does not
        # depend on how many others share the batch. The dense gradients are divided again below.
        self._dense.forget_gradients()
        (loss * len(batch)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norms = self._dense.norms(len(batch))
        if not np.isfinite(total := sum(norms)):
            raise TrainingDiverged(self.steps, "gradient's norm", total)
        self._dense.step(len(batch), norms)
        if self.shape.numbers:
            self.norm.update(_tensor(batch.numbers[: batch.fresh]))
        self.base_rate.update(batch.label[: batch.fresh])
        for task, rate in enumerate(self.task_rates):
            rate.update(_other_labels(batch, self.tasks)[: batch.fresh, task])
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

        What it has of a plug goes on in the layers and kinds of this one's that fit; others begin
        anew, neutral. So a state from before a plug restores with it, and the other way round.

        Raises:
            EmbeddingError, RuntimeError: it is another model's.

        """
        self.steps = int(state["steps"])
        self.network.load_state_dict(tensors(state["dense"]))
        self.norm.load_state_dict(tensors(state["norm"]))
        self.base_rate.restore(state["base_rate"])
        for rate, saved in zip(self.task_rates, state.get("task_rates", {}).values(), strict=True):
            rate.restore(saved)
        self.calibration.restore(state["calibration"])
        moments = state.get("adam", {})
        self._dense.restore_moments("model", moments, moments.keys())
        if self.plug is not None:
            plug = state.get("plug", {})
            names = self.plug.take_over(plug.get("mode"), tensors(plug.get("weights", {})))
            self._dense.restore_moments("plug", plug.get("adam", {}), names)
        self.table.restore(state["table"])

    def adopt(self, state: State) -> None:
        """Begin, at step 0, from what another run of this shape has learned: to fine-tune it.

        Weights, moments, rates, calibration and table are taken over. A row of the table is an
        id's by the other run's `IdMap`: restore that from the same checkpoint.

        Raises:
            EmbeddingError: the other run's table has more rows, or another width.
            ModelError: its model is another one; this learner is of no use any more.

        """
        try:
            self.restore({**state, "steps": 0})
        except (LookupError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"The other run's model does not fit this one ({error}): configure [features] and "
                "[model] as there."
            ) from error

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
        state = {
            "steps": self.steps,
            "dense": arrays(self.network.state_dict()),
            "adam": self._dense.moments("model"),
            "norm": arrays(self.norm.state_dict()),
            "base_rate": self.base_rate.state(),
            "calibration": self.calibration.state(),
        }
        if self.task_rates:
            state["task_rates"] = {str(t): r.state() for t, r in enumerate(self.task_rates, 1)}
        if self.plug is not None:
            state["plug"] = {
                "mode": self.plug.config.mode,
                "weights": arrays(self.plug.state_dict()),
                "adam": self._dense.moments("plug"),
            }
        return state

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return logit_B, and the logits of the other tasks (B, T − 1) where there are any."""
        inputs = self._inputs(batch)
        fed = nullcontext() if self.plug is None else self.plug.fed(inputs)
        with fed:
            if self.tasks == 1:
                logit_B: Tensor = self.network(inputs)
                return logit_B + self.base_rate.logit, None
            network: Any = self.network  # whose `task_logits` torch does not know
            logit_BT: Tensor = network.task_logits(inputs)
        rates_T = torch.tensor([rate.logit for rate in self.task_rates])
        return logit_BT[:, 0] + self.base_rate.logit, logit_BT[:, 1:] + rates_T

    def _inputs(self, batch: Batch) -> Inputs:
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
        knowledge: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.shape.knowledge:
            knowledge = knowledge_of(batch, self.shape)
        inputs = Inputs(
            ids_BFE=ids_NE.view(size, fields, width),
            sequences_BLE=tuple(
                s_NE.view(size, n, width) for s_NE, n in zip(sequences, lengths, strict=True)
            ),
            masks_BL=tuple(torch.from_numpy(part > 0) for part in parts[1:]),
            numbers_BD=self.norm(_tensor(batch.numbers)),
            knowledge_BK=knowledge[0],
            known_BJ=knowledge[1],
        )
        return inputs if self._appended is None else self._appended(inputs)

    def _loss(self, logit_B: Tensor, tasks_BT: Tensor | None, batch: Batch) -> Tensor:
        label_B = _tensor(batch.label)
        loss = log_loss(logit_B, label_B)
        if self.config.listwise:
            requests, group_B = np.unique(batch.request, return_inverse=True)
            order = listwise(logit_B, label_B, _tensor(group_B), requests.size)
            loss = loss + self.config.listwise * order
        if tasks_BT is not None:
            others_BT = torch.from_numpy(_other_labels(batch, self.tasks))
            loss = loss + self.config.task_weight * log_loss(tasks_BT, others_BT)
        return loss

    def _take_threads(self) -> None:
        if torch.get_num_threads() != self.config.threads:  # torch keeps it by calling thread
            torch.set_num_threads(self.config.threads)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor over ``array``, which torch only takes where it may be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _appended(plug: PlugConfig | None, shape: ModelShape) -> Appended | None:
    try:
        return Appended(plug, shape) if plug is not None and plug.mode == "concat" else None
    except PlugError as error:
        raise ModelError(str(error)) from error


def _other_labels(batch: Batch, tasks: int) -> F32:
    """Return the labels (B, T − 1) of tasks 1 …: bits 1 … of the actions."""
    if batch.actions is None:
        raise ValueError(
            f"A model of {tasks} tasks learns from examples without actions: give Batch.actions."
        )
    bits_BT = batch.actions[:, None] >> np.arange(1, tasks, dtype=np.uint8) & 1
    return bits_BT.astype(np.float32)
