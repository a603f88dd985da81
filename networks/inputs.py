"""What a click model is given: embedded features of a batch, as tensors."""

# B examples, F id fields, E embedding width, H sequences, L history length, D numbers

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ModelShape:
    """The widths that a model is built for; the trainer derives them from the feature schema."""

    id_fields: tuple[str, ...]  # F names
    sequences: tuple[tuple[str, int], ...]  # (name, L): each attends to its target field
    sequence_targets: tuple[int | None, ...]  # index of the id field it holds; None: compares none
    numbers: tuple[str, ...]  # D names
    embedding_width: int

    def __post_init__(self) -> None:
        targets = [t for t in self.sequence_targets if t is not None]
        if len(self.sequence_targets) != len(self.sequences) or not all(
            0 <= t < len(self.id_fields) for t in targets
        ):
            raise ValueError(
                f"sequence_targets {self.sequence_targets} do not fit {len(self.sequences)} "
                f"sequences and {len(self.id_fields)} id fields: give one index (or None) for each."
            )

    @property
    def sequence_width(self) -> int:
        """The elements of all sequences of an example, side by side."""
        return sum(length for _, length in self.sequences)

    @property
    def flat_width(self) -> int:
        """The width of `networks.layers.flatten`: every field, pooled sequence and number."""
        vectors = len(self.id_fields) + len(self.sequences)
        return vectors * self.embedding_width + len(self.numbers)


@dataclass(frozen=True)
class Inputs:
    """A batch of B examples, embedded. An absent id has the zero vector."""

    ids_BFE: Tensor
    sequences_BLE: tuple[Tensor, ...]  # one per sequence feature, most recent first
    masks_BL: tuple[Tensor, ...]  # bool, True where the sequence has an element
    numbers_BD: Tensor  # float32, finite, standardised

    def __len__(self) -> int:
        return self.numbers_BD.shape[0]
