import pytest

from trainer.schema import FeatureSchema, ListFeature, Statistic
from trainer.schema_values import FeatureSchemaError

FULL = {
    "ids": ["item", "user", "scene", "device"],
    "crosses": [["scene", "device"], ["context_article", "item"]],
    "numbers": ["price"],
    "lists": {"tags": 5, "seen": {"length": 3, "like": "item"}},
    "history": 10,
    "hour_of_day": True,
    "statistics_prior": {"shown": 20, "ctr": 0.09},
    "request_relative": True,
    "oracle": "true_ctr",
    "statistics": [
        {"key": ["item"], "half_lives_h": [0.5, 3, 12], "age": True},
        {"key": ["category", "last_click"], "half_lives_h": [48], "age": False},
    ],
}


def test_a_full_table_is_read():
    """The schema says what the table says, and nothing is lost on the way."""
    schema = FeatureSchema.from_table(FULL)

    assert schema.crosses == (("scene", "device"), ("context_article", "item"))
    assert ListFeature(name="seen", length=3, like="item") == schema.lists[1]
    last = Statistic(key=("category", "last_click"), half_lives_h=(48.0,), age=False)
    assert last == schema.statistics[1]
    assert (schema.prior_shown, schema.prior_ctr) == (20.0, 0.09)


def test_events_are_read_for_what_the_features_need_and_no_more():
    """Every id that any feature is made of is decoded once; built-in ones are there anyway."""
    events = FeatureSchema.from_table(FULL).event_schema(("click", "buy"))

    assert events.ids == ("device", "context_article", "category")
    assert events.numbers == ("price", "true_ctr")
    assert events.lists == (("tags", 5), ("seen", 3))
    assert events.actions == ("click", "buy")


def test_a_model_is_built_for_the_columns_of_the_rows():
    """The shape names what comes in which place; the oracle is not among it."""
    schema = FeatureSchema.from_table(FULL)
    shape = schema.model_shape(16)

    crosses = ("scene*device", "context_article*item")
    assert shape.id_fields == ("item", "user", "scene", "device", *crosses)
    assert shape.sequences == (("history", 10), ("tags", 5), ("seen", 3))
    assert shape.sequence_targets == (0, 0, 0)
    assert shape.numbers[:5] == ("price", "hour_sin", "hour_cos", "weekend", "item.shown.0.5h")
    statistics = schema.row_numbers[schema.statistic_columns]
    assert len(statistics) == 3 * 3 + 1 + 3
    assert statistics[9:11] == ("item.age", "category*last_click.shown.48h")
    assert (*schema.row_numbers, *(f"{n} - request" for n in statistics)) == shape.numbers
    assert "true_ctr" not in shape.numbers


def test_an_empty_table_has_useful_features():
    """A newcomer's first run must already learn: five kinds of key, a history, the clock."""
    schema = FeatureSchema.from_table({})

    assert FeatureSchema() == schema
    names = ("item", "user", "item*scene", "user*item", "last_click*item")
    assert names == tuple(s.name for s in schema.statistics)
    assert schema.event_schema().ids == ()


def test_nothing_is_a_schema_too():
    """Whoever wants ids only gets ids only."""
    bare = {"ids": ["item"], "history": 0, "hour_of_day": False, "statistics": []}
    shape = FeatureSchema.from_table(bare).model_shape(8)

    assert (
        shape.id_fields,
        shape.sequences,
        shape.sequence_targets,
        shape.numbers,
    ) == (("item",), (), (), ())


def test_the_digest_tells_schemas_apart():
    """Snapshots and checkpoints are refused by it: equal for equal, else different."""
    assert FeatureSchema.from_table(FULL).digest == FeatureSchema.from_table(dict(FULL)).digest
    assert FeatureSchema.from_table({}).digest == FeatureSchema.from_table({"history": 20}).digest
    assert FeatureSchema.from_table({}).digest != FeatureSchema.from_table({"history": 19}).digest


@pytest.mark.parametrize(
    ("table", "path", "fact"),
    [
        ({"number": ["x"]}, "features.number", 'did you mean "numbers"'),
        ({"history": -1}, "features.history", "at least 0"),
        ({"history": True}, "features.history", "whole number"),
        ({"history": 5, "ids": ["user"]}, "features.history", "history = 0"),
        ({"ids": "item"}, "features.ids", "list"),
        ({"ids": ["item", "a*b"]}, "features.ids[1]", "a*b"),
        ({"ids": ["item", "user", "item"]}, "features.ids[2]", "already features.ids[0]"),
        ({"ids": ["item", "last_click"]}, "features.ids", "history = 1"),
        ({"crosses": [["item"]]}, "features.crosses[0]", "at least 2"),
        ({"crosses": [["a", "b"], ["b", "a"]]}, "features.crosses[1]", "already"),
        ({"numbers": ["x"], "oracle": "x"}, "features", "number"),
        ({"numbers": ["x"], "ids": ["item", "x"]}, "features", "as id and as number"),
        ({"lists": {"tags": 0}}, "features.lists.tags.length", "at least 1"),
        ({"lists": {"tags": {"size": 3}}}, "features.lists.tags.size", "length"),
        ({"lists": {"t": {"length": 3, "like": "itme"}}}, "features.lists.t.like", '"item"'),
        ({"lists": {"history": 3}}, "features.lists.history", "taken"),
        (
            {"statistics": [{"key": ["a"], "half_life": [3]}]},
            "features.statistics[0].half_life",
            "",
        ),
        ({"statistics": [{}]}, "features.statistics[0].key", "at least 1"),
        ({"statistics": [{"key": ["a"]}, {"key": ["a"]}]}, "features.statistics[1]", "already"),
        (
            {"statistics": [{"key": ["a"], "half_lives_h": [3, 0]}]},
            "features.statistics[0].half_lives_h[1]",
            "between",
        ),
        (
            {"statistics": [{"key": ["a"], "half_lives_h": [3, 0.1], "held_s": 100 * 3600}]},
            "features.statistics[0].held_s",
            "more than 256 half-lives of 0.1 h",
        ),
        (
            {"statistics": [{"key": ["item", "scene"], "scenes": ["front"]}]},
            "features.statistics[0].scenes",
            'the key has "scene"',
        ),
        (
            {"statistics": [{"key": ["a"], "scenes": ["s", "s"]}]},
            "features.statistics[0].scenes[1]",
            "already",
        ),
        (
            {"statistics": [{"key": ["a"], "scenes": [3]}]},
            "features.statistics[0].scenes[0]",
            "text",
        ),
        (
            {
                "statistics": [
                    {"key": ["a", "b"], "scenes": ["s"]},
                    {"key": ["b", "a"], "scenes": ["s"]},
                ]
            },
            "features.statistics[1]",
            "'a*b@s' is already",
        ),
        (
            {"statistics": [{"key": ["a"], "scenes": ["x,y"]}]},
            "features.statistics[0].scenes[0]",
            "without a comma",
        ),
        (
            {"statistics": [{"key": ["a"], "scenes": ["x\n"]}]},
            "features.statistics[0].scenes[0]",
            "printable",
        ),
        (
            {"statistics": [{"key": ["a@b"], "scenes": ["x"]}]},
            "features.statistics[0].scenes",
            "'a@b' of the key",
        ),
        (
            {"statistics": [{"key": ["a"], "scenes": [""]}]},
            "features.statistics[0].scenes[0]",
            "text",
        ),
        (
            {
                "statistics": [
                    {"key": ["a"], "scenes": ["s", "t"]},
                    {"key": ["a"], "scenes": ["t", "s"]},
                ]
            },
            "features.statistics[1]",
            "'a@s,t' is already",
        ),
        (
            {"statistics": [{"key": ["a"], "half_lives_h": [3, 3]}]},
            "features.statistics[0].half_lives_h",
            "twice",
        ),
        ({"statistics_prior": {"ctr": 1.5}}, "features.statistics_prior.ctr", "between 0 and 1"),
        ({"statistics_prior": {"show": 1}}, "features.statistics_prior.show", '"shown"'),
        ({"hour_of_day": 1}, "features.hour_of_day", "true or false"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(table, path, fact):
    """A typing error in a configuration must not become a model without that feature."""
    with pytest.raises(FeatureSchemaError) as refused:
        FeatureSchema.from_table(table)

    assert str(refused.value).startswith(f"{path}: ")
    assert fact in str(refused.value)
