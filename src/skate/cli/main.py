"""The ``skate`` command: one table of commands.

Everything heavy is imported inside the command that needs it, so that ``skate --help`` and the
start of a program under ``skate run`` cost next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from skate.cli.run_program import Program, run_program
from skate.config import STOP_TIMEOUT_S

if TYPE_CHECKING:
    from skate.launch.launching import NodeRequest


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run Python functions as remote tasks and Python classes as remote actors."""


@cli.command(context_settings={"allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="PROGRAM is the name of a module.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(program: str, arguments: tuple[str, ...], is_module: bool) -> Program:
    """Run a program that was written for Ray, unchanged.

    In PROGRAM and in everything it starts, "import ray" means skate. All else is as under python:
    arguments, exit code, traceback, and the folder that modules are imported from.
    """
    return Program(program, arguments, is_module)


@cli.command()
def demo() -> int:
    """Index Python's standard library with tasks and actors, and show what that took."""
    from skate.demo.run import run_demo

    return run_demo()


@cli.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Time to measure each case for.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Parts that this time is split into.",
)
@click.option("--filter", "name_filter", default="", help="Only cases whose name contains TEXT.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def microbenchmark(seconds: float, rounds: int, name_filter: str, as_json: bool) -> int:
    """Measure the basic operations on this machine."""
    from skate.cli.microbenchmark import run_microbenchmark

    return run_microbenchmark(
        seconds=seconds, rounds=rounds, name_filter=name_filter, as_json=as_json
    )


def node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options for a node's resources, and for its proof of membership."""
    options = [
        click.option("--num-cpus", type=float, help="CPUs for tasks [default: the machine's]."),
        click.option("--num-gpus", type=float, help="GPUs for tasks [default: the machine's]."),
        click.option("--resources", metavar="JSON", help="""Custom ones, as in '{"tape": 2}'."""),
        click.option("--labels", metavar="K=V,K=V", help="For label selectors; or a JSON object."),
        click.option(
            "--object-store-memory",
            metavar="BYTES",
            type=float,
            help="Size of the object store [default: 30 % of the memory].",
        ),
        click.option(
            "--token-file",
            metavar="FILE",
            help="The cluster's token [default: $SKATE_TOKEN, $SKATE_TOKEN_FILE, or cluster_token "
            "in the folder of sessions, which a head makes if it is not there].",
        ),
        click.option("--tls-cert", metavar="FILE", help="This machine's certificate, for TLS."),
        click.option("--tls-key", metavar="FILE", help="Its private key."),
        click.option("--tls-ca", metavar="FILE", help="Who has to have signed the others'."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.option("--head", is_flag=True, help="Start a new cluster; this machine is its head.")
@click.option("--address", metavar="HOST:PORT", help="Join the cluster whose head is there.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="TCP port of this node, 0 for any free one [default: 6379 for a head, else 0].",
)
@click.option(
    "--node-ip-address",
    metavar="IP",
    default="",
    help="This machine's address, which others dial [default: that of its route to the head].",
)
@click.option("--block", is_flag=True, help="Stay in the foreground; Ctrl-C stops the node.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Keep trying for so long if the head cannot be reached yet.",
)
@node_options
def start(
    head: bool,
    address: str | None,
    port: int | None,
    node_ip_address: str,
    block: bool,
    wait_s: float,
    **options: Any,
) -> int:
    """Start skate on this machine: the head of a new cluster, or a node of one."""
    from skate.cli.start_stop import start as start_node
    from skate.launch.launching import HEAD_PORT

    if head == bool(address):
        raise click.UsageError("say either --head or --address HOST:PORT")
    request = _node_request(
        options,
        head_address=address or "",
        port=port if port is not None else HEAD_PORT if head else 0,
        ip=node_ip_address,
        wait_s=wait_s,
    )
    return start_node(request, block=block)


def _node_request(options: dict[str, Any], **fields: Any) -> NodeRequest:
    from skate.cli.start_stop import parse_labels, parse_resources
    from skate.launch.launching import NodeRequest
    from skate.net.dialing import split_address

    try:
        if fields["head_address"]:
            split_address(fields["head_address"])
        options["resources"] = parse_resources(options["resources"] or "{}")
        options["labels"] = parse_labels(options["labels"] or "")
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    return NodeRequest(**options, **fields)


@cli.command()
@click.option("-f", "--force", is_flag=True, help="Kill them at once.")
@click.option(
    "--all", "everything", is_flag=True, help="Also the sessions that programs have of their own."
)
@click.option(
    "-g",
    "--grace-period",
    type=click.FloatRange(min=0),
    default=STOP_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="After this, what has not ended is killed.",
)
def stop(force: bool, everything: bool, grace_period: float) -> int:
    """Stop the nodes of this user that `skate start` has made on this machine.

    With the head's node the whole cluster ends. Sessions that programs have started for themselves
    (init without a cluster) end with those programs, and are left alone.
    """
    from skate.cli.start_stop import stop as stop_nodes

    return stop_nodes(force=force, everything=everything, grace_s=grace_period)


@cli.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--address", required=True, metavar="HOST:PORT", help="Of the head: one of these machines."
)
@click.option(
    "--min-nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Run the command once so many machines are there, the head among them.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="For the head to be reached, and for all nodes to come.",
)
@node_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def symmetric_run(
    address: str, min_nodes: int, wait_s: float, command: tuple[str, ...], **options: Any
) -> int:
    """Make a cluster of the machines that run this, for one COMMAND.

    Run the same on every machine, as Slurm's srun does:

        skate symmetric-run --address HOST:PORT --min-nodes 4 -- python program.py

    The machine that HOST is starts the head, the others join it. COMMAND runs on the head's machine
    only, once all are there. When it ends everything ends, with its exit code.
    """
    from skate.cli.symmetric_run import symmetric_run as run_symmetrically

    request = _node_request(options, head_address=address)
    return run_symmetrically(request, list(command), min_nodes, wait_s)


@cli.command()
@click.option(
    "--address",
    help="Only this: HOST:PORT of a cluster, or a session's name, folder or socket.",
)
def status(address: str | None) -> int:
    """Show what runs here: clusters and sessions, nodes, resources, waiting work, objects."""
    from skate.cli.status_view import show_status

    return show_status(address)


@cli.command()
def version() -> None:
    """Print the versions of skate and of the Python that runs it."""
    import skate

    click.echo(f"skate {skate.__version__} (Python {sys.version.split()[0]}, {sys.executable})")


def main() -> None:
    """Parse the command line, carry out the command, and exit as it says."""
    try:
        outcome = cli.main(prog_name="skate", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)  # as a shell reports a program that Ctrl-C has ended
    if isinstance(outcome, Program):
        run_program(outcome)  # last of all, and not under click: its errors are the program's own
    else:
        sys.exit(outcome)


if __name__ == "__main__":
    main()
