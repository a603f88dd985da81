import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from keepstream.config import load
from tests.compose import ROOT, CannotInterpolate, composed, dotenv, interpolate, interpolated

COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
ENV = (ROOT / ".env").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SERVICES: dict[str, Any] = composed()["services"]
OURS = {name: each for name, each in SERVICES.items() if name != "kafka"}

of_ours = pytest.mark.parametrize("name", OURS)


def named(pattern: str, text: str) -> set[str]:
    """Return the first group of every match."""
    return set(re.findall(pattern, text, re.M))


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return the named volumes of a service by where they lie in it."""
    return {target: name for name, target in (v.split(":")[:2] for v in service["volumes"])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$SET/${SET}", "yes/yes"),
        ("${EMPTY:-other}${EMPTY-other}", "other"),
        ("${NONE:-a}${NONE-b}${NONE}", "ab"),
        ("${NONE:-${EMPTY:-deep}}", "deep"),
        ("${SET:?x}${EMPTY?x}", "yes"),
        ("${SET:+there}${EMPTY:+there}${EMPTY+there}", "therethere"),
        ("$$SET $${SET}", "$SET ${SET}"),
    ],
)
def test_interpolation_follows_the_specification(text: str, expected: str) -> None:
    """What the other tests see must be what a Compose implementation would."""
    assert expected == interpolated(text, {"SET": "yes", "EMPTY": ""})


@pytest.mark.parametrize("text", ["${NONE:?set it}", "${EMPTY:?set it}", "${NONE?}", "${SET", "$ "])
def test_what_cannot_be_interpolated_is_refused(text: str) -> None:
    """A required variable that is missing must not become an empty text."""
    with pytest.raises(CannotInterpolate):
        interpolated(text, {"SET": "yes", "EMPTY": ""})


def test_compose_keeps_the_specification(tmp_path: Path) -> None:
    """By the official schema, which check-jsonschema ships: nothing is fetched."""
    model = tmp_path / "compose.json"
    model.write_text(json.dumps(composed()), encoding="utf-8")
    command = ("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(model))

    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)

    assert 0 == done.returncode, done.stdout


def test_every_variable_is_in_env_and_every_one_there_is_used() -> None:
    """One that is missing stops the start; one that nothing reads is a promise nobody keeps."""
    used = named(r"\$\{?([A-Z_]+)", COMPOSE.replace("$$", ""))

    assert used | {"COMPOSE_PROFILES"} == set(dotenv(ENV))


def test_what_must_be_set_says_so() -> None:
    """Without .env the start ends with a message, not with an image without a tag."""
    with pytest.raises(CannotInterpolate, match=r"set in \.env"):
        interpolate(yaml.safe_load(COMPOSE), {})


def test_no_secret_is_in_a_committed_file() -> None:
    """A password is a file that a variable names, mounted as a secret."""
    assert not named(r"^(\w*(?:PASSWORD|SECRET|TOKEN)\w*)=(?!/dev/null$|$)", ENV)
    assert not [
        k for each in SERVICES.values() for k in each["environment"] if "PASSWORD" == k[-8:]
    ]


def test_images_are_pinned() -> None:
    """The same files give the same deployment next year."""
    images = [each["image"] for each in SERVICES.values()]
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)

    for image in [*images, *bases]:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", image), image
    assert {f"keepstream:{PROJECT['project']['version']}"} == {s["image"] for s in OURS.values()}


@pytest.mark.parametrize("part", ["volumes", "configs", "secrets"])
def test_what_services_use_is_declared_and_the_reverse(part: str) -> None:
    """A volume that is not declared is refused; one that nothing uses misleads."""
    used = set()
    for service in SERVICES.values():
        for each in service.get(part, ()):
            used.add(each["source"] if isinstance(each, dict) else each.partition(":")[0])

    assert used == set(composed()[part])


def test_files_that_are_mounted_are_there() -> None:
    """A file that is missing becomes an empty folder in a container."""
    model = composed()
    for each in [*model["configs"].values(), *model["secrets"].values()]:
        assert (ROOT / each["file"]).exists(), each["file"]


def test_ports_are_open_to_this_machine_only() -> None:
    """Neither the broker nor a worker's page asks who is there."""
    ports = [port for each in SERVICES.values() for port in each.get("ports", ())]

    assert 2 == len(ports)
    for port in ports:
        assert port.startswith("127.0.0.1:"), port


def test_there_are_as_many_ports_as_workers() -> None:
    """A worker without a free port does not start."""
    first, last = dotenv(ENV)["WORKER_PORTS"].split("-")

    assert int(SERVICES["worker"]["deploy"]["replicas"]) <= int(last) - int(first) + 1


def test_listeners_of_the_broker_agree() -> None:
    """A listener that is advertised elsewhere than it listens connects once, then never again."""
    env, ports = SERVICES["kafka"]["environment"], SERVICES["kafka"]["ports"]
    listeners = dict(each.split("://") for each in env["KAFKA_LISTENERS"].split(","))
    advertised = dict(each.split("://") for each in env["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(e.split(":") for e in env["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    _, published, inside = ports[0].split(":")

    assert listeners.keys() == protocols.keys()
    assert listeners.keys() - advertised.keys() == {env["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert env["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert f"1@{listeners['CONTROLLER']}" == env["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    assert (f":{inside}", f"localhost:{published}") == (listeners["HOST"], advertised["HOST"])
    assert advertised["SERVICES"] == f"kafka{listeners['SERVICES']}"
    assert advertised["SERVICES"] == dotenv(ENV)["KEEPSTREAM_KAFKA_BOOTSTRAP"]
    assert advertised["SERVICES"] == SERVICES["kafka"]["healthcheck"]["test"][-1]
    example = tomllib.loads((ROOT / "examples" / "kafka.toml").read_text("utf-8"))
    assert advertised["HOST"] == example["kafka"]["bootstrap"]


def test_the_log_of_the_broker_lies_on_its_volume() -> None:
    """Beside it, the log would go with the container."""
    kafka = SERVICES["kafka"]

    assert "kafka" == mounts(kafka)[kafka["environment"]["KAFKA_LOG_DIRS"]]


@of_ours
def test_a_service_starts_after_what_it_needs(name: str) -> None:
    """Topics after a broker that answers, the rest after the topics."""
    needs = OURS[name]["depends_on"]

    if name == "topics":
        assert {"kafka": {"condition": "service_healthy", "required": False}} == needs
    else:
        assert {"topics": {"condition": "service_completed_successfully"}} == needs


@of_ours
def test_what_a_service_is_given_is_a_configuration(name: str) -> None:
    """A setting that is spelt wrong would end every container with code 2."""
    environment = OURS[name]["environment"]
    ours = {k: v for k, v in environment.items() if k.startswith("KEEPSTREAM_")}

    config = load(ROOT / dotenv(ENV)["CONFIG_FILE"], environment=ours)

    assert dotenv(ENV)["KEEPSTREAM_KAFKA_BOOTSTRAP"] == config.kafka.bootstrap
    assert ours.keys() == {key for key in dotenv(ENV) if key.startswith("KEEPSTREAM_")}


@of_ours
def test_a_service_can_write_on_volumes_only(name: str) -> None:
    """What a command keeps outlives its container; what breaks in cannot stay."""
    service = OURS[name]

    assert service["read_only"] and ["ALL"] == service["cap_drop"]
    assert "/var/cache/keepstream" in mounts(service)


@pytest.mark.parametrize("name", ["kafka", "worker", "trainer", "archive", "extractor"])
def test_what_runs_on_is_bounded_restarted_and_given_time_to_stop(name: str) -> None:
    """One that is killed while it saves has learned for nothing since its last checkpoint."""
    service = SERVICES[name]

    assert service["deploy"]["resources"]["limits"]["memory"]
    assert "unless-stopped" == service["restart"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= 30


@pytest.mark.parametrize(
    ("name", "option", "volume"),
    [
        ("trainer", "--run=", "runs"),
        ("archive", "--into=", "archive"),
        ("extractor", "--run=", "knowledge"),
        ("extractor", "--store=", "knowledge"),
    ],
)
def test_what_is_kept_lies_on_a_volume(name: str, option: str, volume: str) -> None:
    """In the container it would go with the container."""
    word = next(w for w in OURS[name]["command"] if w.startswith(option))
    folder = str(Path(word.removeprefix(option)).parent)

    assert volume == mounts(OURS[name])[folder]


def test_the_extractor_is_given_its_own_configuration() -> None:
    """A trainer's would be refused, and its store is not where trainers look."""
    config = load(ROOT / dotenv(ENV)["EXTRACTOR_CONFIG_FILE"])

    assert config.extracts and config.extractor.refresh_every_s == 600
    assert load(ROOT / dotenv(ENV)["CONFIG_FILE"]).kafka.group != config.kafka.group
    assert "knowledge" == mounts(SERVICES["trainer"])["/knowledge"]


def test_volumes_are_owned_by_the_user_who_writes_on_them() -> None:
    """A new volume takes its owner from the image's folder."""
    owned = re.search(r"chown keepstream:keepstream ((?:/\S+ ?)+)", DOCKERFILE)

    assert owned and {t for each in OURS.values() for t in mounts(each)} == set(owned[1].split())


def test_the_image_runs_the_command_line_as_nobody_in_particular() -> None:
    """A command of compose.yaml is keepstream's, and never root's."""
    last = DOCKERFILE.split("\nFROM ")[-1]
    user = re.search(r"^USER (\w+)", last, re.M)

    assert user and f"useradd --system --uid 10001 --home-dir /runs --no-log-init {user[1]}" in last
    assert '\nENTRYPOINT ["keepstream"]\n' in last
    assert named(r"(--config=\S+?)[,\s]", COMPOSE) == {"--config=/etc/keepstream/keepstream.toml"}
    assert "/etc/keepstream/keepstream.toml" == OURS["worker"]["configs"][0]["target"]


def test_the_image_holds_every_package_and_nothing_else() -> None:
    """A package that is left out is missed at its first import."""
    packages = {name for name in PROJECT["tool"]["setuptools"]["packages"] if "." not in name}
    files = {"pyproject.toml", "README.md", "LICENSE"}
    ignore = (ROOT / ".dockerignore").read_text("utf-8")

    assert re.search(r"^\*$", ignore, re.M)
    assert packages | files == named(r"^!(\S+)$", ignore)
    for name in packages | files:
        assert (ROOT / name).exists(), name


def test_the_image_brings_the_torch_that_the_project_asks_for() -> None:
    """It is installed first, in a layer of its own: a second one would be added to it."""
    asked = [d for d in PROJECT["project"]["dependencies"] if d.startswith("torch==")]

    assert set(asked) == named(r"(torch==\S+)$", DOCKERFILE)
