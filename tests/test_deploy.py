"""What docs/launching.md and deploy/kubernetes tell people to do, done or checked.

The scripts for SSH and Slurm run as they stand in the document, against stand-ins for `ssh`, `srun`
and `scontrol` under which all machines are this one. The manifests are checked against the schema
of the Kubernetes API, against each other, and against skate's own options.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from skate.cli.main import cli
from tests.conftest import Leftovers

kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
DOCUMENT = (ROOT / "docs/launching.md").read_text()

Manifest = dict[str, Any]


def documents() -> list[Manifest]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]


def named(kind: str, name: str) -> Manifest:
    (found,) = (
        one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name)
    )
    return found


def pod_specs() -> Iterator[tuple[Manifest, Manifest]]:
    """Each pod's labels and spec."""
    for one in documents():
        if "template" in one["spec"]:
            template = one["spec"]["template"]
            yield template["metadata"]["labels"], template["spec"]


def containers() -> list[Manifest]:
    return [container for _, spec in pod_specs() for container in spec["containers"]]


# ------------------------------------------------------------------------------- Kubernetes


def check(document: Manifest) -> None:
    """ValidationError unless Kubernetes would take it and knows every field."""
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_what_the_api_takes(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        check(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replica"), 3),
        (("spec", "replicas"), "3"),
        (("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"), "skate"),
        (("spec", "template", "spec", "volumes", 0, "secret", "default_mode"), 0o400),
    ],
)
def test_the_schema_finds_mistakes(path: tuple[Any, ...], value: Any) -> None:
    broken = named("Deployment", "skate-workers")
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken)


def test_names_and_labels_fit_each_other() -> None:
    labels = [labels for labels, _ in pod_specs()]
    for one in documents():
        spec = one["spec"]
        if one["kind"] == "Service":
            assert any(spec["selector"].items() <= each.items() for each in labels), one
        if one["kind"] == "Deployment":
            assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        if one["kind"] == "NetworkPolicy":
            wanted = spec["podSelector"]["matchLabels"].items()
            assert all(wanted <= each.items() for each in labels)
    batch = named("Job", "skate-batch")
    assert batch["spec"]["template"]["spec"]["subdomain"] == "skate-batch"
    assert named("Service", "skate-batch")["spec"]["clusterIP"] == "None"
    assert batch["spec"]["completions"] == batch["spec"]["parallelism"]


@pytest.mark.parametrize("container", containers(), ids=lambda one: " ".join(one["command"]))
def test_every_command_is_one_that_skate_takes(container: Manifest) -> None:
    commands = [container["command"] + container.get("args", [])]
    commands += [
        container[probe]["exec"]["command"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if probe in container
    ]
    for command in commands:
        parse(command)
    defined = {variable["name"] for variable in container["env"]}
    used = re.findall(r"\$\((\w+)\)", " ".join(word for command in commands for word in command))
    assert set(used) <= defined


def parse(command: list[str]) -> dict[str, Any]:
    """The options of a command line; fails if skate would not take it."""
    program, name, *arguments = command
    assert program == "skate"
    assert isinstance(cli, click.Group)
    return cli.commands[name].make_context(name, list(arguments)).params


def test_workers_and_probes_find_whom_they_look_for() -> None:
    (head,) = named("Deployment", "skate-head")["spec"]["template"]["spec"]["containers"]
    (worker,) = named("Deployment", "skate-workers")["spec"]["template"]["spec"]["containers"]
    started = parse(head["command"] + head["args"])
    assert started["head"] and started["block"]
    assert started["port"] == head["ports"][0]["containerPort"]
    service = named("Service", "skate-head")
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == head["ports"][0]["name"]
    joined = parse(worker["command"] + worker["args"])
    assert joined["address"] == f"{service['metadata']['name']}:{port['port']}"
    assert joined["block"] and joined["port"] == worker["ports"][0]["containerPort"]
    startup = worker["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > joined["wait_s"] > 0
    for container, options in ((head, started), (worker, joined)):
        asked = parse(container["livenessProbe"]["exec"]["command"])
        assert asked["address"] == f"localhost:{options['port']}"
    (batch,) = named("Job", "skate-batch")["spec"]["template"]["spec"]["containers"]
    run = parse(batch["command"] + batch["args"])
    assert run["address"] == "skate-batch-0.skate-batch:6379"
    assert run["min_nodes"] == named("Job", "skate-batch")["spec"]["completions"]
    assert run["command"] == ("python", "program.py")


def test_every_pod_has_the_token_and_shared_memory() -> None:
    for _, spec in pod_specs():
        (container,) = spec["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert mounts.keys() == volumes.keys()
        environ = {one["name"]: one.get("value") for one in container["env"]}
        assert environ["SKATE_TOKEN_FILE"] == f"{mounts['token']['mountPath']}/token"
        assert volumes["token"]["secret"]["defaultMode"] in (0o400, 0o600)
        shared = volumes["shared-memory"]["emptyDir"]
        assert mounts["shared-memory"]["mountPath"] == "/dev/shm"
        assert shared["medium"] == "Memory"
        memory = gibibytes(container["resources"]["limits"]["memory"])
        assert 0.3 * memory <= gibibytes(shared["sizeLimit"]) < memory


def gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity.removesuffix("Gi"))


# ------------------------------------------------------------------------------- scripts

STAND_INS = {
    # HOST COMMAND: every host is this machine, in a home folder of its own.
    "ssh": """
        host=$1; shift
        mkdir -p "$PLACE/$host/tmp"; cd "$PLACE/$host"
        export HOME=$PLACE/$host SKATE_TEMP_DIR=$PLACE/$host/tmp
        exec sh -c "$*"
    """,
    # One command a machine at the same time; the highest exit code.
    "srun": """
        for task in $(seq "$SLURM_JOB_NUM_NODES"); do
            mkdir -p "$PLACE/$task"; SKATE_TEMP_DIR=$PLACE/$task "$@" & pids="$pids $!"
        done
        worst=0
        for pid in $pids; do
            wait "$pid"; status=$?; [ "$status" -gt "$worst" ] && worst=$status
        done
        exit "$worst"
    """,
    "scontrol": "for n in $(seq 3); do echo localhost; done",
    "openssl": f"{sys.executable} -c 'import secrets; print(secrets.token_hex(32))'",
    "skate": f'exec {sys.executable} -m skate "$@"',
    "python3": f'exec {sys.executable} "$@"',
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: sockets lie in it. Whatever a script leaves running is a failure."""
    folder = Path(tempfile.mkdtemp(prefix="skate-"))
    programs = folder / "bin"
    programs.mkdir()
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(stat.S_IRWXU)
    yield folder
    names = [path.name for path in folder.glob("**/session_*") if path.is_dir()]
    try:
        for name in names:
            Leftovers(folder).assert_gone(name)
    finally:
        for root in {path.parent for path in folder.glob("**/session_*") if path.is_dir()}:
            run_script("skate stop --all --force", folder, SKATE_TEMP_DIR=str(root))
        shutil.rmtree(folder)


def run_script(
    script: str, place: Path, *, shell: str = "sh", **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shell, "-c", script],
        cwd=place,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("SKATE_", "RAY_"))},
            "PATH": f"{place}/bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "PLACE": str(place),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )


def block(marker: str) -> str:
    """The code block that follows a marker in the document."""
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


def free_port() -> int:
    """From 20000 to 29999, as the script for Slurm chooses one."""
    for port in range(20000 + os.getpid() % 9000, 30000):
        with socket.socket() as unused, contextlib.suppress(OSError):
            unused.bind(("0.0.0.0", port))
            return port
    pytest.fail("no port is free")


PROGRAM = """
import os, skate
skate.init()
print("nodes", sum(row["Alive"] for row in skate.nodes()), os.environ.get("SKATE_ADDRESS"))
"""


def test_the_script_for_ssh(place: Path) -> None:
    script = block("ssh")
    for told, here in (
        ("port=6379", f"port={free_port()}"),
        ('"node1 node2 node3"', '"localhost 127.0.0.2 127.0.0.3"'),
    ):
        assert script.count(told) == 1
        script = script.replace(told, here)
    (place / "localhost").mkdir()
    (place / "localhost" / "program.py").write_text(PROGRAM)
    done = run_script(script, place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nnodes 3 None\n" in done.stdout
    assert done.stdout.count("Stopped ") == 3
    assert done.stderr == ""


@pytest.mark.parametrize("exit_code", [0, 3])
def test_the_script_for_slurm(exit_code: int, place: Path) -> None:
    (place / "program.py").write_text(f"{PROGRAM}\nraise SystemExit({exit_code})\n")
    done = run_script(
        block("slurm"),
        place,
        shell="bash",
        SLURM_JOB_NODELIST="localhost[1-3]",
        SLURM_JOB_NUM_NODES="3",
        SLURM_CPUS_ON_NODE="1",
        SLURM_JOB_ID=str(free_port() - 20000),
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert re.fullmatch(r"nodes 3 \S+:\d+\n", done.stdout)


def test_every_command_in_the_document_is_one_that_skate_takes() -> None:
    lines = re.findall(r"^(skate (?:start|stop|status).*?)(?:\s+#.*)?$", DOCUMENT, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        parse(line.split())
