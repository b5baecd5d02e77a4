"""Rules of the house that a program can check: imports only go down, cores stay pure, modules stay
small and say what they are for.

The layers are those of ARCHITECTURE.md. A new module must be entered in LAYER_OF_MODULE, or lie in
a folder of LAYER_OF_FOLDER, so that its place is a decision and not an accident.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# 0 words, 1 pure cores, 2 parts that touch the world, 3 roles, 4 what a user touches.
LAYER_OF_MODULE = {
    "skate": 4,
    "skate.__main__": 4,
    "skate.actor": 4,
    "skate.cluster_utils": 4,
    "skate.exceptions": 4,
    "skate.client.caller_lanes": 3,
    "skate.client.connection": 3,
    "skate.client.stream": 3,
    "skate.client.driver_log": 3,
    "skate.client.extents": 3,
    "skate.client.futures": 3,
    "skate.client.questions": 3,
    "skate.client.remote_line": 3,
    "skate.client.runtime": 3,
    "skate.client.templates": 3,
    "skate.gcs.gcs_server": 3,
    "skate.node.shell.far_values": 3,
    "skate.node.shell.lines": 3,
    "skate.node.shell.node_daemon": 3,
    "skate.node.shell.client_link": 3,
    "skate.node.shell.gcs_link": 3,
    "skate.node.shell.node_shell": 3,
    "skate.node.shell.zygote_line": 3,
    "skate.node.shell.rejoin": 3,
    "skate.node.shell.transfer_threads": 3,
    "skate.node.shell.turns": 3,
    "skate.worker.async_actor": 3,
    "skate.worker.executor": 3,
    "skate.worker.inbox": 3,
    "skate.worker.task_loop": 3,
    "skate.worker.threaded_actor": 3,
    "skate.worker.lane_door": 3,
    "skate.worker.worker_main": 3,
    "skate.client.ray_alias": 2,
    "skate.net.anteroom": 2,
    "skate.net.cluster_token": 2,
    "skate.net.data_line": 2,
    "skate.net.dialing": 2,
    "skate.net.pipe": 2,
    "skate.net.tls": 2,
    "skate.net.tls_relay": 2,
    "skate.net.unix_socket": 2,
    "skate.node.shell.doorman": 2,
    "skate.node.shell.leftovers": 2,
    "skate.node.shell.linux": 2,
    "skate.node.shell.log_forwarder": 2,
    "skate.node.shell.log_tail": 2,
    "skate.node.shell.node_config": 2,
    "skate.node.shell.pulse": 2,
    "skate.node.shell.ticker": 2,
    "skate.node.shell.transfer": 2,
    "skate.node.shell.zygote": 2,
    "skate.objects.culprit": 2,
    "skate.objects.mapping": 2,
    "skate.objects.serialization": 2,
    "skate.worker.named_output": 2,
    "skate.worker.takeover": 2,
    "skate.client.lane_book": 1,
    "skate.client.repeats": 1,
    "skate.net.event_batch": 1,
    "skate.client.value_table": 1,
    "skate.net.frame": 1,
    "skate.net.handshake": 1,
    "skate.net.lasting": 1,
    "skate.node.actor_router": 1,
    "skate.node.borrowing": 1,
    "skate.node.error_payload": 1,
    "skate.node.event_notes": 1,
    "skate.node.exit_status": 1,
    "skate.node.full_store": 1,
    "skate.node.guests": 1,
    "skate.node.lane_values": 1,
    "skate.node.lanes": 1,
    "skate.node.load": 1,
    "skate.node.node_core": 1,
    "skate.node.task_report": 1,
    "skate.node.actor_births": 1,
    "skate.node.actor_calls": 1,
    "skate.node.actor_guests": 1,
    "skate.node.actor_home": 1,
    "skate.node.actor_life": 1,
    "skate.node.actor_names": 1,
    "skate.node.actor_proxies": 1,
    "skate.node.actor_reports": 1,
    "skate.node.actor_resources": 1,
    "skate.node.asking": 1,
    "skate.node.clock": 1,
    "skate.node.code": 1,
    "skate.node.endings": 1,
    "skate.node.finding": 1,
    "skate.node.forwarding": 1,
    "skate.node.groups": 1,
    "skate.node.hears": 1,
    "skate.node.hello": 1,
    "skate.node.holds": 1,
    "skate.node.identity": 1,
    "skate.node.introductions": 1,
    "skate.node.jobs": 1,
    "skate.node.node_table": 1,
    "skate.node.other_nodes": 1,
    "skate.node.outbox": 1,
    "skate.node.placing": 1,
    "skate.node.pulls": 1,
    "skate.node.puts": 1,
    "skate.node.questions": 1,
    "skate.node.rebalancing": 1,
    "skate.node.running": 1,
    "skate.node.values": 1,
    "skate.node.wiring": 1,
    "skate.node.workers": 1,
    "skate.node.world": 1,
    "skate.node.tables": 1,
    "skate.node.validity": 1,
    "skate.objects.arena": 1,
    "skate.rows": 1,
    "skate.objects.copies": 1,
    "skate.objects.object_store": 1,
    "skate.objects.pull_manager": 1,
    "skate.objects.reference_counter": 1,
    "skate.objects.stored_object": 1,
    "skate.worker.lane_server": 1,
    "skate.client": 0,
    "skate.config": 0,
    "skate.error_pickles": 0,
    "skate.error_records": 0,
    "skate.errors": 0,
    "skate.ids": 0,
    "skate.net": 0,
    "skate.node": 0,
    "skate.node.shell": 0,
    "skate.objects": 0,
    "skate.objects.by_value": 0,
    "skate.spec": 0,
    "skate.states": 0,
    "skate.version": 0,
    "skate.worker": 0,
}
LAYER_OF_FOLDER = {
    "skate.messages": 0,
    "skate.gcs": 1,
    "skate.scheduler": 1,
    "skate.api": 4,
    "skate.cli": 4,
    "skate.demo": 4,
    "skate.launch": 4,
    "skate.util": 4,
}

TOP_PURE_LAYER = 1
WORLD = frozenset(
    {"asyncio", "ctypes", "mmap", "multiprocessing", "os", "psutil", "random", "secrets"}
    | {"select", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile"}
    | {"threading", "time", "uvloop", "uuid"}
)
"""A core gets time, randomness and new ids as arguments and leaves I/O to its shell."""

DOORS = frozenset(
    {
        "skate.actor",
        "skate.cluster_utils",
        "skate.exceptions",
        "skate.util.placement_group",
        "skate.util.scheduling_strategies",
    }
)
"""Modules that are there for their path, which Ray has too: they hold names and nothing else."""

BASENAMES_GIVEN_TWICE = frozenset({"endings", "hears", "outbox", "questions"})
"""Names that two modules share today. Whoever renames one deletes it here; none is added."""

CIRCLES_LEFT: tuple[frozenset[str], ...] = ()
"""The circles of imports that still stand. Whoever breaks one deletes it here; none is added."""

LONGEST_MODULE_LINES = 600
LONGEST_TEST_MODULE_LINES = 900
LONGEST_FUNCTION_LINES = 60  # with its docstring

MODULES_TOO_LONG: dict[str, int] = {}
"""Modules past the bound and their size today. A size here only goes down, and then away."""

FUNCTIONS_TOO_LONG: dict[str, int] = {}
"""Functions past the bound and their size today, as `path: name`. It only goes down."""

TEXT_SUFFIXES = frozenset({".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".sh", ""})
NOT_OURS = frozenset({"build", "dist", "venv", "node_modules", "__pycache__"})


@dataclass(frozen=True)
class Import:
    """One imported module of ours or of others, and where the statement stands."""

    target: str
    line: int


@dataclass(frozen=True)
class Module:
    """One source file of the package, parsed."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    def at(self, line: int) -> str:
        return f"{relative(self.path)}:{line}"


def test_every_module_has_a_layer() -> None:
    expect_none(
        "enter these in LAYER_OF_MODULE",
        (module.name for module in package() if layer_of(module.name) is None),
    )


def test_imports_only_go_down() -> None:
    expect_none(
        "a module imports from its own layer or a lower one only, in functions too",
        (
            f"{module.at(found.line)}: {module.name} (layer {layer_of(module.name)}) imports"
            f" {found.target} (layer {layer_of(found.target)})"
            for module in package()
            for found in module.imports
            if (layer_of(found.target) or 0) > (layer_of(module.name) or 0)
        ),
    )


def test_no_circle_of_imports() -> None:
    """All imports count: one that is hidden from Python is still there for a reader."""
    found = circles_of(targets_of(package() + simulator()))
    expect_none(
        "modules that import each other, under TYPE_CHECKING and in functions too",
        (", ".join(sorted(circle)) for circle in found if circle not in CIRCLES_LEFT),
    )
    expect_none(
        "this circle is gone or is smaller now: say so in CIRCLES_LEFT",
        (", ".join(sorted(circle)) for circle in CIRCLES_LEFT if circle not in found),
    )


@pytest.mark.parametrize(
    "back",
    [
        "import upper",
        "from upper import Up",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from upper import Up",
        "def late():\n    from upper import Up",
        "class Low:\n    def late(self):\n        import upper",
        "try:\n    import upper\nexcept ImportError:\n    upper = None",
    ],
)
def test_a_circle_is_found_wherever_its_import_stands(back: str) -> None:
    sources = {
        "upper": "import middle",
        "middle": "import lower",
        "lower": back,
        "main": "import upper",
    }
    assert circles_of(targets_of(made_up(sources))) == [frozenset({"upper", "middle", "lower"})]


def test_two_circles_are_told_apart_and_a_diamond_is_none() -> None:
    pairs = {"a": "import b", "b": "import a, c", "c": "import d", "d": "import c"}
    assert circles_of(targets_of(made_up(pairs))) == [frozenset("ab"), frozenset("cd")]
    diamond = {"a": "import b, c", "b": "import d", "c": "import d", "d": "import os"}
    assert circles_of(targets_of(made_up(diamond))) == []


def test_the_node_is_built_without_the_gcs() -> None:
    expect_none(
        "what node and GCS share lies below both",
        (
            f"{module.at(found.line)}: {module.name} imports {found.target}"
            for module in package()
            if module.name.startswith("skate.node.")
            for found in module.imports
            if found.target.startswith("skate.gcs")
        ),
    )


def test_cores_do_not_touch_the_world() -> None:
    expect_none(
        "a core imports nothing of WORLD, in functions neither",
        (
            f"{module.at(found.line)}: {module.name} imports {found.target}"
            for module in package()
            if (layer_of(module.name) or 0) <= TOP_PURE_LAYER
            for found in module.imports
            if found.target.partition(".")[0] in WORLD
        ),
    )


def test_every_module_says_what_it_is_for() -> None:
    expect_none(
        "a module opens with a docstring",
        (
            relative(path)
            for path in python_files()
            if not ast.get_docstring(ast.parse(path.read_bytes()))
        ),
    )


def test_no_module_outgrows_a_reader() -> None:
    """A module past the bound usually hides a new core: take that out, don't raise the bound."""
    lengths = {relative(path): path.read_bytes().count(b"\n") for path in python_files()}
    expect_none(
        f"a module has at most {LONGEST_MODULE_LINES} lines, one of tests"
        f" {LONGEST_TEST_MODULE_LINES}",
        past_their_bound(lengths, longest_of, MODULES_TOO_LONG, "MODULES_TOO_LONG"),
    )


def test_no_function_outgrows_a_reader() -> None:
    expect_none(
        f"a function has at most {LONGEST_FUNCTION_LINES} lines",
        past_their_bound(
            dict(function_lengths()),
            lambda _: LONGEST_FUNCTION_LINES,
            FUNCTIONS_TOO_LONG,
            "FUNCTIONS_TOO_LONG",
        ),
    )


def test_a_size_that_is_allowed_for_now_only_shrinks() -> None:
    def complaints(lines: int) -> list[str]:
        return list(past_their_bound({"a.py": lines}, lambda _: 10, {"a.py": 20}, "ALLOWED"))

    assert complaints(20) == []
    assert complaints(21) == ["a.py: 21, may have 20"]
    assert complaints(19) == ["a.py: 19, lower its entry in ALLOWED (20)"]
    assert complaints(10) == ["a.py: 10, delete its entry in ALLOWED (20)"]
    assert list(past_their_bound({}, lambda _: 10, {"a.py": 20}, "ALLOWED")) == [
        "a.py: gone, delete its entry in ALLOWED (20)"
    ]
    assert list(past_their_bound({"b.py": 11}, lambda _: 10, {}, "ALLOWED")) == [
        "b.py: 11, may have 10"
    ]


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils.py", "helpers.py", "misc.py", "common.py"}
    expect_none(
        "a module is named after the one thing that it holds",
        (relative(path) for path in files() if path.name in drawers),
    )


def test_a_name_is_given_to_one_module_only() -> None:
    """Whoever hears a module's name, in a sentence or a traceback, knows which one it is."""
    names = Counter(path.stem for path in (ROOT / "src/skate").rglob("*.py"))
    twice = {name for name, count in names.items() if count > 1 and not name.startswith("__")}
    expect_none("these basenames are given to two modules", twice - BASENAMES_GIVEN_TWICE)
    expect_none("delete these in BASENAMES_GIVEN_TWICE", BASENAMES_GIVEN_TWICE - twice)


def test_doors_hold_names_and_nothing_else() -> None:
    doors = {module.name: module for module in package() if module.name in DOORS}
    expect_none("not there any more: delete it in DOORS", DOORS - set(doors))
    expect_none(
        "what a door names is made elsewhere",
        (
            f"{module.at(statement.lineno)}: {ast.unparse(statement)[:60]}"
            for module in doors.values()
            for statement in module.tree.body
            if not (is_docstring(statement) or is_naming(statement))
        ),
    )


def test_our_own_modules_do_not_use_the_doors() -> None:
    packages = {"skate", "skate.util"}  # by which users come to the doors
    expect_none(
        "import it from where it is made",
        (
            f"{module.at(found.line)}: {module.name} imports {found.target}"
            for module in package()
            if module.name not in packages
            for found in module.imports
            if found.target in DOORS
        ),
    )


def test_nothing_is_left_for_later() -> None:
    expect_none("mend it or write it down", lines_that_match(r"\b(TO[D]O|FIX[M]E|X[X]X)\b"))


def test_every_citation_can_be_followed() -> None:
    """A reader has this repository and nothing else: decisions are cited, and are there."""
    expect_none("not a document of this project", lines_that_match(r"\bDESIG[N](\.md|:| \d)"))
    there = {path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md")}
    pattern = r"(?:docs/decisions/|\bdecision )(\d{4})"
    expect_none(
        "there is no such decision",
        (line for line in lines_that_match(pattern) if not set(re.findall(pattern, line)) <= there),
    )


def test_no_path_of_one_machine() -> None:
    own_paths = r"(?<![\w.])(/wor[k]/|/roo[t]/|/tmp/[h]\b)"
    expect_none("this exists on one machine only", lines_that_match(own_paths))


def test_every_configured_bound_says_why() -> None:
    """A number in config.py without its reason is a number nobody dares to change."""
    path = ROOT / "src/skate/config.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    expect_none(
        "explain the number above it, beside it or in a docstring below it",
        (
            f"{relative(path)}:{statement.lineno}: {lines[statement.lineno - 1].strip()}"
            for body in bodies_with_bounds(ast.parse("\n".join(lines)))
            for index, statement in enumerate(body)
            if is_number(statement) and not is_explained(body, index, lines)
        ),
    )


def expect_none(rule: str, violations: Iterable[str]) -> None:
    """Fail with all violations at once, one a line, so that they can be mended in one go."""
    if found := list(violations):
        pytest.fail(rule + ":\n  " + "\n  ".join(found), pytrace=False)


# The reading of the source.


@cache
def files() -> tuple[Path, ...]:
    """Every text file of the project, without what tools and runs leave behind."""

    def walk(folder: Path) -> Iterator[Path]:
        for entry in sorted(folder.iterdir()):
            if entry.is_dir():
                hidden = entry.name.startswith(".") and entry.name not in {".ci", ".github"}
                if not (hidden or entry.name in NOT_OURS or entry.name.endswith(".egg-info")):
                    yield from walk(entry)
            elif entry.suffix in TEXT_SUFFIXES:
                yield entry

    return tuple(walk(ROOT))


def python_files() -> Iterator[Path]:
    return (path for path in files() if path.suffix == ".py")


def function_lengths() -> Iterator[tuple[str, int]]:
    """Every function as `path: Class.name`, and its lines without decorators."""

    def walk(node: ast.AST, owner: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield owner + child.name, (child.end_lineno or 0) - child.lineno + 1
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            yield from walk(child, f"{owner}{child.name}." if named else owner)

    for path in python_files():
        for name, lines in walk(ast.parse(path.read_bytes()), ""):
            yield f"{relative(path)}: {name}", lines


def past_their_bound(
    lengths: Mapping[str, int],
    bound: Callable[[str], int],
    allowed: Mapping[str, int],
    name_of_allowed: str,
) -> Iterator[str]:
    """What is too long, and each entry of `allowed` that doesn't say today's length."""
    for what, lines in lengths.items():
        if lines > max(bound(what), allowed.get(what, 0)):
            yield f"{what}: {lines}, may have {max(bound(what), allowed.get(what, 0))}"
    for what, lines in allowed.items():
        today = lengths.get(what)
        if today is None or today <= bound(what):
            gone = "gone" if today is None else str(today)
            yield f"{what}: {gone}, delete its entry in {name_of_allowed} ({lines})"
        elif today < lines:
            yield f"{what}: {today}, lower its entry in {name_of_allowed} ({lines})"


def longest_of(path: str) -> int:
    return LONGEST_TEST_MODULE_LINES if path.startswith("tests/") else LONGEST_MODULE_LINES


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_that_match(pattern: str) -> Iterator[str]:
    for path in files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if re.search(pattern, line):
                yield f"{relative(path)}:{number}: {line.strip()[:120]}"


@cache
def package() -> tuple[Module, ...]:
    """Every module of skate. Never empty, so that no rule passes for want of anything to check."""
    return modules_under(ROOT / "src/skate")


@cache
def simulator() -> tuple[Module, ...]:
    return modules_under(ROOT / "sim")


def modules_under(folder: Path) -> tuple[Module, ...]:
    paths = sorted(folder.rglob("*.py"))
    assert paths, f"no module found under {folder}"
    names = {module_name(path, folder.parent): path for path in paths}
    return tuple(
        read_module(name, path, path.read_text(encoding="utf-8"), frozenset(names))
        for name, path in sorted(names.items())
    )


def made_up(sources: Mapping[str, str]) -> tuple[Module, ...]:
    """Modules that exist in a test only."""
    ours = frozenset(sources)
    return tuple(read_module(n, Path(f"{n}.py"), text, ours) for n, text in sources.items())


def read_module(name: str, path: Path, text: str, ours: frozenset[str]) -> Module:
    tree = ast.parse(text, filename=str(path))
    package_name = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return Module(name, path, tree, tuple(imports_of(tree, package_name, ours)))


def module_name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def targets_of(modules: tuple[Module, ...]) -> dict[str, set[str]]:
    """Which of these modules each of them imports, anywhere in it."""
    ours = {module.name for module in modules}
    return {module.name: {i.target for i in module.imports} & ours for module in modules}


def circles_of(targets: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """The sets of modules that all import each other, directly or through others of the set.

    These are the strongly connected components with more than one module, found by Tarjan's
    algorithm; a module that imports itself is one too.
    """
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    circles: list[frozenset[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for target in sorted(targets[name]):
            if target not in order:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in path:
                lowest[name] = min(lowest[name], order[target])
        if lowest[name] == order[name]:
            circle = frozenset(path[path.index(name) :])
            del path[path.index(name) :]
            if len(circle) > 1 or name in targets[name]:
                circles.append(circle)

    for name in targets:
        if name not in order:
            visit(name)
    return sorted(circles, key=sorted)


def layer_of(name: str) -> int | None:
    """The layer of one of our modules; None for a module of others and for one without a place."""
    if name in LAYER_OF_MODULE:
        return LAYER_OF_MODULE[name]
    while name:
        if name in LAYER_OF_FOLDER:
            return LAYER_OF_FOLDER[name]
        name = name.rpartition(".")[0]
    return None


def imports_of(tree: ast.Module, package_name: str, ours: frozenset[str]) -> Iterator[Import]:
    """Every import of a module, in functions and under `if TYPE_CHECKING` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_name(node, package_name)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in ours else base, node.lineno)


def absolute_name(statement: ast.ImportFrom, package_name: str) -> str:
    if statement.level == 0:
        return statement.module or ""
    parent = package_name.split(".")[: len(package_name.split(".")) - statement.level + 1]
    return ".".join([*parent, *filter(None, [statement.module])])


def bodies_with_bounds(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    yield tree.body
    yield from (node.body for node in tree.body if isinstance(node, ast.ClassDef))


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_naming(statement: ast.stmt) -> bool:
    """An import, ``__all__``, or a second name for something: ``RayError = SkateError``."""
    if isinstance(statement, ast.Assign):
        is_all = ast.unparse(statement.targets[0]) == "__all__"
        return is_all or isinstance(statement.value, ast.Name)
    return isinstance(statement, ast.Import | ast.ImportFrom)


def is_number(statement: ast.stmt) -> bool:
    """An assignment of a number or of a sum of numbers: `flush_bytes: int = 64 * 1024`."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return False
    return all(
        isinstance(node, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop)
        or (isinstance(node, ast.Constant) and isinstance(node.value, int | float))
        for node in ast.walk(statement.value)
    )


def is_explained(body: list[ast.stmt], index: int, lines: list[str]) -> bool:
    """By a comment on its lines or right above them, or by a docstring right below."""
    first, last = body[index].lineno - 1, body[index].end_lineno
    if any("#" in line for line in lines[first:last]) or lines[first - 1].strip().startswith("#"):
        return True
    below = body[index + 1] if index + 1 < len(body) else None
    return (
        isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    )
