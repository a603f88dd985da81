"""What training can fail of: without torch, as the command line knows them all."""


class TrainingDiverged(Exception):
    """The loss or its gradient is not a finite number; further learning would spoil the model."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(
            f"The {what} of step {step} is {value}. Start a run in another folder with a lower "
            "model.learning_rate or model.embedding_learning_rate; the checkpoints of this one are "
            "sound."
        )


class EmbeddingError(Exception):
    """The embedding table cannot do what it is asked."""


class ModelError(Exception):
    """The model cannot be loaded, or is none."""
