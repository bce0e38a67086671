"""The way through the house: which module may import which, and what none may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path

import fragrecon

HERE = Path(fragrecon.__file__).parent
PATHS = sorted(HERE.rglob("*.py"))

# A module imports only from those before it, or from its own package.
ORDER = (
    "search_path",
    "errors",
    "files",
    "seeds",
    "seams",
    "config",
    "machine",
    "progress",
    "output",
    "data",
    "clustering",
    "models",
    "objectives",
    "reassembly",
    "jigsaw",
    "evaluation",
    "runs",
    "report",
    "training",
    "demo",
    "jobs",
    "run",
    "trainer",
    "__main__",
)
WITHOUT_TORCH = (
    "errors",
    "files",
    "config.schema",
    "config.evaluation",
    "config.types",
    "config.parse",
    "config.build",
    "config.plugins",
    "config.saved",
    "runs.write",
    "runs.read",
    "runs.sweeps",
    "report.leaderboard",
    "report.sweep_files",
    "report.terminal",
    "jobs",
    "run",
)
UNPICKLER = "data.readers.pickles"


def name_of(path: Path) -> str:
    """``models.conv`` for ``fragrecon/models/conv.py``, ``models`` for its package."""
    parts = path.relative_to(HERE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PATHS}


@lru_cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST, *, inside_functions: bool = True) -> Iterator[ast.AST]:
    """All nodes that may run, without what is for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not inside_functions:
            continue
        yield child
        yield from statements(child, inside_functions=inside_functions)


def imported(node: ast.AST) -> list[str]:
    """Dotted names of all that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports(name: str, *, inside_functions: bool = True) -> set[str]:
    nodes = statements(tree(name), inside_functions=inside_functions)
    return {found for node in nodes for found in imported(node)}


def own_imports(name: str) -> set[str]:
    """Modules of the project that a module imports, at its head or within functions."""
    found = set()
    for target in imports(name):
        first, _, rest = target.partition(".")
        if first == "fragrecon" and rest:
            candidates = [rest, rest.rpartition(".")[0]]
            found.add(next((candidate for candidate in candidates if candidate in MODULES), ""))
    return found - {""}


def called(name: str) -> Iterator[tuple[str, ast.Call]]:
    """All calls in a module with the dotted name of what is called."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_walk_finds_the_imports_that_are_there() -> None:
    assert {"errors", "models.base"} <= own_imports("models.blocks")
    assert {"clustering.agreement", "data.puzzles"} <= own_imports("evaluation.clustering.protocol")
    assert "runs.modules" in own_imports("runs.read")  # within a function
    assert "config.schema" not in own_imports("data.module")  # for type checkers only
    assert "torch.Tensor" in imports("models.linear", inside_functions=False)
    assert "fragrecon.runs.modules.restore" not in imports("runs.read", inside_functions=False)


def test_every_module_has_its_place() -> None:
    assert not [name for name in MODULES if name and name.partition(".")[0] not in ORDER], "say in ORDER where"


def test_no_module_is_longer_than_400_lines() -> None:
    assert not {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 400}


def test_a_class_has_a_name_of_its_own() -> None:
    classes = Counter(node.name for name in MODULES for node in ast.walk(tree(name)) if isinstance(node, ast.ClassDef))
    assert not {name for name, count in classes.items() if count > 1}


def test_imports_run_one_way() -> None:
    for name in MODULES:
        own = name.partition(".")[0]
        for target in own_imports(name) if name else ():
            other = target.partition(".")[0]
            assert other == own or ORDER.index(other) < ORDER.index(own), f"{name} imports {target}"


def test_no_mode_imports_another() -> None:
    modes = {name: own_imports(name) for name in MODULES if name.startswith("jobs.")}
    assert not {name for name, targets in modes.items() if any(target.startswith("jobs") for target in targets)}


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: own_imports(name) - {name} for name in MODULES if name}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_store_knows_no_reader() -> None:
    for name in ("data.store", "data.module", "data.puzzles", "data.augment"):
        assert not {target for target in own_imports(name) if target.startswith("data.readers")}, name


def test_what_computes_does_no_more_than_that() -> None:
    pure = (
        "clustering",
        "models",
        "objectives",
        "data.adjacency",
        "data.puzzles",
        "data.augment",
        "evaluation.statistics",
    )
    for name in MODULES:
        if name.startswith(pure):
            assert not {target for target in own_imports(name) if target.startswith(("config", "files", "runs"))}, name
            assert not {target for target in imports(name) if target.startswith(("omegaconf", "lightning"))}, name


def test_only_the_command_line_knows_hydra() -> None:
    for name in filter(None, MODULES):
        uses = {target for target in imports(name) if target.partition(".")[0] == "hydra"}
        assert bool(uses) == (name == "run"), name


def test_only_the_learner_is_a_lightning_module() -> None:
    for name in filter(None, MODULES):
        bases = {
            ast.unparse(base) for node in ast.walk(tree(name)) if isinstance(node, ast.ClassDef) for base in node.bases
        }
        assert any(base.endswith("LightningModule") for base in bases) == (name == "training.learner"), name


def test_what_answers_at_once_imports_no_torch_at_its_head() -> None:
    heavy = {"torch", "lightning", "torchmetrics", "sklearn", "scipy"}
    for name in WITHOUT_TORCH:
        found = {target.partition(".")[0] for target in imports(name, inside_functions=False)}
        assert not found & heavy, name
        code = f"import sys, fragrecon.{name}; print(*{heavy} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "", name


def test_nothing_runs_text_as_code() -> None:
    for name in filter(None, MODULES):
        refused = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
        for function, call in called(name):
            assert function not in refused, f"{name}:{call.lineno}"
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            shell = keywords.get("shell")
            assert shell is None or ast.unparse(shell) == "False", f"{name}:{call.lineno}"


def test_nothing_unpickles_but_the_restricted_reader() -> None:
    for name in filter(None, MODULES):
        if name != UNPICKLER:
            unsafe = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
            assert not {target for target in imports(name) if target.partition(".")[0] in unsafe}, name
        for function, call in called(name):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert function not in {"pickle.load", "pickle.loads"}, f"{name}:{call.lineno}"
            if function == "torch.load":
                assert keywords.get("weights_only") == "True", f"{name}:{call.lineno}"
            if function in {"np.load", "numpy.load"}:
                assert keywords.get("allow_pickle") == "False", f"{name}:{call.lineno}"
