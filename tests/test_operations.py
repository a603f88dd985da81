import importlib
import pkgutil
import re

import stream
from stream.examples import NewerExamples
from stream.kafka import KafkaError
from stream.reach import HandOverGap
from tests.compose import ROOT, composed, dotenv
from trainer.growth import OtherPartitions

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
MESSAGES = PAGE.partition("## Messages")[2].partition("\n## ")[0]


def errors() -> set[str]:
    """Return the names of all errors that Kafka can cause."""
    for module in pkgutil.iter_modules(stream.__path__, "stream."):
        importlib.import_module(module.name)
    found: set[type[Exception]] = set()
    wait: list[type[Exception]] = [KafkaError]
    while wait:
        kinds = wait.pop().__subclasses__()
        found |= set(kinds)
        wait += kinds
    return {k.__name__ for k in {*found, OtherPartitions, HandOverGap, NewerExamples}}


def test_every_error_has_its_next_move_on_the_page() -> None:
    """Whoever is woken by one looks for its name."""
    rows = [line.split(" | ")[0] for line in MESSAGES.splitlines() if line.startswith("| `")]
    explained = re.findall(r"`([A-Z]\w+)`", " ".join(rows))

    assert errors() == set(explained)


def test_services_and_variables_that_the_page_names_are_those_of_compose() -> None:
    """A command that is copied from it must work."""
    services = re.findall(r"docker compose [^\n`]*?(?:exec|up -d) ([a-z]+)", PAGE)
    variables = re.findall(r"`([A-Z]+(?:_[A-Z]+)+|WORKERS|REPLICATION)(?:=[^`]*)?`", PAGE)
    known = dotenv((ROOT / ".env").read_text("utf-8")).keys() | {
        "KEEPSTREAM_KAFKA_PASSWORD",
        "OMP_WAIT_POLICY",
    }

    assert services and set(services) <= composed()["services"].keys()
    assert variables and set(variables) <= known


def test_the_page_shows_the_configuration_where_containers_have_it() -> None:
    """A path of another machine leads nowhere."""
    targets = {c["target"] for c in composed()["services"]["trainer"]["configs"]}
    paths = set(re.findall(r"/etc/keepstream/[\w.]+\w", PAGE))

    assert paths <= targets
    assert all((ROOT / p).exists() for p in re.findall(r"--config (examples/\S+)", PAGE))
