"""The house rules: who may import whom, what importing does, and what a technique's file says."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import candling

ROOT = Path(candling.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TECHNIQUES = sorted(
    path for path in (ROOT / "techniques").glob("*/*.py") if path.name not in ("__init__.py", "contract.py")
)

ORDER = [
    {"_version", "errors"},
    {"maths"},
    {"evidence"},
    {"report"},
    {"runs"},
    {"access"},
    {"techniques", "organisms"},
    {"problems", "training"},
    {"workflows"},
    {"commands"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def module_of(path: Path) -> str:
    parts = ("candling", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that a file names in its imports, at any depth."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in MODULES else base)
    return frozenset(name for name in found if name.split(".")[0] == "candling")


def entry(module: str) -> str:
    """The place in the order: the first name below the package."""
    return module.split(".")[1]


BELOW = [module for module in MODULES if module != "candling"]


def test_the_reader_of_imports_sees_them():
    assert "candling.maths.ranks" in imports("candling.evidence.judge")
    assert "candling.access" in imports("candling.organisms.training")
    assert "candling.workflows.audit" in imports("candling")


@pytest.mark.parametrize("module", BELOW)
def test_a_file_imports_only_from_earlier_entries_or_its_own(module):
    own = entry(module)
    assert own in RANK, f"{own} has no place in the order"
    for name in imports(module):
        assert name in MODULES, f"{name} is no module"
        assert name != "candling", "the package itself is the top"
        other = entry(name)
        assert other == own or RANK[other] < RANK[own], f"{module} imports {name}"


def cycle_from(start: str, inside: set[str]) -> list[str] | None:
    """A way from a module back to itself through the others, or None."""
    paths, seen = [[start]], set()
    while paths:
        path = paths.pop()
        for following in imports(path[-1]) & inside:
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return None


@pytest.mark.parametrize("module", BELOW)
def test_no_module_imports_itself_by_any_way(module):
    cycle = cycle_from(module, set(BELOW))
    assert cycle is None, " → ".join(cycle or [])


@pytest.mark.parametrize("module", [m for m in BELOW if entry(m) == "techniques"])
def test_a_technique_cannot_see_the_answer_key(module):
    """Not by import, not by name in a string."""
    assert "organisms" not in MODULES[module].read_text(encoding="utf-8").lower()
    assert not any(entry(name) in ("organisms", "problems") for name in imports(module))


@pytest.mark.parametrize("module", [m for m in BELOW if entry(m) in ("maths", "evidence")])
def test_numbers_and_evidence_know_no_network(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[:2] != ["torch", "nn"]
            assert node.module != "torch" or "nn" not in [alias.name for alias in node.names]


HEADINGS = ("Question:", "Source:", "Inputs:", "Cost:", "Known failures:")


def test_there_are_techniques():
    assert TECHNIQUES


@pytest.mark.parametrize("path", TECHNIQUES, ids=lambda path: path.stem)
def test_a_technique_says_what_it_is(path):
    """One line of what it does, then the five headings in order, each with something after it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text
    first, _, rest = text.partition("\n\n")
    assert first.strip().endswith((".", "?"))
    starts = [line.split(":")[0] + ":" for line in rest.splitlines() if line and not line.startswith(" ")]
    assert tuple(starts) == HEADINGS
    for heading in HEADINGS:
        line = next(line for line in rest.splitlines() if line.startswith(heading))
        assert len(line) > len(heading) + 3


def test_every_file_says_what_it_is_for():
    for path in FILES:
        assert path.name == "_version.py" or ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


PUBLIC = [
    "Audit",
    "Bar",
    "CandlingError",
    "Dataset",
    "Model",
    "__version__",
    "audit",
    "explain",
    "from_arrays",
    "load",
    "load_language",
    "read_npz",
    "read_pairs",
    "read_texts",
    "replay",
    "solve",
]


def test_the_public_names_are_these_and_no_others():
    assert sorted(candling.__all__) == candling.__all__ == PUBLIC
    assert all(hasattr(candling, name) for name in PUBLIC)
    inner = ast.parse(MODULES["candling"].read_text(encoding="utf-8"))
    bound = {
        alias.asname or alias.name
        for node in ast.walk(inner)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert bound == set(PUBLIC)


def outside_packages() -> list[str]:
    """Every module of others that some file imports."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return sorted(name for name in found if name.split(".")[0] not in ("candling", "__future__"))


PROBE = """
import importlib, json, logging, os, random, sys, threading, warnings
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
import numpy, torch

def state():
    return {
        "torch numbers": torch.get_rng_state().tolist(),
        "numpy numbers": str(numpy.random.get_state()),
        "random numbers": str(random.getstate()),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warnings": str(warnings.filters),
        "hooks": [str(h) for h in (sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook)],
        "log": [str(handler) for handler in logging.getLogger().handlers],
        "environment": dict(os.environ),
        "path": sys.path[:],
        "working folder": os.getcwd(),
    }

before = state()
print("READY", flush=True)
print("READY", file=sys.stderr, flush=True)
import candling, candling.cli
after = state()
print("CHANGED", [name for name in before if before[name] != after[name]])
"""


def test_importing_the_package_does_nothing():
    """Whatever other packages do when they are imported was done before."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:candling", "-c", PROBE, json.dumps(outside_packages())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("READY\n")[2] == "CHANGED []\n"
    assert done.stderr.partition("READY\n")[2] == ""


CLOCKS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime", "strftime", "fromtimestamp"}


def test_the_clock_that_can_be_set_back_is_never_read():
    """Durations come from the monotonic clock; nothing that is hashed, named or ordered knows the time of day."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                clock = isinstance(of, ast.Name) and of.id in {"time", "datetime", "date"}
                assert not (clock and node.func.attr in CLOCKS), f"{path}, line {node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {name.name for name in node.names} & CLOCKS, path
