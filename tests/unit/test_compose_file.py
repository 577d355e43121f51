"""docker-compose.yml: against the Compose specification's own schema, and for what it promises."""

import importlib.resources
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SCHEMA = "builtin_schemas/vendor/compose-spec.json"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((importlib.resources.files("check_jsonschema") / SCHEMA).read_text())


def seconds(text: str) -> int:
    (found,) = re.findall(r"^(\d+)(s|m)$", text)
    return int(found[0]) * {"s": 1, "m": 60}[found[1]]


def test_it_follows_the_compose_schema(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(compose)


def test_the_schema_would_refuse_a_misspelling(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    wrong = compose | {"services": {"worker": compose["services"]["worker"] | {"stop_grace_perod": "5m"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def test_the_broker_is_durable_watched_and_for_these_containers_alone(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    words = redis["command"]
    assert words[words.index("--appendonly") + 1] == "yes"
    assert words[words.index("--maxmemory-policy") + 1] == "noeviction"
    assert redis["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    assert "ports" not in redis
    assert any(volume.endswith(":/data") for volume in redis["volumes"])


@pytest.mark.parametrize("name", ["controller", "worker"])
def test_ours_have_the_gpus_the_state_and_a_healthy_broker(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert "state:/var/lib/mmq" in service["volumes"]
    assert service["environment"] == compose["services"]["controller"]["environment"]
    assert service["environment"]["MMQ_BROKER_URL"].startswith("redis://redis:")
    assert "ports" not in service


def test_a_worker_is_given_longer_than_its_jobs_are_for_a_checkpoint(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert "--stop-jobs" in worker["command"]
    assert seconds(worker["stop_grace_period"]) > 2 * int(worker["environment"]["MMQ_GRACE_SECONDS"])


def test_the_commands_are_modules_of_ours(compose: dict[str, Any]) -> None:
    for name in ("controller", "worker"):
        python, flag, module, *_ = compose["services"][name]["command"]
        assert (python, flag) == ("python", "-m")
        assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()


def has_compose() -> bool:
    docker = shutil.which("docker")
    return bool(docker) and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="docker compose is not at hand")
def test_docker_compose_itself_accepts_it() -> None:
    answer = subprocess.run(
        ["docker", "compose", "--file", str(FILE), "config", "--quiet"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
