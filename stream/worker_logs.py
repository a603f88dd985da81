"""What the libraries of the workers' group log, told in lines, and sparingly."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_SAY_AGAIN_S: Final = 30.0  # a client that cannot reach its broker says so ten times a second
_LOGGERS: Final = ("faust", "mode", "aiokafka")
_ORDINARY: Final = (  # of what aiokafka warns: a rebalance, or a broker that is away. The reader of
    # the messages says that in a line
    "because it is rebalancing",
    "Heartbeat session expired",
    "Marking the coordinator dead",
    "NotAvailableError",
    "NodeNotReadyError",
    "is either not started or not valid",
    "metadata from",
)


class _Sparing(logging.Handler):
    """Says a line of a library, and the same again only after half a minute."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say_line = say
        self._said: dict[str, float] = {}  # by the line's template: as many as the libraries have

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().strip()
        if any(words in line for words in _ORDINARY):
            return
        now = time.monotonic()
        template = f"{record.name} {record.msg}"
        if now - self._said.get(template, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._said[template] = now
            self._say_line(f"{record.name.partition('.')[0]}: {line}")


@contextmanager
def said_sparingly(say: Callable[[str], None]) -> Iterator[None]:
    """Tell their warnings by ``say``, and nobody else."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    handler = _Sparing(say)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
