"""Run a user's program as ``python`` itself would, with ``import ray`` meaning skate.

``skate run`` calls ``run_program`` last of all, outside of the command line's own error handling:
all errors of the program travel on to the interpreter, so that exit code, traceback, Ctrl-C and
``sys.exit`` are Python's own. Only the frames above the program's first are taken off a traceback.

Invariant: from the program's first line on, ``sys.argv``, ``sys.path[0]`` and ``__main__`` are as
under ``python PROGRAM`` or ``python -m MODULE``.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import NamedTuple

from skate.client.ray_alias import install_ray_alias

NOT_SOURCE = (".pyc", ".pyz", ".zip")
OWN_FILES = {__file__, "<frozen runpy>"}

ExceptionHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


class Program(NamedTuple):
    """A script, folder or zip file, or the name of a module, and its arguments."""

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False


def run_program(program: Program) -> None:
    """Run a program to its end in this process, once; its errors are passed on.

    Raises ``SystemExit`` with Python's own exit code if there is no such program, and
    ``RuntimeError`` if Ray itself has been imported already.
    """
    install_ray_alias()
    sys.argv = [program.target, *program.arguments]
    try:
        if program.is_module:
            _run_module(program.target)
        else:
            _run_path(program.target)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook = functools.partial(_show_program_frames, sys.excepthook)
        raise


def _run_module(name: str) -> None:
    _set_import_folder(os.getcwd())
    spec = _main_spec(name)
    code = spec.loader.get_code(spec.name) if isinstance(spec.loader, SourceFileLoader) else None
    if code is None or spec.origin is None:
        sys.exit(f"skate run: no Python code for module {name}")
    sys.argv[0] = spec.origin
    _run_as_main(code, spec.origin, spec.loader, spec)


def _main_spec(name: str) -> ModuleSpec:
    """Return the spec of a module, or of a package's ``__main__``; exit if there is none."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:  # of a package above it
        sys.exit(f"skate run: {error}")
    if spec is None:
        sys.exit(f"skate run: No module named {name}")
    return spec


def _run_path(target: str) -> None:
    path = os.path.abspath(target)
    if not os.path.exists(path):
        print(f"skate run: can't open file {path!r}: No such file or directory", file=sys.stderr)
        sys.exit(2)
    _set_import_folder(os.path.dirname(os.path.realpath(path)))
    if os.path.isdir(path) or path.endswith(NOT_SOURCE):
        import runpy

        runpy.run_path(target, run_name="__main__")
        return
    loader = SourceFileLoader("__main__", path)
    code = compile(loader.get_data(path), path, "exec", dont_inherit=True)
    _run_as_main(code, path, loader, None)


def _set_import_folder(folder: str) -> None:
    """Replace the folder of the ``skate`` command, first on the path, by the program's own."""
    if not sys.flags.safe_path:  # else Python puts no such folder on the path
        sys.path[0] = folder


def _run_as_main(code: CodeType, path: str, loader: object, spec: ModuleSpec | None) -> None:
    """Run code in a ``__main__`` that stays in place for its threads and exit handlers.

    The functions of ``runpy`` would take the module away again as soon as the code has ended.
    """
    module = ModuleType("__main__")
    package = spec.parent if spec else None
    vars(module).update(
        __builtins__=builtins, __file__=path, __loader__=loader, __package__=package, __spec__=spec
    )
    sys.modules["__main__"] = module
    exec(code, vars(module))


def _show_program_frames(
    show: ExceptionHook,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Call the exception hook in force with a traceback that begins in the program."""
    while traceback and traceback.tb_frame.f_code.co_filename != __file__:
        traceback = traceback.tb_next  # frames of the callers of run_program
    while traceback and traceback.tb_frame.f_code.co_filename in OWN_FILES:
        traceback = traceback.tb_next
    show(kind, error.with_traceback(traceback), traceback)
