import pytest

from replay.delays import ConstantDelay, DelayColumn, DrawnDelay, TimeColumn
from replay.errors import MappingError
from replay.mapping import ParquetMapping
from stream.events import EventSchema

COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t"}


def _mapping(columns=(), feedback=(), features=()):
    return ParquetMapping.from_table(
        {
            "columns": {**COLUMNS, **dict(columns)},
            "feedback": dict(feedback),
            "features": dict(features),
        }
    )


def test_three_columns_are_enough():
    """A new data set takes minutes: what is not said has a default with a reason."""
    mapping = _mapping()

    assert (mapping.user_id, mapping.item_id, mapping.ts) == ("u", "i", "t")
    assert (mapping.impression_id, mapping.action) == ((), "click")
    assert ConstantDelay(60.0) == mapping.delay


@pytest.mark.parametrize("ids", ["a", ["a"]])
def test_one_column_of_ids_needs_no_list(ids):
    """The ordinary case is written in the ordinary way."""
    assert _mapping({"impression_id": ids}).impression_id == ("a",)


@pytest.mark.parametrize(
    ("feedback", "delay"),
    [
        ({"delay_s": 5}, ConstantDelay(5.0)),
        ({"delay_column": "d"}, DelayColumn("d")),
        ({"time_column": "d"}, TimeColumn("d")),
        (
            {"delay": {"distribution": "lognormal", "median_s": 200, "sigma": 1.8}},
            DrawnDelay(distribution="lognormal", scale_s=200.0, sigma=1.8),
        ),
        (
            {"delay": {"distribution": "exponential", "mean_s": 9, "seed": 3}},
            DrawnDelay(distribution="exponential", scale_s=9.0, seed=3),
        ),
    ],
)
def test_feedback_takes_its_time_in_one_of_four_ways(feedback, delay):
    """Logs say when a click came, or how long it took, or nothing."""
    assert delay == _mapping(feedback=feedback).delay


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"usr_id": "u"}}, r"\[input.columns\] knows no 'usr_id'.*'user_id'"),
        ({"columns": {"ts_unit": "hours"}}, "one of s, ms, us, ns"),
        ({"columns": {"ts_shift_s": 1.5}}, "whole seconds"),
        ({"columns": {"label_at_least": 4}}, "needs label"),
        ({"columns": {"label": "l", "label_at_least": "4"}}, "is a number"),
        ({"columns": {"ts": 7}}, "name in quotes"),
        ({"columns": {"impression_id": {"a": 1}}}, "column or a list"),
        ({"feedback": {"delay_s": 1, "time_column": "t"}}, "delay_s and time_column: keep one"),
        ({"feedback": {"delay_s": -1}}, "non-negative"),
        ({"feedback": {"delay": 60}}, "for a constant write delay_s"),
        ({"feedback": {"delay": {"distribution": "normal"}}}, "no distribution 'normal'"),
        ({"feedback": {"delay": {"distribution": "exponential"}}}, "exponential takes mean_s"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(options, says):
    """A mistyped key silently ignored would cost a day."""
    with pytest.raises(MappingError, match=says) as raised:
        _mapping(**options)
    assert "\n" not in str(raised.value)


def test_a_mapping_without_time_says_how_to_name_it():
    """A stream without time has no order."""
    with pytest.raises(MappingError, match=r'has no ts: add ts = "the column'):
        ParquetMapping.from_table({"columns": {"user_id": "u", "item_id": "i"}})


def test_a_column_that_is_missing_is_told_with_its_place_in_the_toml():
    """The file to edit is the configuration: say where."""
    with pytest.raises(MappingError, match=r"\[input.features\] age names .*'ages'.*'age'"):
        _mapping(features={"age": "ages"}).check_columns(["u", "i", "t", "age"], "log.parquet")


def test_only_the_columns_that_are_needed_are_read():
    """Wide logs have hundreds; reading costs by the column."""
    mapping = _mapping({"label": "l"}, {"delay_column": "d"}, {"a": "col_a", "b": "col_b"})

    assert mapping.feedback_columns == ("t", "u", "l", "d")
    assert mapping.columns_for(EventSchema(ids=("a",))) == ("t", "u", "l", "d", "i", "col_a")
