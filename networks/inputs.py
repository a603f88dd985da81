"""What a click model is given: embedded features of a batch, as tensors."""

# B examples, F id fields, E embedding width, H sequences, L history length, D numbers

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ModelShape:
    """The widths that a model is built for; the trainer derives them from the feature schema."""

    id_fields: tuple[str, ...]  # F names; the first sequence is compared with `target`
    sequences: tuple[tuple[str, int], ...]  # (name, L): each attends to its target field
    sequence_targets: tuple[int, ...]  # for each sequence the index of the id field it holds
    numbers: tuple[str, ...]  # D names
    embedding_width: int


@dataclass(frozen=True)
class Inputs:
    """A batch of B examples, embedded. An absent id has the zero vector."""

    ids_BFE: Tensor
    sequences_BLE: tuple[Tensor, ...]  # one per sequence feature, most recent first
    masks_BL: tuple[Tensor, ...]  # bool, True where the sequence has an element
    numbers_BD: Tensor  # float32, finite, standardised

    def __len__(self) -> int:
        return self.numbers_BD.shape[0]
