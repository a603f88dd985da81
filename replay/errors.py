"""What can be wrong with an input as a whole, told in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """An input cannot be read as it was told to be; the message says what to do next."""


class MappingError(InputError):
    """The mapping names something that is not there, or of the wrong kind."""


class InputCorrupt(InputError):
    """A file is cut off, damaged, or not of the format its name says."""


class InputUnsorted(InputError):
    """Rows do not come in the order of time."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase that names the nearest of ``known`` and lists them all.

    >>> nearest("user", ["user_id", "item_id"])
    "The nearest is 'user_id'; there are: item_id, user_id."
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    listed = f"there are: {', '.join(names)}." if names else "there are none."
    return f"The nearest is {close[0]!r}; {listed}" if close else listed.capitalize()
