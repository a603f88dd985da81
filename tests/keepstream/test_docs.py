import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keepstream.cli import main, parser
from keepstream.commands import NAMES
from keepstream.config import Config, from_tables
from keepstream.reading import feature_schema
from replay.errors import MappingError
from replay.mapping import ParquetMapping
from replay.world import CATEGORIES, DEVICES, World, WorldConfig
from trainer.models import SHIPPED
from trainer.schema import FeatureSchema
from trainer.schema_values import FeatureSchemaError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
TABLES = {name: hint for name, hint in get_type_hints(Config).items() if is_dataclass(hint)}
ODD = "zzzzzzzz"  # no key is near it: what refuses it lists those it knows

on_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def section(page: str, heading: str) -> str:
    """Return the text under a heading, up to the next of its level or above."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    level = heading.split(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.M | re.S
    )
    assert found, f"docs/{page} has no heading {heading!r}"
    return found[1]


def rows(text: str) -> dict[str, str]:
    """Return the second cell of each row of the tables in ``text`` by its key."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", text, re.M))


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the commands in the shell blocks of a page, without their comments."""
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            if command := line.partition(" #")[0].strip():
                yield command


def default_of(cls: Any, key: str) -> Any:
    """Return a setting's default as TOML would give it."""
    value = getattr(cls(), key)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_stands_in_the_documents_with_its_default(table: str) -> None:
    """A key that no page names is found by nobody, and a wrong default is worse."""
    cls = TABLES[table]
    documented = rows(section("configuration.md", f"## [{table}]").partition("Options of")[0])

    assert [f.name for f in fields(cls)] == list(documented)
    for key, cell in documented.items():
        said = None if cell == "none" else tomllib.loads(f"v = {cell.strip('`')}")["v"]
        assert default_of(cls, key) == said, f"[{table}] {key}"


def test_every_table_stands_in_the_documents() -> None:
    """Tables of free form, as [input] and [features], too."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")

    documented = re.findall(r"^## \[(\w+)\]$", text, re.M)

    assert sorted(f.name for f in fields(Config)) == sorted(documented)


def listed(refuse: Callable[[], object], error: type[Exception]) -> list[str]:
    """Return the keys that a refusal lists as known."""
    with pytest.raises(error) as refused:
        refuse()
    return sorted(
        re.findall(r"\w+", re.split(r"known: |there are: ", str(refused.value), flags=re.I)[1])
    )


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("## Keys of [features]", {ODD: 1}),
        ("## [[features.statistics]]", {"statistics": [{ODD: 1}]}),
        ("### Prior", {"statistics_prior": {ODD: 1}}),
        ("## Lists", {"lists": {"tags": {ODD: 1}}}),
    ],
)
def test_every_key_of_the_features_stands_in_the_documents(
    heading: str, table: dict[str, Any]
) -> None:
    """The schema's own refusals say which keys there are."""
    documented = rows(re.split(r"^### ", section("features.md", heading), flags=re.M)[0])

    known = listed(lambda: FeatureSchema.from_table(table), FeatureSchemaError)

    assert known == sorted(documented)


@pytest.mark.parametrize("part", ["columns", "feedback"])
def test_every_key_of_the_input_stands_in_the_documents(part: str) -> None:
    """The mapping's own refusals say which keys there are."""
    documented = rows(section("configuration.md", f"### [input.{part}]"))

    known = listed(lambda: ParquetMapping.from_table({part: {ODD: 1}}), MappingError)

    assert known == sorted(documented)


def test_every_option_of_a_shipped_model_stands_in_the_documents() -> None:
    """Options are the model's own: the configuration cannot list them when it refuses one."""
    text = section("configuration.md", "## [model]")
    documented = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(.*?)` \|", text, re.M)
    options = [
        (name, option.name, str(option.default))
        for name, factory in SHIPPED.items()
        for option in inspect.signature(factory).parameters.values()
        if option.kind is option.KEYWORD_ONLY and option.name != "hidden"
    ]

    assert sorted(options) == sorted(documented)


@on_every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A page that is moved must not leave dead ends behind."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{link}: no such heading"


@on_every_page
def test_files_and_settings_that_a_page_names_are_there(page: Path) -> None:
    """What code is renamed to must reach the pages that speak of it."""
    text = page.read_text("utf-8")
    for path in re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|toml))`", text):
        assert (ROOT / path).exists(), path
    for table, key in re.findall(rf"`({'|'.join(TABLES)})\.(\w+)[^`]*`", text):
        if key not in ("json", "ndjson", "md"):  # those are files
            assert key in [f.name for f in fields(TABLES[table])], f"{table}.{key}"


@on_every_page
def test_commands_that_a_page_shows_are_commands(page: Path) -> None:
    """A reader types what stands there."""
    text = page.read_text("utf-8")
    names = NAMES
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for line in shell_lines(page):
        if line.startswith("keepstream "):
            parser().parse_args(shlex.split(line)[1:])
    for name in re.findall(r"`keepstream ([a-z]\w*)", text):
        assert name in names, name
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, target
    for name in re.findall(r"`python -m (benchmarks\.[a-z_]+)", text):
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


@on_every_page
def test_configurations_that_a_page_shows_are_accepted(page: Path) -> None:
    """An example that is refused teaches the wrong thing."""
    for block in blocks(page, "toml"):
        tables = tomllib.loads(block)
        config = from_tables(tables, str(page))
        assert tables.keys() <= config.as_tables().keys()
        assert feature_schema(config).id_fields


def test_every_decision_has_its_three_parts_and_its_place_in_the_list() -> None:
    """A choice without its price is an advertisement."""
    index = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")

    for number, page in enumerate(DECISIONS, 1):
        title, *parts = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
        assert ["Context", "Choice", "Price"] == parts, page.name
        assert f"{number:04d}" == title.split(" ")[0] == page.name.split("-")[0]
        assert f"| [{number:04d}]({page.name}) | {title[5:]} |" in index


def write_events(path: Path, impressions: int) -> None:
    """Write a small simulated world as a Parquet file, one row an impression."""
    world = World(WorldConfig(impressions=impressions))
    shown = [block.impressions for block in world.blocks() if len(block.impressions)]

    def column(of: Callable[[Any], Any]) -> np.ndarray[Any, Any]:
        return np.concatenate([of(i) for i in shown])

    columns = {
        "impression_time": column(lambda i: i.at_ms).astype("datetime64[ms]"),
        "request_id": column(lambda i: i.request),
        "user_id": column(lambda i: i.user),
        "item_id": column(lambda i: i.item),
        "scene": np.array(world.config.scenes)[column(lambda i: i.scene)],
        "device": np.array(DEVICES)[column(lambda i: i.device)],
        "category": np.array(CATEGORIES)[column(lambda i: i.category)],
        "price": column(lambda i: i.price),
        "clicked": column(lambda i: i.clicked),
    }
    pq.write_table(pa.table(columns), path)


def test_the_quickstart_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing a newcomer does: every command ends well, on a log of any origin."""
    monkeypatch.chdir(tmp_path)
    write_events(tmp_path / "events.parquet", impressions=3000)
    commands = [c for c in shell_lines(ROOT / "README.md") if c.startswith("keepstream ")]
    out = StringIO()

    ended = {command: main(shlex.split(command)[1:], out) for command in commands}

    assert dict.fromkeys(commands, 0) == ended
    assert "equal: runs/first and runs/again" in out.getvalue()
    assert (tmp_path / "runs" / "live" / "report.html").exists()
