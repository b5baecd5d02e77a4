"""The ``skate`` command: one table of commands.

Everything heavy is imported inside the command that needs it, so that ``skate --help`` and the
start of a program under ``skate run`` cost next to nothing.
"""

from __future__ import annotations

import sys

import click

from skate.program import Program, run_program


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
    from skate.demo import run_demo

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
    from skate.microbenchmark import run_microbenchmark

    return run_microbenchmark(
        seconds=seconds, rounds=rounds, name_filter=name_filter, as_json=as_json
    )


@cli.command()
@click.option("--address", help="Only this session: its name, its folder or its node's socket.")
def status(address: str | None) -> int:
    """Show the live sessions of this user: nodes, resources, waiting work, stored objects."""
    from skate.status_view import show_status

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
        sys.exit(130)  # what a shell reports for a program that Ctrl-C has ended
    if isinstance(outcome, Program):
        run_program(outcome)  # last of all, and not under click: its errors are the program's own
    else:
        sys.exit(outcome)


if __name__ == "__main__":
    main()
