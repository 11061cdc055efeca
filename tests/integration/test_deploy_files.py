"""What ``deploy/`` offers to run a broker with: that it is as confined as it says, and says nothing that there is not."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.conftest import Lab
from vault.broker import create_app
from vault.configuration import Configuration
from vault.encoding import duration
from vault.settings import SETTINGS, refuse_unknown
from vault_cli.main import app

_ROOT = Path(__file__).parents[2]
_DEPLOY = _ROOT / "deploy"
_CONTAINER = (_DEPLOY / "Containerfile").read_text()
_UNIT = (_DEPLOY / "dsvault-broker.service").read_text()
_MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((_DEPLOY / "kubernetes" / "broker.yaml").read_text()))


def _kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in _MANIFESTS if each["kind"] == kind)
    return found


def _pod() -> dict[str, Any]:
    pod: dict[str, Any] = _kind("Deployment")["spec"]["template"]["spec"]
    return pod


def _container() -> dict[str, Any]:
    (container,) = _pod()["containers"]
    found: dict[str, Any] = container
    return found


def _environment() -> dict[str, str]:
    """What a pod's process would find, with texts in the place of secrets."""
    secrets = {
        "DSVAULT_CATALOG": "postgresql+psycopg://u:p@host/d", "DSVAULT_PASSPHRASE": "p", "BAO_TOKEN": "t",
    }  # fmt: skip
    told = {each["name"]: each["valueFrom"]["secretKeyRef"]["name"] for each in _container()["env"]}
    assert told == dict.fromkeys(secrets, "dsvault-broker")
    return {**_of_image(), **_kind("ConfigMap")["data"], **secrets}


def _of_image() -> dict[str, str]:
    lines = _CONTAINER.replace("\\\n", " ").splitlines()
    said = " ".join(line.removeprefix("ENV ") for line in lines if line.startswith("ENV "))
    return dict(re.findall(r"(\w+)=(\S+)", said))


def _unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in _UNIT.splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def test_every_setting_in_them_is_one() -> None:
    """In texts, commands and comments too."""
    known = {each.variable for each in SETTINGS}
    for path in (path for path in _DEPLOY.rglob("*") if path.is_file()):
        assert set(re.findall(r"\bDSVAULT_[A-Z_]+[A-Z]\b", path.read_text())) <= known, path
    refuse_unknown(_environment())


def test_a_pods_settings_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A configuration comes of them without a file, and serve takes every option that they give."""
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    found = Configuration.read(tmp_path / "broker" / "config.toml")
    assert (found.store, found.endpoint) == ("s3://dsvault-lab/vault", "https://vault.lab.example")
    program: Any = typer.main.get_command(app)
    context = program.commands["serve"].make_context("serve", [])
    assert context.params["host"] == "0.0.0.0"
    assert context.params["metrics_to"] == ["10.0.0.0/8"]
    assert context.params["tls_key"] == Path("/run/tls/tls.key")


def test_a_pod_is_confined() -> None:
    """Not root, nothing to write, no capability, no token of the cluster's, and no variables of its services."""
    pod, container = _pod(), _container()
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert all(volume.keys() == {"name", "secret"} for volume in pod["volumes"])
    assert all(volume["secret"]["defaultMode"] == 0o400 for volume in pod["volumes"])


def test_the_log_key_is_where_the_broker_looks_for_it() -> None:
    """Below the directory that the image names, and nothing else of the vault's."""
    (mount,) = (each for each in _container()["volumeMounts"] if each["name"] == "log-key")
    assert mount["mountPath"] == f"{_of_image()['DSVAULT']}/broker"
    (volume,) = (each for each in _pod()["volumes"] if each["name"] == "log-key")
    assert [item["path"] for item in volume["secret"]["items"]] == ["log.json"]


def test_the_probes_ask_for_pages_that_there_are(lab: Lab) -> None:
    """Liveness is the page that no other service can fail, readiness the one that waits for its answer."""
    paths = {getattr(route, "path", "") for route in create_app(lab.broker_parts()).routes}
    container = _container()
    probes = {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    for probe in probes.values():
        assert probe["httpGet"]["path"] in paths
        assert probe["httpGet"]["scheme"] == "HTTPS"
        assert probe["httpGet"]["port"] in {port["name"] for port in container["ports"]}
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert probes["readinessProbe"]["timeoutSeconds"] > 2  # for which a look is waited


def test_it_has_the_time_to_stop_in_order() -> None:
    """Longer than draining, the grace of its streams, and what a worker has to end after that."""
    said = duration(_environment()["DSVAULT_SERVE_GRACE"], "grace").total_seconds()
    assert _pod()["terminationGracePeriodSeconds"] >= 5 + said + 20
    assert int(_unit()["TimeoutStopSec"][0]) >= 10 + 20


def test_service_policy_and_budget_are_about_the_pods() -> None:
    """One label finds them all, the ports are the container's, and a drain leaves one broker."""
    labels = _kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert _kind("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert _kind("Service")["spec"]["selector"] == labels
    assert _kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert _kind("PodDisruptionBudget")["spec"]["minAvailable"] < _kind("Deployment")["spec"]["replicas"]
    policy = _kind("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    (port,) = _container()["ports"]
    assert [each["ports"] for each in policy["ingress"]] == [[{"protocol": "TCP", "port": port["containerPort"]}]]
    assert all("from" in each for each in policy["ingress"])


def test_the_unit_is_confined() -> None:
    """Each of these closes something that a broker has no use for."""
    unit = _unit()
    assert unit["User"] != ["root"]
    for name, value in {
        "LimitCORE": "0", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "PrivateDevices": "yes", "CapabilityBoundingSet": "", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes",
        "LockPersonality": "yes", "RestrictSUIDSGID": "yes", "ProtectKernelTunables": "yes", "ProtectProc": "invisible",
        "MemorySwapMax": "0", "UMask": "0077",
    }.items():  # fmt: skip
        assert unit[name] == [value], name
    assert "ReadWritePaths" not in unit


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """``systemd-analyze verify``, with a program that is there in the place of the broker's."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian's package systemd)")
    unit = tmp_path / "dsvault-broker.service"
    program = _unit()["ExecStart"][0].split()[0]
    unit.write_text(_UNIT.replace(program, str(shutil.which("true"))))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_the_image_is_built_from_the_locks_alone() -> None:
    """Whatever is installed has its hash in a lock or was built here; the user is not root; no registry is named."""
    lines = _CONTAINER.replace("\\\n", " ").splitlines()
    installs = [part for line in lines for part in line.split("&&") if "pip install" in part or "pip wheel" in part]
    assert len(installs) == 4
    for part in installs:
        hashed = "--require-hashes" in part
        assert hashed or "--no-index" in part or {"--no-deps", "--no-build-isolation"} <= set(part.split())
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert all("/" not in line.split()[1] for line in lines if line.startswith("FROM "))
    assert "PYTHON_IMAGE=python:" in _CONTAINER
    copied = [part for line in lines if line.startswith("COPY") and "--from" not in line for part in line.split()[1:-1]]
    assert set(copied) == {
        "requirements/broker.txt", "requirements/build.txt", "pyproject.toml", "README.md", "LICENSE", "vault", "cli",
    }  # fmt: skip


def test_nothing_but_the_sources_goes_to_the_builder() -> None:
    """A vault, a profile or a key that lies in the folder is not sent there: all is left out but what is named."""
    lines = (_ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    assert [line for line in lines[1:] if not line.startswith("!")] == ["**/__pycache__"]


@pytest.mark.parametrize("lock", ["broker.txt", "build.txt"])
def test_the_image_has_what_the_tests_ran_with(lock: str) -> None:
    """Each package is in the tests' lock, in the same version with the same hashes."""
    tested = _locked("dev.txt")
    found = _locked(lock)
    assert found
    assert {name: found[name] for name in found if tested.get(name) != found[name]} == {}


def _locked(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    pinned = ""
    for line in (_ROOT / "requirements" / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", line):
            pinned = f"{match[1]} {match[2]}"
            found[pinned] = set()
        elif match := re.search(r"--hash=(\S+)", line):
            found[pinned].add(match[1])
    return found
