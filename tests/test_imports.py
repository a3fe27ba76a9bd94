"""The layout: imports point upwards only, and what is special has one importer."""

from __future__ import annotations

import ast
import graphlib
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import anybatch

PACKAGE = Path(anybatch.__file__).parent

# From the bottom up: a module imports its own layer and those above it in this list. A new module
# or package gets its place here first.
LAYERS: dict[str, set[str]] = {
    "models": {"_exceptions", "_models"},
    "contracts": {"abc"},
    "pure": {"_backoff", "_batch_states", "_encoding", "_packing"},
    "mechanisms": {
        "_langbatch",
        "_langbatch_calls",
        "_langbatch_classes",
        "_langbatch_handler",
        "_langbatch_import",
        "_receipts",
        "_threads",
        "batch_stores",
        "providers",
        "request_queues",
    },
    "stages": {
        "_admission",
        "_batch_collect",
        "_batch_deliver",
        "_batch_life",
        "_batch_lives",
        "_batch_purchase",
        "_batch_rows",
        "_function",
        "_hand_over",
        "_handler_store",
        "_intake",
        "_process",
        "_watcher",
        "_worker",
    },
    "assembly": {
        "_arguments",
        "_dispatcher",
        "_handler",
        "_handler_entering",
        "_handler_settings",
        "_life",
    },
    "edges": {"cli", "local_provider", "testing"},
    "public names": {""},
}
ORDER = list(LAYERS)

# What is narrower than the layers say.
ONLY: dict[str, set[str]] = {
    "abc": set(),
    "_threads": set(),
    "request_queues": {"abc", "_encoding", "_exceptions", "_models", "_threads"},
    "batch_stores": {"abc", "_backoff", "_batch_states", "_exceptions", "_models", "_threads"},
    "local_provider": {"_threads"},  # it stands for somebody else's server
}

# AnyIO speaks for both event loops; who must know one of them says why, here.
ONE_LOOP = {
    "testing._asyncio_clock": "an event loop is asyncio's by nature",
    "testing._trio_clock": "and so is a clock of Trio's",
    "testing.clocks": "makes Trio's clock",
}

THREADS = {
    "_threads": "the one door",
    "testing._asyncio_clock": "counts the threads of those who went past it",
}

# Whatever touches an event loop or the world outside.
IMPURE = {"anyio", "httpx2", "io", "os", "pathlib", "redis", "shutil", "socket", "sqlite3"}
IMPURE |= {"subprocess", "tempfile", "threading", "time", "urllib"}


class Import(NamedTuple):
    name: str
    """The module: dotted, and below `anybatch` without that prefix."""
    ours: bool
    late: bool
    """Within a function, so not run when the module is imported."""


class Imports(ast.NodeVisitor):
    """Collects what a module imports at run time."""

    def __init__(self, module: str, package: str) -> None:
        self.module = module
        self.package = package
        self.found = list[Import]()
        self.depth = 0

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
        for statement in node.orelse:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")
            base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            self.add(name if is_module(name) else base)

    def visit_Call(self, node: ast.Call) -> None:
        """`import_module("x")` is an import, too; of what is computed, nobody can say."""
        if ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__"):
            literals = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            for name in literals or ["<computed>"]:
                self.add(str(name))
        self.generic_visit(node)

    def add(self, name: str) -> None:
        ours = name == "anybatch" or name.startswith("anybatch.")
        name = name.removeprefix("anybatch").removeprefix(".") if ours else name
        self.found.append(Import(name, ours, late=self.depth > 0))


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> list[Import]:
    module = ".".join(filter(None, ["anybatch", module_name(path)]))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    visitor = Imports(module, package)
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


GRAPH = {module_name(path): imports_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


def component(module: str) -> str:
    return module.partition(".")[0]


def layer(module: str) -> int:
    return next(i for i, name in enumerate(ORDER) if component(module) in LAYERS[name])


def ours(module: str) -> Iterator[str]:
    return (found.name for found in GRAPH[module] if found.ours)


def importers(*names: str) -> set[str]:
    """The modules that import any of these, or anything below them."""
    return {
        module
        for module, found in GRAPH.items()
        for other in found
        if not other.ours and any(f"{other.name}.".startswith(f"{name}.") for name in names)
    }


def test_every_module_has_its_place_and_every_place_its_module() -> None:
    placed = [name for names in LAYERS.values() for name in names]
    assert sorted(placed) == sorted({component(module) for module in GRAPH})


@pytest.mark.parametrize("module", GRAPH)
def test_imports_point_upwards_only(module: str) -> None:
    downwards = [name for name in ours(module) if layer(name) > layer(module)]
    assert downwards == [], f"{module} is in {ORDER[layer(module)]}"


def test_no_module_is_imported_while_it_imports() -> None:
    graph = {m: {i.name for i in found if i.ours and not i.late} for m, found in GRAPH.items()}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", ONLY)
def test_some_parts_know_even_fewer_others(name: str) -> None:
    modules = [module for module in GRAPH if component(module) == name]
    others = {component(other) for module in modules for other in ours(module)}
    assert others - {name} <= ONLY[name]


@pytest.mark.parametrize("layer", ["models", "contracts", "pure"])
def test_what_decides_touches_neither_an_event_loop_nor_the_world(layer: str) -> None:
    harmless = {"pathlib"} if layer == "contracts" else set[str]()  # the type of an argument
    for name in LAYERS[layer]:
        outside = {component(found.name) for found in GRAPH[name] if not found.ours}
        assert outside & IMPURE <= harmless, name


def test_langbatch_has_one_importer_and_openai_none_but_it() -> None:
    assert importers("langbatch") | importers("<computed>") == {"_langbatch_import"}
    assert all(module.startswith("_langbatch") for module in importers("openai"))
    through = {module for module in GRAPH if "_langbatch_import" in ours(module)}
    assert all(module.startswith("_langbatch") for module in through)


def test_no_module_knows_one_event_loop_except_for_a_reason() -> None:
    assert importers("asyncio", "trio") == set(ONE_LOOP)


def test_there_is_one_door_to_threads() -> None:
    assert importers("anyio.to_thread", "concurrent") == set(THREADS)
    for module in GRAPH.keys() - THREADS.keys():
        assert not {"to_thread", "run_in_executor"} & identifiers(ast.parse(source(module))), module


def source(module: str) -> str:
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")


def identifiers(tree: ast.AST) -> set[str]:
    nodes = list(ast.walk(tree))
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    found |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return found | {node.name for node in nodes if isinstance(node, ast.alias)}


# The public names.


def test_public_names_are_re_exported_under_the_same_name() -> None:
    statements = [
        n for n in ast.parse(source("")).body if isinstance(n, ast.ImportFrom) and n.level
    ]
    assert statements
    for statement in statements:
        assert [alias.asname for alias in statement.names] == [a.name for a in statement.names]


def test_public_names_say_that_they_are_anybatchs() -> None:
    public = {
        name: value
        for name, value in vars(anybatch).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
    }
    assert public
    assert {name: value.__module__ for name, value in public.items()} == dict.fromkeys(
        public, "anybatch"
    )


def test_nothing_else_is_public() -> None:
    strangers = {
        name
        for name, value in vars(anybatch).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "anybatch") != "anybatch"
    }
    assert strangers == {"annotations"}
