"""What extraction can fail of: without torch, as the command line knows them all."""


class ExtractorError(Exception):
    """Knowledge cannot be extracted, aligned or judged."""


class BadVectors(ExtractorError):
    """Vectors, or what goes with them, do not have the shape that is asked for."""

    def __init__(self, what: str, shape: tuple[int, ...], wanted: str) -> None:
        super().__init__(f"{what} has the shape {shape}; give {wanted}.")


class NotFinite(ExtractorError):
    """A vector holds NaN or an infinite number: one alone would spoil every map fitted on it."""

    def __init__(self, what: str, row: int) -> None:
        super().__init__(
            f"Row {row} of {what} is not finite. Do not publish this generation: look at the loss "
            "of the extractor and go on from its checkpoint before; the generation in force stays."
        )


class NothingInCommon(ExtractorError):
    """No entity ties two generations: there is nothing to fit a map on."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"No {kind} with a vector is known to both generations. Lower how often one must have "
            "been seen; or build the generation without a base, and networks learn to read it anew."
        )


class NotFitted(ExtractorError):
    """Clusters are asked for before there are any."""

    def __init__(self) -> None:
        super().__init__("The clusters have no centres yet. Call fit, or restore a state, first.")
