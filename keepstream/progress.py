"""What a person sees while a model learns: a table that moves, or a line now and then."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_TABLE_EVERY_S: Final = 0.25  # four times a second moves, and costs a percent of a core
_LINE_EVERY_S: Final = 5.0  # a log that nobody watches stays readable
_SILENT_LINE_EVERY_S: Final = 60.0  # where nothing happens: it lives, and waits
_ROWS: Final = (
    ("log loss", "logloss"),
    ("normalised entropy", "normalized_entropy"),
    ("AUC per request", "auc_request"),
    ("AUC", "auc"),
    ("calibration", "calibration"),
)
_ARMS: Final = (("", "model"), ("_as_served", "as served"), ("_oracle", "oracle"))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment, as far as it is shown."""

    events: int = 0  # read so far
    at_ms: int | None = None  # event time learned up to
    lag_ms: int | None = None  # how far that lies behind the newest event read
    pending: int = 0  # impressions that wait for their label
    held: int = 0  # events that wait for their turn
    figures: Mapping[str, Any] = field(default_factory=dict)  # Prequential.glance(): over all
    late: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    checkpoint: str | None = None  # the newest


class Progress:
    """Shows snapshots on ``stream``: live where it is a terminal, else a plain line every 5 s.

    Of a run in which nothing happens a line comes once a minute. Where the stream breaks (nobody
    reads it any more) it shows no more, and the run goes on.

    ``clock`` gives seconds that only go forward. ``update`` may be called after every batch: it
    asks for a snapshot only when one is due.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float], *, quiet: bool = False) -> None:
        self._stream = stream
        self._clock = clock
        self._quiet = quiet
        self._started = clock()
        self._due = self._started
        self._last: tuple[float, int] | None = None  # when, examples: for the speed
        self._shown: Snapshot | None = None
        self._shown_at = self._started
        self._pending: Callable[[], Snapshot] | None = None
        terminal = not quiet and stream.isatty()
        self._live = Live(console=Console(file=stream), auto_refresh=False) if terminal else None
        if self._live is not None:
            self._live.start()

    def update(self, snapshot: Snapshot | Callable[[], Snapshot]) -> None:
        """Show a snapshot if it is time to; a function is called only then."""
        if self._quiet:
            return
        make = snapshot if callable(snapshot) else lambda: snapshot
        self._pending = make
        if self._clock() >= self._due:
            self._try(make())

    def close(self) -> None:
        """Show the last snapshot and let go of the terminal; idempotent."""
        if self._pending is not None and not self._quiet:
            self._try(self._pending())
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None

    def _try(self, snapshot: Snapshot) -> None:
        try:
            self._show(snapshot)
        except OSError:
            self._quiet = True

    def _show(self, snapshot: Snapshot) -> None:
        now, examples = self._clock(), int(snapshot.figures.get("examples", 0))
        then, before = self._last or (now, examples)
        speed = (examples - before) / (now - then) if now > then else 0.0
        self._last, self._pending = (now, examples), None
        if self._live is not None:
            self._due = now + _TABLE_EVERY_S
            self._live.update(table(snapshot, speed, now - self._started), refresh=True)
        else:
            self._due = now + _LINE_EVERY_S
            if snapshot == self._shown and now - self._shown_at < _SILENT_LINE_EVERY_S:
                return
            self._shown, self._shown_at = snapshot, now
            self._stream.write(line(snapshot, speed) + "\n")
            self._stream.flush()


def table(snapshot: Snapshot, speed: float, elapsed_s: float) -> Group:
    """Return the live display: the figures, then what happens to the events."""
    figures = snapshot.figures
    window = figures.get("window") or {}
    arms = [(suffix, name) for suffix, name in _ARMS if f"logloss{suffix}" in figures]
    body = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    body.add_column("")
    for _, name in arms:
        body.add_column(name, justify="right")
        body.add_column("last window", justify="right", style="dim")
    for title, key in _ROWS:
        cells = [
            _number(part.get(key + suffix)) for suffix, _ in arms for part in (figures, window)
        ]
        body.add_row(title, *cells)
    head = Text.assemble(
        ("keepstream  ", "bold"),
        f"{figures.get('examples', 0):,} examples  ",
        (f"{figures.get('clicks', 0):,} clicks  ", ""),
        (f"{speed:,.0f} examples/s  ", "bold green"),
        (f"{elapsed_s:,.0f} s", "dim"),
    )
    return Group(head, Text(_stream_line(snapshot), style="dim"), body, _trouble(snapshot))


def line(snapshot: Snapshot, speed: float) -> str:
    """Return a snapshot as one line of plain text."""
    figures = snapshot.figures
    parts = [
        f"{figures.get('examples', 0):,} examples",
        f"{speed:,.0f}/s",
        f"{snapshot.events:,} events",
        f"{snapshot.pending:,} wait",
        _time(snapshot.at_ms),
        *(
            f"{title} {_number(figures.get(key))}"
            for title, key in (("log loss", "logloss"), ("AUC per request", "auc_request"))
        ),
        f"calibration {_number(figures.get('calibration'))}",
    ]
    for suffix, name in _ARMS[1:]:
        if f"logloss{suffix}" in figures:
            parts.append(f"{name} {_number(figures[f'logloss{suffix}'])}")
            parts.append(f"{_number(figures.get(f'auc_request{suffix}'))}")
    counts = _counts(snapshot)
    return "  ".join([*parts, *(counts if any(_troubles(snapshot)) else [])])


def _stream_line(snapshot: Snapshot) -> str:
    lag = "" if snapshot.lag_ms is None else f"  lag {snapshot.lag_ms / 1000:,.0f} s"
    return (
        f"{_time(snapshot.at_ms)}{lag}  {snapshot.events:,} events read  "
        f"{snapshot.pending:,} wait for a label  {snapshot.held:,} for their turn"
    )


def _trouble(snapshot: Snapshot) -> Text:
    style = "yellow" if any(_troubles(snapshot)) else "dim"
    saved = f"checkpoint {snapshot.checkpoint}" if snapshot.checkpoint else "no checkpoint yet"
    return Text.assemble(("  ".join(_counts(snapshot)), style), (f"  {saved}", "dim"))


def _troubles(snapshot: Snapshot) -> tuple[int, int, int]:
    return snapshot.late, snapshot.duplicates, snapshot.dead_letters


def _counts(snapshot: Snapshot) -> list[str]:
    names = ("late", "duplicate", "dead letters")
    return [f"{n:,} {name}" for n, name in zip(_troubles(snapshot), names, strict=True)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"  # an en dash: no value


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return "no event yet"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
