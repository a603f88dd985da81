"""The widths that a click model is built for. It needs no torch, as a configuration needs none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """The widths that a model is built for; the trainer derives them from the feature schema."""

    id_fields: tuple[str, ...]  # F names
    sequences: tuple[tuple[str, int], ...]  # (name, L): each attends to its target field
    sequence_targets: tuple[int | None, ...]  # index of the id field it holds; None: compares none
    numbers: tuple[str, ...]  # D names
    embedding_width: int
    knowledge: tuple[tuple[str, int], ...] = ()  # (kind, width): the vectors examples carry

    def __post_init__(self) -> None:
        targets = [t for t in self.sequence_targets if t is not None]
        if len(self.sequence_targets) != len(self.sequences) or not all(
            0 <= t < len(self.id_fields) for t in targets
        ):
            raise ValueError(
                f"sequence_targets {self.sequence_targets} do not fit {len(self.sequences)} "
                f"sequences and {len(self.id_fields)} id fields: give one index (or None) for each."
            )
        kinds = [kind for kind, width in self.knowledge if width > 0]
        if len(set(kinds)) < len(self.knowledge):
            raise ValueError(
                f"knowledge {self.knowledge}: name each kind once, with a width of 1 or more."
            )

    @property
    def sequence_width(self) -> int:
        """The elements of all sequences of an example, side by side."""
        return sum(length for _, length in self.sequences)

    @property
    def knowledge_width(self) -> int:
        """K: the vectors of all kinds, side by side."""
        return sum(width for _, width in self.knowledge)

    @property
    def flat_width(self) -> int:
        """The width of `networks.layers.flatten`: every field, pooled sequence and number."""
        vectors = len(self.id_fields) + len(self.sequences)
        return vectors * self.embedding_width + len(self.numbers)
