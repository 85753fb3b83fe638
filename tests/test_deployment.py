"""Files for deploying Flow name commands, settings, ports, paths and metrics that there are."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import CollectorRegistry
from typer.main import get_command

from flow.api import health
from flow.app.stop_signals import STOP_SIGNALS
from flow.cli import cli
from flow.settings import Settings
from flow.telemetry.metric_definitions import Metrics

ROOT = Path(__file__).parents[1]
DATA = "/var/lib/flow"
PORT = 8000
# What may follow the last calls.
AFTER_SECS = 90

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
VARIABLES = {
    name.upper() if field.validation_alias is not None else f"FLOW_{name.upper()}"
    for name, field in Settings.model_fields.items()
}


@pytest.fixture(scope="module")
def image() -> list[tuple[str, str]]:
    """The Dockerfile's instructions of the last stage, with their arguments."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    instructions = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]
    last = max(at for at, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[last:]


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    page = (ROOT / "docs" / "guides" / "kubernetes.md").read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def test_the_image_runs_flow_where_its_health_is_looked_for(image: list[tuple[str, str]]) -> None:
    said = dict(image)
    environment = dict(re.findall(r"([A-Z_]+)=(\S+)", said["ENV"]))
    flow = {name: value for name, value in environment.items() if name.startswith("FLOW_")}
    assert set(flow) <= VARIABLES
    assert (flow["FLOW_PORT"], flow["FLOW_DATA_DIR"]) == (said["EXPOSE"], said["VOLUME"])
    assert (said["EXPOSE"], said["VOLUME"]) == (str(PORT), DATA)
    assert "/healthz" in said["HEALTHCHECK"]
    assert "'FLOW_PORT'" in said["HEALTHCHECK"]
    assert said["STOPSIGNAL"] in {number.name for number in STOP_SIGNALS}
    assert int(said["USER"]) > 0  # Kubernetes cannot tell of a name that it is not root's
    assert json.loads(said["ENTRYPOINT"]) == ["flow"]
    _parses(json.loads(said["CMD"]))


def test_what_is_copied_into_the_image_is_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:].split("/")[0] for line in ignore if line.startswith("!")}
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    named = {
        name
        for names in copied
        if not names[0].startswith("--from=")
        for name in names
        if not name.startswith("-")
    }
    assert {name.split("/")[0] for name in named} == kept != set()
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_everything_that_an_image_installs_is_locked_by_its_hash() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    steps = [step.split() for step in re.split(r"&&|\n", text)]
    installing = [step for step in steps if {"pip", "uv"} & set(step) and "venv" not in step]
    assert len(installing) == 4
    for step in installing:
        assert {"--require-hashes", "--no-deps"} & set(step), step


def test_the_lock_holds_every_extra_with_hashes() -> None:
    locked = _locked()
    assert all(hashes for hashes in locked.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [Requirement(line) for line in project["build-system"]["requires"]]
    extras = project["project"]["optional-dependencies"]
    for lines in (lines for name, lines in extras.items() if name != "all"):  # of the others
        for requirement in map(Requirement, lines):
            wanted.append(requirement)
            needed = [Requirement(line) for line in requires(requirement.name) or ()]
            of_extras = [
                one
                for one in needed
                for extra in requirement.extras
                if one.marker and one.marker.evaluate({"extra": extra})
            ]
            assert bool(of_extras) == bool(requirement.extras)
            wanted += of_extras
    missing = {canonicalize_name(one.name) for one in wanted} - set(locked)
    assert missing == set()


def test_compose_agrees_with_the_code_and_with_the_image(
    composed: dict[str, Any], image: list[tuple[str, str]]
) -> None:
    built_in = set(re.findall(r"(FLOW_[A-Z_]+=\S+)", dict(image)["ENV"]))
    services = {name: one for name, one in composed["services"].items() if one["image"] == "flow"}
    commands = sorted(one["command"][0] for one in services.values())
    assert commands == ["migrate", "serve", "worker", "worker"]
    for service in services.values():
        _parses(service["command"])
        assert set(service["environment"]) <= VARIABLES
        assert {f"{name}={value}" for name, value in service["environment"].items()} >= built_in
        assert service["env_file"] == ".env"
        drain = int(service["environment"]["FLOW_DRAIN_SECS"])
        assert int(service["stop_grace_period"].removesuffix("s")) >= drain + AFTER_SECS


def test_each_service_of_compose_has_its_own_folder_and_name(composed: dict[str, Any]) -> None:
    running = [one for one in composed["services"].values() if "FLOW_EXECUTOR_ID" in str(one)]
    names = [one["environment"]["FLOW_EXECUTOR_ID"] for one in running]
    volumes = [volume.split(":") for one in running for volume in one["volumes"]]
    assert len(set(names)) == len(running) == 3
    assert len({name for name, _ in volumes}) == len(running)
    assert {folder for _, folder in volumes} == {DATA}
    assert {name for name, _ in volumes} | {"postgres"} == set(composed["volumes"])


def test_containers_of_kubernetes_agree_with_the_code(manifests: list[dict[str, Any]]) -> None:
    containers = list(_containers(manifests))
    assert [one["args"][0] for one, _ in containers] == ["migrate", "serve", "worker"]
    paths = {route.path for route in health.router.routes}  # type: ignore[attr-defined]
    for container, _ in containers:
        _parses(container["args"])
        assert {variable["name"] for variable in container.get("env", [])} <= VARIABLES
        for probe in PROBES:
            if probe in container:
                assert container[probe]["httpGet"]["path"] in paths
    (config,) = [one for one in manifests if one.get("kind") == "ConfigMap"]
    assert set(config["data"]) <= VARIABLES
    graces = [pod["terminationGracePeriodSeconds"] for _, pod in containers[1:]]
    assert min(graces) >= int(config["data"]["FLOW_DRAIN_SECS"]) + AFTER_SECS
    assert {mount["mountPath"] for one, _ in containers[1:] for mount in one["volumeMounts"]} == {
        DATA
    }


def test_kubernetes_scales_by_metrics_that_there_are(manifests: list[dict[str, Any]]) -> None:
    (scaled,) = [one for one in manifests if one.get("kind") == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    named = set(re.findall(r"\bflow_\w+", trigger["metadata"]["query"]))
    registry = CollectorRegistry()
    Metrics(registry)
    assert named == {"flow_calls_running", "flow_calls_capacity", "flow_draining"}
    assert named <= {metric.name for metric in registry.collect()}


def test_kubernetes_names_secrets_and_holds_none(manifests: list[dict[str, Any]]) -> None:
    assert "Secret" not in {one.get("kind") for one in manifests}
    for container, _ in _containers(manifests):
        assert {"secretRef": {"name": "flow"}} in container["envFrom"]


def _locked() -> dict[str, list[str]]:
    """The hashes of each locked package."""
    entries = re.split(
        r"^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text("utf-8"), flags=re.M
    )
    return {
        entry.split("==")[0]: re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)
        for entry in entries[1:]
    }


def _containers(manifests: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each container with its pod."""
    for one in manifests:
        pod = one.get("spec", {}).get("template", {}).get("spec")
        for container in (pod or {}).get("containers", []):
            yield container, pod


def _parses(arguments: list[str]) -> None:
    """The command line takes these; a port it answers on is the one that is published."""
    name, *rest = arguments
    command = get_command(cli).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, list(rest)).params
    assert given.get("port") in {None, PORT}
