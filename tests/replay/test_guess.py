import tomllib

import numpy as np
import pyarrow as pa
import pytest

from replay.errors import InputError
from replay.guess import guess
from replay.mapping import ParquetMapping
from replay.parquet import ParquetSource
from replay.template import render
from stream.events import FEEDBACK, EventSchema
from tests.replay.tables import START, read, write

N = 4_000


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a table of a shop's slates, with what such tables have in them."""
    rng = np.random.default_rng(0)
    slate = np.arange(N) // 8
    clicked = rng.random(N) < 0.1
    device = rng.choice(["phone", "desk"], N // 8)
    columns = {
        "query_id": pa.array(slate + 10_000),
        "customer_id": pa.array((slate * 7) % 90),
        "product_id": pa.array([f"p{k}" for k in rng.integers(0, 200, N)]),
        "shown_at": pa.array((START + slate * 3_000) // 1000),
        "page_type": pa.array(np.where(slate % 3 == 0, "home", "search")),
        "rank": pa.array(np.arange(N) % 8),
        "clicked": pa.array(clicked),
        "clicked_at": pa.array(START + slate * 3_000 + 40_000, pa.timestamp("ms"), mask=~clicked),
        "device": pa.array(device[slate]),
        "price": pa.array(rng.random(N) * 100),
        "dwell_time": pa.array(rng.random(N)),
        "same_as_label": pa.array(clicked.astype(float) * 3),
        "slate_size": pa.array(np.where(slate < 4, 8, 8)),
        "session": pa.array([f"s{k}" for k in slate]),
        "tags": pa.array([[f"t{k % 3}"] for k in range(N)]),
        "blurb": pa.array(["a long text " * 10 + str(k % 9) for k in range(N)]),
        "country": pa.array(["dk"] * N),
    }
    return write(tmp_path_factory.mktemp("shop") / "shop.parquet", columns, row_group=1_000)


def test_each_part_of_the_event_is_found(table):
    """A new data set should need a look, not a day."""
    found = guess(table)

    assert (found.user_id.column, found.item_id.column) == ("customer_id", "product_id")
    assert (found.ts.column, found.ts_unit, found.ts_shift_s) == ("shown_at", "s", 0)
    assert (found.label.column, found.label_at_least) == ("clicked", None)
    assert (found.request_id.column, found.scene.column) == ("query_id", "page_type")
    assert (found.position.column, found.time_column.column) == ("rank", "clicked_at")
    assert found.problems == ()
    assert not found.sort


def test_features_are_told_by_kind(table):
    """Ids are looked up, numbers are measured, lists are looked up one by one."""
    kinds = {f.name: f.kind for f in guess(table).features}

    assert kinds == {"device": "id", "price": "number", "tags": "list"}


def test_what_gives_the_label_away_is_left_out_with_its_reason(table):
    """A leak makes a model that is brilliant in replay and useless live."""
    reasons = {c.column: c.reason for c in guess(table).left_out}

    assert "only after the impression" in reasons["dwell_time"]
    assert "what clicked says" in reasons["same_as_label"]
    assert "too rarely" in reasons["session"]
    assert "too long" in reasons["blurb"]
    assert "same in every row" in reasons["country"]


def test_the_length_of_the_slate_is_left_out(tmp_path):
    """With one click a slate its length alone gives the click-through rate."""
    slate = np.repeat(np.arange(300), np.tile([3, 5, 10], 100))
    sizes = np.bincount(slate)[slate]
    columns = {
        "request_id": pa.array(slate),
        "user_id": pa.array(slate % 20),
        "item_id": pa.array(np.arange(slate.size) % 50),
        "ts": pa.array(START + slate * 1000),
        "click": pa.array((np.arange(slate.size) % 7 == 0).astype(int)),
        "n_shown": pa.array(sizes),
    }
    reasons = {c.column: c.reason for c in guess(write(tmp_path / "t", columns)).left_out}

    assert "number of rows in the request" in reasons["n_shown"]


def test_what_is_rendered_can_be_replayed_as_it_is(table):
    """The promise of `init`: from a file to a running replay without an edit."""
    config = tomllib.loads(render(guess(table), ["path = 'shop.parquet'"]))
    mapping = ParquetMapping.from_table(config["input"])
    features = config["features"]
    schema = EventSchema(
        ids=tuple(n for n in features["ids"] if n not in ("item", "user", "scene")),
        numbers=tuple(features["numbers"]),
        lists=tuple(features["lists"].items()),
    )
    events, rejected = read(ParquetSource(table, mapping, schema))

    assert rejected == []
    assert config["input"]["path"] == "shop.parquet"
    assert guess(table).rows == N == len(events) - (events.kind == FEEDBACK).sum()
    keys = [s["key"] for s in features["statistics"]]
    assert keys == [
        ["item"], ["user"], ["item", "scene"], ["user", "item"], ["last_click", "item"],
    ]  # fmt: skip


def test_names_that_toml_cannot_bear_are_quoted(tmp_path):
    """Columns have names with spaces, dots and quotes."""
    columns = {
        "user_id": pa.array([1, 2] * 50),
        "item_id": pa.array([1, 2, 3, 4] * 25),
        "ts": pa.array(START + np.arange(100)),
        "click": pa.array([0, 1] * 50),
        'the "price" in €.ct': pa.array(np.arange(100) / 3),
    }
    config = tomllib.loads(render(guess(write(tmp_path / "t", columns))))

    assert config["features"]["numbers"] == ['the "price" in €.ct']


def test_a_file_that_is_no_table_is_an_error(tmp_path):
    """The first command of a newcomer must not end in a traceback."""
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")

    with pytest.raises(InputError, match="not a Parquet file"):
        guess(tmp_path / "log.csv")


@pytest.mark.data
def test_the_news_log_is_understood(real_data):
    """The slate is the request, and what happened after the click is no feature."""
    found = guess(real_data / "ebnerd_week1_events.parquet")

    assert found.impression_id.columns == ("impression_id", "item_id")
    assert (found.request_id.column, found.scene.column) == ("impression_id", "scenario")
    left_out = {c.column for c in found.left_out}
    assert {"next_read_time", "next_scroll_percentage", "read_time", "session_id"} <= left_out
    assert found.problems == ()


@pytest.mark.data
def test_the_install_log_has_its_own_delays(real_data):
    """Clicks that become installs hours later: the column says when."""
    found = guess(real_data / "talkingdata_sample.parquet")

    assert (found.user_id.column, found.item_id.column) == ("ip", "app")
    assert (found.label.column, found.time_column.column) == ("is_attributed", "attributed_time")
    assert found.delay_s[0] < 600 < found.delay_s[1]


@pytest.mark.data
def test_the_ratings_have_a_threshold_and_old_times(real_data):
    """Ratings of 1997 become clicks of our time, on the same days of the week."""
    found = guess(real_data / "ml100k_ratings.parquet")

    assert (found.label.column, found.label_at_least) == ("rating", 4.0)
    assert found.ts_shift_s > 0 == found.ts_shift_s % (7 * 86_400)


@pytest.mark.data
def test_a_log_without_time_or_items_says_what_to_do(real_data):
    """Not every table is a log of impressions: say which part is missing."""
    sequences = guess(real_data / "amazon_scientific_sequences.parquet")
    slates = guess(real_data / "ebnerd_fixture_behaviors.parquet")

    assert any("needs one: name it in ts" in p for p in sequences.problems)
    assert any("a row for each element" in p for p in slates.problems)
