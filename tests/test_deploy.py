"""The files in deploy/, as far as they can be checked without what runs them. deploy/README.md says what is not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from signal_server.cli import DRAIN, _parser
from signal_server.settings import PREFIX, read, settings, variable_of
from tools.image import DOCKERFILE, Steps

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SETTINGS = DEPLOY / "kubernetes/settings.env.example"
UNIT = DEPLOY / "llmtunnel-signal.service"
KUBERNETES = "1.32"
"""The version whose schemas its manifests have to fit."""
OPERATOR = {"SIGNAL_DOMAIN": "signal.example.org", "REDIS_PASSWORD": "r" * 64, "TURN_SECRET": "t" * 64}
"""What somebody has put into deploy/.env."""
APP = "app.example.org"
"""What somebody may have put there, too."""
FOREIGN = """
--copy-config --interval --name --no-cache-dir --no-create-home --no-deploy --signal --start-period --stop-timeout
--timeout --uid
"""
"""Flags of docker, fly, pip, useradd and our clients."""
posix = pytest.mark.skipif(sys.platform == "win32", reason="what runs it needs Linux or macOS")


def compose() -> dict[str, Any]:
    """compose.yaml, with what `OPERATOR` has given."""

    def given(match: re.Match[str]) -> str:
        name, what, default = match[1], match[2], match[3]
        value = OPERATOR.get(name)
        assert value or what == "-", f"{match[0]} has no default, and .env.example does not name it"
        return value or default

    text = re.sub(r"\$\{(\w+)(?::([?-])([^}]*))?\}", given, (DEPLOY / "compose.yaml").read_text("utf-8"))
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def manifests() -> list[dict[str, Any]]:
    """Every manifest that kustomize applies, and the kustomization itself."""
    folder = DEPLOY / "kubernetes"
    names = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {*names} == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    return [each for name in names for each in yaml.safe_load_all((folder / name).read_text("utf-8"))]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in manifests() if each["kind"] == kind]


def environment_file(path: Path) -> dict[str, str]:
    """The variables of a file that systemd, compose or kustomize reads, commented ones included."""
    found = re.findall(r"^#?([A-Z_]+)=(.*)$", path.read_text("utf-8"), re.MULTILINE)
    return dict(found)


def pod() -> dict[str, Any]:
    [stateful] = of_kind("StatefulSet")
    spec: dict[str, Any] = stateful["spec"]["template"]["spec"]
    return spec


def pod_environ() -> dict[str, str]:
    """The variables of a pod, where the cluster tells it its own name and address."""
    told = {"metadata.name": "signal-0", "status.podIP": "10.1.2.3"}
    environ = {}
    for each in pod()["containers"][0]["env"]:
        value = each.get("value") or told[each["valueFrom"]["fieldRef"]["fieldPath"]]
        environ[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], value)
    return environ


def unit_environ() -> dict[str, str]:
    [line] = re.findall(r"^Environment=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def environments() -> Iterator[tuple[str, Mapping[str, str]]]:
    """The variables that each of the files gives a server."""
    image = Steps(DOCKERFILE.read_text("utf-8")).environ
    yield "Dockerfile", image
    for name, service in compose()["services"].items():
        if name.startswith("signal"):
            yield name, image | service["environment"]
    yield "kubernetes", image | pod_environ()
    for name in ("settings", "secrets"):
        yield f"{name}.env", image | environment_file(DEPLOY / f"kubernetes/{name}.env.example")
    yield "fly.toml", image | tomllib.loads((DEPLOY / "fly.toml").read_text("utf-8"))["env"]
    yield "systemd", unit_environ()


ENVIRONMENTS = dict(environments())


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_server_takes_every_variable_with_its_value(name: str) -> None:
    ours = {key: value for key, value in ENVIRONMENTS[name].items() if key.startswith(PREFIX)}
    known = {variable_of(action) for action in settings(_parser("x"))}
    assert {*ours} <= known
    given = vars(read(_parser("x"), [], ours, warn=pytest.fail))
    assert all(given[key.removeprefix(PREFIX).lower()] for key, value in ours.items() if value)


def test_the_files_name_no_flag_that_does_not_exist() -> None:
    known = {option for action in _parser("x")._actions for option in action.option_strings}
    texts = [path.read_text("utf-8") for path in DEPLOY.rglob("*") if path.is_file() and path.name != "README.md"]
    readme = re.sub(r"^    .*$", "", (DEPLOY / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    named = {flag for text in [*texts, readme] for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", text)}
    assert named - known == {*FOREIGN.split()}


def test_each_gives_a_server_more_time_to_stop_than_it_takes_to_drain() -> None:
    drains = {name: float(environ.get(f"{PREFIX}DRAIN", DRAIN)) for name, environ in ENVIRONMENTS.items()}
    closing = 10  # seconds, at most 4 steps of `Limits.close`, and what is left
    for name, service in compose()["services"].items():
        if name in drains:
            assert float(service["stop_grace_period"].removesuffix("s")) >= drains[name] + closing
    assert pod()["terminationGracePeriodSeconds"] >= drains["kubernetes"] + closing
    fly = tomllib.loads((DEPLOY / "fly.toml").read_text("utf-8"))
    assert float(fly["kill_timeout"].removesuffix("s")) >= drains["fly.toml"] + closing
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    assert float(stop) >= drains["systemd"] + closing


def test_no_file_has_a_secret_that_somebody_could_start_with() -> None:
    environ = environment_file(DEPLOY / ".env.example")
    assert {*OPERATOR} <= {*environ} and not any(environ.values())
    assert not any(environment_file(DEPLOY / "kubernetes/secrets.env.example").values())
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    for name in OPERATOR:
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert any(use.startswith(f"${{{name}:?") for use in uses), "compose refuses to start without it"
    for secret in ("REDIS_PASSWORD", "TURN_SECRET"):
        assert all(use.startswith(f"${{{secret}:?") for use in re.findall(rf"\$\{{{secret}[^}}]*\}}", text))
    assert not of_kind("Secret")
    generated = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text("utf-8"))
    for each in generated["secretGenerator"] + generated["configMapGenerator"]:
        for name in each["envs"]:
            assert (DEPLOY / f"kubernetes/{name}.example").exists()
            ignored = (DEPLOY / "kubernetes/.gitignore").read_text("utf-8").split()
            assert name in ignored, "kustomize stops until somebody has made it, and git never has it"


# -- the image


def test_the_image_installs_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {Requirement(text).name: Requirement(text).specifier for text in project["dependencies"]}
    wanted = {"aiohttp": declared["aiohttp"]}
    wanted |= {Requirement(text).name: Requirement(text).specifier for text in extras["metrics"] + extras["redis"]}
    lines = (DEPLOY / "requirements.txt").read_text("utf-8").splitlines()
    installed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {each.name: each.specifier for each in installed} == wanted


def test_the_image_is_built_of_files_that_the_build_sees_and_runs_as_nobody_in_particular() -> None:
    steps = Steps(DOCKERFILE.read_text("utf-8"))
    seen = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for source, _ in steps.copied:
        assert (ROOT / source).exists()
        assert any(f"!{each}" in seen for each in (source, Path(source).parent))
    [user] = steps.of("USER")
    assert user.split(":")[0].isdecimal() and int(user.split(":")[0]) > 0
    assert [command.split()[0] for command in steps.commands] == ["pip", "useradd"], "tools/image.py follows them"
    assert steps.all.index(("USER", user)) < steps.all.index(("ENTRYPOINT", steps.of("ENTRYPOINT")[0]))


@posix
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "[::1]"])
def test_the_health_check_of_the_image_tells_a_server_that_lives_from_one_that_does_not(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")
    command = [sys.executable, "-m", "signal_server", "--listen", f"{host}:0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            there = server.stdout.readline().partition("ws://")[2].strip()
            environ = os.environ | {"TUNNEL_SIGNAL_LISTEN": there, "http_proxy": "http://127.0.0.1:1"}
            check = [sys.executable, DEPLOY / "healthcheck.py"]
            assert subprocess.run(check, env=environ, timeout=30).returncode == 0
        finally:
            server.kill()
    assert subprocess.run(check, env=environ, timeout=30, stderr=subprocess.DEVNULL).returncode != 0


# -- compose


def test_compose_fits_its_schema() -> None:
    schema = files(check_jsonschema) / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(compose(), json.loads(schema.read_text("utf-8")))


def test_compose_lets_nobody_outside_reach_redis_metrics_and_the_instances() -> None:
    services = compose()["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    assert compose()["networks"]["back"] == {"internal": True}
    assert services["redis"]["networks"] == ["back"]
    trusted = services["signal-1"]["environment"]["TUNNEL_SIGNAL_TRUSTED_PROXY"]
    assert services["caddy"]["networks"]["front"]["ipv4_address"] == trusted


def test_each_instance_has_a_name_of_its_own_which_caddy_leads_to_it() -> None:
    services = {name: service for name, service in compose()["services"].items() if name.startswith("signal")}
    assert len(services) == 2
    caddyfile = (DEPLOY / "Caddyfile").read_text("utf-8")
    for name, service in services.items():
        assert service["environment"]["TUNNEL_SIGNAL_INSTANCE"] == name
        assert service["environment"]["TUNNEL_SIGNAL_ADVERTISE"] == f"{name}:8787"
        assert f"@{name} path */at/{name}\n\thandle @{name} {{\n\t\treverse_proxy {name}:8787\n" in caddyfile


@contextmanager
def as_compose_runs(name: str, folder: Path, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A service's shell command, in this folder instead of the container's."""
    service = compose()["services"][name]
    assert service["entrypoint"] == ["/bin/sh", "-c"]
    [command] = service["command"]
    command = re.sub(r"/(data|tmp)/", f"{folder}/", command.replace("$$", "$"))
    for old, new in changes.items():
        assert old in command
        command = command.replace(old, new)
    environ = os.environ | service["environment"]
    with subprocess.Popen(
        ["/bin/sh", "-c", command], cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_line(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    lines = []
    while line := process.stdout.readline():
        lines.append(line)
        if wanted in line:
            return
    raise AssertionError(f"ended without {wanted!r}:\n{''.join(lines)}")


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_the_redis_of_compose_wants_its_password_and_ends_in_order(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = {"redis.conf && exec": f"redis.conf && printf 'port {port}\\n' >> {tmp_path}/redis.conf && exec"}
    with as_compose_runs("redis", tmp_path, **started) as process:
        wait_line(process, "Ready to accept connections")
        assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
        said = cli(port, "config", "get", "save")
        assert "NOAUTH" in said
        said = cli(port, "config", "get", "maxmemory-policy", password=OPERATOR["REDIS_PASSWORD"])
        assert "noeviction" in said
        health = compose()["services"]["redis"]["healthcheck"]["test"][1].replace("$$", "$")
        health = health.replace("redis-cli", f"redis-cli -p {port}")
        environ = os.environ | {"REDIS_PASSWORD": OPERATOR["REDIS_PASSWORD"]}
        assert subprocess.run(["/bin/sh", "-c", health], env=environ, timeout=20).returncode == 0
        environ["REDIS_PASSWORD"] = "wrong"
        assert subprocess.run(["/bin/sh", "-c", health], env=environ, timeout=20).returncode == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def cli(port: int, *words: str, password: str = "") -> str:
    environ = os.environ | ({"REDISCLI_AUTH": password} if password else {})
    command = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs coturn's turnserver")
def test_the_coturn_of_compose_starts_with_its_secret_and_without_a_complaint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = (DEPLOY / "turnserver.conf").read_text("utf-8").replace("listening-port=3478", f"listening-port={port}")
    (tmp_path / "base.conf").write_text(base, encoding="utf-8")
    changes = {
        "/etc/coturn/base.conf": str(tmp_path / "base.conf"),
        "-c ": f"--listening-ip=127.0.0.1 --relay-ip=127.0.0.1 --pidfile={tmp_path}/pid --userdb={tmp_path}/db -c ",
    }
    with as_compose_runs("coturn", tmp_path, **changes) as process:
        assert process.stdout is not None
        lines = []
        while line := process.stdout.readline():
            lines.append(line)
            if "Total General servers" in line:
                break
        said = "".join(lines)
        assert "Total General servers" in said, said
        assert not re.search(r"(?i)bad configuration|error|alert|illegal|no such", said), said
        assert OPERATOR["TURN_SECRET"] not in said
        made = (tmp_path / "turnserver.conf").read_text("utf-8").splitlines()
        assert f"static-auth-secret={OPERATOR['TURN_SECRET']}" in made
        assert f"realm={OPERATOR['SIGNAL_DOMAIN']}" in made
        process.terminate()
        process.wait(20)


# -- Caddy


@pytest.mark.skipif(shutil.which("caddy") is None, reason="needs caddy")
@pytest.mark.parametrize("app", ["", APP])
def test_caddy_accepts_its_file(tmp_path: Path, app: str) -> None:
    command = ["caddy", "validate", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
    told = {
        "SIGNAL_DOMAIN": "signal.example.org",
        "APP_DOMAIN": app,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr


# -- Kubernetes


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    for manifest in manifests():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_lines_for_a_host_of_web_apps_fit_too() -> None:
    text = (DEPLOY / "kubernetes/ingress.yaml").read_text("utf-8")
    ingress = yaml.safe_load(re.sub(r"^( *)#(?! \S)", r"\1", text, flags=re.MULTILINE))
    kubernetes_validate.validate(ingress, KUBERNETES, strict=True)
    _, rule = ingress["spec"]["rules"]
    _, tls = ingress["spec"]["tls"]
    assert [rule["host"]] == tls["hosts"] == [environment_file(SETTINGS)["TUNNEL_SIGNAL_WEB_APP_HOST"]]
    assert [each["path"] for each in rule["http"]["paths"]] == ["/"]


def test_a_manifest_with_a_misspelt_member_does_not() -> None:
    [budget] = of_kind("PodDisruptionBudget")
    budget["spec"]["maxUnavailible"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(budget, KUBERNETES, strict=True)


def test_every_selector_finds_the_pods_and_every_path_a_service_of_an_instance() -> None:
    [stateful], services = of_kind("StatefulSet"), {each["metadata"]["name"]: each for each in of_kind("Service")}
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    [budget] = of_kind("PodDisruptionBudget")
    for each in (stateful, budget):
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert stateful["spec"]["serviceName"] in services
    pods = [f"{stateful['metadata']['name']}-{number}" for number in range(stateful["spec"]["replicas"])]
    for name in pods:
        assert services[name]["spec"]["selector"] == {"statefulset.kubernetes.io/pod-name": name}
    for name in {*services} - {*pods}:
        assert services[name]["spec"]["selector"].items() <= labels.items()
    [rule] = of_kind("Ingress")[0]["spec"]["rules"]
    paths = {each["path"]: each["backend"]["service"]["name"] for each in rule["http"]["paths"]}
    assert paths == {"/": "signal"} | {f"/at/{name}": name for name in pods}


def test_probes_ask_what_they_are_for() -> None:
    [container] = pod()["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    image = Steps(DOCKERFILE.read_text("utf-8"))
    assert pod()["securityContext"]["runAsUser"] == int(image.of("USER")[0].split(":")[0])
    [port] = [each["containerPort"] for each in container["ports"] if each["name"] == "http"]
    assert image.environ["TUNNEL_SIGNAL_LISTEN"].endswith(f":{port}")


# -- systemd


def systemd(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a Python that there is on this machine."""
    text = UNIT.read_text("utf-8")
    python = "/opt/llmtunnel-signal/venv/bin/python"
    assert f"ExecStart={python} -m signal_server\n" in text
    made = tmp_path / UNIT.name
    made.write_text(text.replace(python, sys.executable), encoding="utf-8")
    return made


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


@needs_systemd
def test_systemd_accepts_the_unit(unit: Path) -> None:
    said = [line for line in systemd("verify", str(unit)).splitlines() if UNIT.name in line]
    assert said == []


@needs_systemd
def test_systemd_says_that_the_unit_is_well_confined(unit: Path) -> None:
    systemd("security", "--offline=yes", "--threshold=15", str(unit))  # of 100; without its settings it has 96


# -- Fly


def test_fly_asks_and_ends_a_machine_as_the_server_expects() -> None:
    fly = tomllib.loads((DEPLOY / "fly.toml").read_text("utf-8"))
    [check] = fly["http_service"]["checks"]
    assert (check["path"], fly["kill_signal"]) == ("/readyz", "SIGTERM")
    assert fly["env"]["TUNNEL_SIGNAL_LISTEN"].endswith(f":{fly['http_service']['internal_port']}")
    assert fly["env"]["TUNNEL_SIGNAL_METRICS_LISTEN"].endswith(f":{fly['metrics']['port']}")
    assert (DEPLOY / fly["build"]["dockerfile"]).exists(), "flyctl looks for it beside fly.toml"
    assert fly["http_service"]["auto_stop_machines"] == "off"
