"""The command line, configuration and wiring. The only package that knows all the others.

The folders beside it are import names, and plain words: another package of the same name in the
environment would be taken for one of them, so that is found here, at the start, and said.
"""

from importlib.util import find_spec
from pathlib import Path

_BESIDE = ("extractor", "knowledge_store", "networks", "replay", "serving", "stream", "trainer")


def _check_names() -> None:
    here = Path(__file__).resolve().parent.parent
    for name in _BESIDE:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found is None or found.parent.parent != here:
            raise ImportError(
                f"keepstream's package {name!r} lies in {here}, but Python finds "
                f"{found or 'none'}: another package or folder has its name. Give keepstream a "
                "virtual environment of its own, or start it from another folder."
            )


_check_names()
