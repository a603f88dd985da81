"""`keepstream archive`: keep the events of all scenes, by event time, in Parquet files."""

import argparse
import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
    say,
)
from keepstream.commands.topics import time_text
from keepstream.config import Config, ConfigError
from keepstream.fingerprint import difference, merged
from keepstream.inputs import reads_of
from keepstream.kafka import reads_of_topics
from keepstream.signals import Interruption
from stream.archive import ArchiveFile, describe, is_archive, set_description
from stream.archive_commits import Commits
from stream.archive_lines import RawDecoder
from stream.archive_writer import ArchiveConfig, ArchiveWriter
from stream.filelog_source import FileLogSource
from stream.kafka_source import KafkaSource
from stream.position import Position

_SAY_EVERY_S: Final = 5.0
_SAY_SILENT_S: Final = 60.0
_DAYS_SHOWN: Final = 14
_ROLL: Final = ArchiveConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser, required=False)
    parser.add_argument(
        "--into", type=Path, required=True, metavar="DIR", help="the archive, made where it is not"
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="DIR",
        help="the file log, in place of log.root, and of Kafka where kafka.bootstrap is set",
    )
    parser.add_argument(
        "--until-end",
        action="store_true",
        help="stop where the log ends now; by default it is followed",
    )
    parser.add_argument(
        "--keep-days",
        type=float,
        metavar="D",
        help="delete hours that are more than D days older than the newest event; by default none",
    )
    parser.add_argument(
        "--roll-s",
        type=float,
        default=_ROLL.roll_s,
        metavar="S",
        help=f"write files after S seconds ({_ROLL.roll_s:g}): a reader of the archive is as late",
    )
    parser.add_argument(
        "--roll-mb",
        type=int,
        default=_ROLL.roll_bytes >> 20,
        metavar="MB",
        help=f"or after MB of events ({_ROLL.roll_bytes >> 20}): three times that is its memory",
    )
    parser.add_argument(
        "--roll-events",
        type=int,
        default=_ROLL.roll_events,
        metavar="N",
        help=f"or after N events ({_ROLL.roll_events})",
    )
    parser.add_argument(
        "--show", action="store_true", help="write nothing: show what is in the archive"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def archive(args: argparse.Namespace, out: TextIO) -> int:
    """Keep the events of all scenes as they came, in Parquet files by event time, exactly once.

    It follows the topics of Kafka, or a file log, until Ctrl-C or SIGTERM. Kill it at any moment:
    the same command goes on after its last commit. `--input DIR` of other commands reads an archive
    as the log it was made of.

    Examples:
      keepstream archive --config keepstream.toml --into archive --keep-days 30
      keepstream archive --log log --into archive --until-end
      keepstream archive --into archive --show

    """
    if args.show:
        return _show(args, out)
    rule = _rule(args)
    config = config_of(args)
    config = replace(config, kafka=replace(config.kafka, read="events"))
    on_kafka = bool(config.kafka.bootstrap) and args.log is None
    log = args.log or Path(config.log.root)
    if not on_kafka and (not log.is_dir() or is_archive(log)):
        raise UsageError(
            f"{log} is no file log. Name one by --log, or a broker by kafka.bootstrap; any other "
            "input becomes a log by `keepstream replay --into LOG`."
        )
    reads = reads_of_topics(config) if on_kafka else reads_of(config, [log])
    _claim(args.into, reads)
    started = time.monotonic()
    with (
        Interruption("writing what was read") as interruption,
        ArchiveWriter(args.into, rule, clock=time.monotonic, now_ms=_now_ms) as writer,
    ):
        before = writer.events
        shown = _Shown(writer, quiet=args.quiet)
        while True:
            source = _open(config, None if on_kafka else log, writer.position, args, reads)
            with closing(source):
                interruption.then(source.close)
                writer.begin(source.partitions)
                for block in source:
                    writer.add(block)
                    shown.update()
                writer.commit()
            if interruption.received or not getattr(source, "grown", False):
                break
            say("The topics have got new partitions: the archive goes on with them.")
        wall_s = time.monotonic() - started
        now = writer.events - before
        said = {
            "archive": str(args.into),
            "archived": now,
            "stopped": interruption.received is not None,
            "wall_s": round(wall_s, 3),
            "events_per_s": round(now / wall_s, 1),
            **_standing(writer.files, writer.events, writer.expired, writer.letters),
        }
    if args.json:
        print_json(said, out)
    else:
        print(_text(said), file=out)
    return 0 if writer.events or said["stopped"] else 1


def _rule(args: argparse.Namespace) -> ArchiveConfig:
    for name in ("roll_s", "roll_mb", "roll_events", "keep_days"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0.")
    if args.roll_mb > 1024:
        raise UsageError("--roll-mb is at most 1024: a reader holds as much of each partition.")
    return ArchiveConfig(
        roll_events=args.roll_events,
        roll_bytes=args.roll_mb << 20,
        roll_s=args.roll_s,
        keep_days=args.keep_days,
    )


def _claim(into: Path, reads: Mapping[str, Any]) -> None:
    """Say of which log the archive is; refuse another's. Raises `ConfigError`, `ArchiveError`."""
    now = reads
    if is_archive(into):
        before = describe(into)
        found = difference(before, reads)
        if found is not None:
            raise ConfigError(
                f"--into {into} is the archive of another log ({found}): a place in that one is "
                "none in this. Name the same log, or another folder."
            )
        if before == (now := merged(before, reads)):
            return
    elif into.exists() and any(not p.name.endswith(".writing") for p in into.iterdir()):
        raise ConfigError(f"--into {into} holds something else: name a new folder.")
    set_description(into, now)


def _open(
    config: Config,
    log: Path | None,
    position: Position,
    args: argparse.Namespace,
    reads: Mapping[str, Any],
) -> KafkaSource | FileLogSource:
    decoder = RawDecoder()
    if log is None:
        return KafkaSource(
            config.kafka,
            config.log.topics,
            decoder.schema,
            position=position,
            follow=not args.until_end,
            topic_ids=reads["topics"],
            block_events=config.log.block_events,
            decoder=decoder,
            say=say,
        )
    return FileLogSource(
        log,
        config.log.topics,
        decoder.schema,
        position=position,
        follow=not args.until_end,
        block_events=config.log.block_events,
        decoder=decoder,
    )


def _show(args: argparse.Namespace, out: TextIO) -> int:
    reads = describe(args.into)
    commits = Commits(args.into)
    last = commits.last
    letters = last.letters["counts"] if last else {}
    events, expired = (last.events, last.expired) if last else (0, 0)
    said = {
        "archive": str(args.into),
        "of": "Kafka" if "kafka" in reads else "a file log",
        **_standing(list(commits.files()), events, expired, letters),
        "commits": last.number if last else 0,
        "position": last.position.to_json() if last else [],
    }
    if args.json:
        print_json(said, out)
        return 0
    print(_text(said), file=out)
    for name, counts in (
        ("topic", said["by_topic"]),
        ("scene", said["by_scene"]),
        ("day", dict(list(said["by_day"].items())[-_DAYS_SHOWN:])),
    ):
        for key, count in counts.items():
            print(f"  {name:6} {key or '(no scene)':32} {count:>14,}", file=out)
    for topic, number, offset, _ in said["position"]:
        print(f"  up to  {f'{topic}/{number}':32} {offset:>14,}", file=out)
    return 0


def _standing(
    files: list[ArchiveFile], events: int, expired: int, letters: Mapping[str, int]
) -> dict[str, Any]:
    """Return what is in an archive, JSON-ready."""
    topics: Counter[str] = Counter()
    scenes: Counter[str] = Counter()
    days: Counter[str] = Counter()
    for file in files:
        topics[file.topic] += file.rows
        days[time_text(file.hour_ms)[:10]] += file.rows
        if any(file.scenes):  # feedback names none
            scenes.update(file.scenes)
    return {
        "events": sum(file.rows for file in files),  # those that are kept
        "deleted": events - sum(file.rows for file in files),
        "expired": expired,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "first_ms": min((file.first_ms for file in files), default=None),
        "last_ms": max((file.last_ms for file in files), default=None),
        "by_topic": dict(sorted(topics.items())),
        "by_scene": dict(scenes.most_common()),
        "by_day": dict(sorted(days.items())),
        "dead_letters": dict(letters),
    }


def _text(said: Mapping[str, Any]) -> str:
    lines = []
    if "archived" in said:
        lines.append(
            f"{said['archive']}: {said['archived']:,} events archived in {said['wall_s']:.1f} s "
            f"({said['events_per_s']:,.0f} events/s)"
            + (", stopped before the end." if said["stopped"] else ".")
        )
    span = ""
    if said["first_ms"] is not None:
        span = f", {time_text(said['first_ms'])} to {time_text(said['last_ms'])} UTC"
    lines.append(
        f"{said['archive']}: {said['events']:,} events in {said['files']:,} files, "
        f"{said['bytes'] / 1e6:,.1f} MB{span}"
        + (f"; {said['deleted']:,} deleted for their age" if said["deleted"] else "")
        + (f"; {said['expired']:,} came too old to be kept" if said["expired"] else "")
        + "."
    )
    if rejected := sum(said["dead_letters"].values()):
        lines.append(
            f"{rejected:,} lines were no events: `keepstream deadletters {said['archive']}` shows "
            "them."
        )
    return "\n".join(lines)


@dataclass
class _Shown:
    """Says now and then how far it has come."""

    writer: ArchiveWriter
    quiet: bool
    started: float = field(default_factory=time.monotonic)
    said_at: float = field(default_factory=time.monotonic)
    said: int = -1

    def update(self) -> None:
        """Say it, if it is time to."""
        now = time.monotonic()
        if self.quiet or now - self.said_at < _SAY_EVERY_S:
            return
        done, waiting = self.writer.events, self.writer.waiting
        if done + waiting == self.said and now - self.said_at < _SAY_SILENT_S:
            return
        self.said_at, self.said = now, done + waiting
        say(f"{now - self.started:.0f} s: {done:,} events archived, {waiting:,} wait for a commit")


def _now_ms() -> int:
    return int(time.time() * 1000)


COMMAND = Command("archive", add_arguments, archive)
