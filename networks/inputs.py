"""What a click model is given: embedded features of a batch, as tensors."""

# B examples, F id fields, E embedding width, H sequences, L history length, D numbers,
# K knowledge width, J kinds of knowledge

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """A batch of B examples, embedded. An absent id has the zero vector."""

    ids_BFE: Tensor
    sequences_BLE: tuple[Tensor, ...]  # one per sequence feature, most recent first
    masks_BL: tuple[Tensor, ...]  # bool, True where the sequence has an element
    numbers_BD: Tensor  # float32, finite, standardised
    knowledge_BK: Tensor | None = None  # float32, frozen; zero where an example has no vector
    known_BJ: Tensor | None = None  # bool, True where it has one

    def __len__(self) -> int:
        return self.numbers_BD.shape[0]
