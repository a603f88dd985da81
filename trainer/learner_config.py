"""Which model learns, and how: without torch, so that every command can read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Which model learns, and how."""

    model: str = "din"  # or dcnv2, deepfm, mlp, package.module:factory
    hidden: tuple[int, ...] = (128, 64)  # widths of the tower: wider gained nothing in one pass
    options: Mapping[str, Any] = field(default_factory=dict)  # what else the model's factory takes
    embedding_width: int = 16  # see TableConfig
    embedding_backend: str = "auto"  # fbgemm, torch: equal but for rounding
    embedding_init: float = 0.01  # see TableConfig.init_scale
    embedding_learning_rate: float = 0.02  # row-wise Adagrad's
    learning_rate: float = 1e-3  # Adam's own default
    weight_decay: float = 0.0  # decoupled, of dense weights; one pass over a stream overfits little
    clip_norm: float | None = 10.0  # of dense gradients: far above the usual, so only for spikes
    listwise: float = 0.0  # weight of the softmax over the request, beside 1 of the log loss
    task_weight: float = 0.3  # of the mean log loss of a model's other tasks: the click comes first
    calibration_half_life: int | None = 30_000  # examples; None: scores as the model gives them
    threads: int = 1  # torch's; the ingest thread needs a core too

    def __post_init__(self) -> None:
        if self.embedding_width < 1 or self.threads < 1 or min(self.hidden, default=1) < 1:
            raise ValueError("embedding_width, threads and every width of hidden must be 1 or more")
        rates = self.learning_rate, self.embedding_learning_rate
        if min(*rates, self.listwise, self.task_weight) < 0:
            raise ValueError("learning rates, listwise and task_weight must be 0 or more")
        for name in ("clip_norm", "calibration_half_life"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f'{name} = {value} must be above 0, or "off"')
