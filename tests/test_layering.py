"""No arrow points up: every import of the package is one that the design's table of rooms allows."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fedjax_paradox"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")

# Room -> (rooms of the package it may import, third parties it may import); the first match counts.
CORE = ("federated/types.py",)
ALLOWED = {
    "errors.py": ((), ()),
    "text.py": ((), ()),
    "cachefiles.py": ((), ()),
    "registry.py": ((), ()),
    "hub.py": ((), ("huggingface_hub",)),
    "config/": (("config/", "text.py"), ("pydantic", "pydantic_core", "yaml")),
    "data/partition.py": ((), ("numpy",)),
    "data/": (
        ("data/", "cachefiles.py", "hub.py", "text.py"),
        ("numpy", "datasets", "tokenizers", "transformers", "huggingface_hub", "pyarrow"),
    ),
    "models/": (
        ("models/", "cachefiles.py", "hub.py", "text.py"),
        ("jax", "flax", "numpy", "safetensors", "huggingface_hub", "ml_dtypes"),
    ),
    "federated/types.py": ((), ("jax", "optax")),
    "federated/local.py": (CORE, ("jax", "optax")),
    "federated/objectives.py": ((*CORE, "federated/local.py"), ("jax", "optax")),
    "federated/rules.py": (CORE, ("jax", "optax")),
    "federated/personal.py": ((*CORE, "federated/local.py", "federated/rules.py"), ("jax", "optax")),
    "federated/fair.py": ((*CORE, "federated/local.py", "federated/rules.py"), ("jax",)),
    "federated/drift.py": ((*CORE, "federated/local.py", "federated/rules.py"), ("jax", "optax")),
    "federated/adapters.py": ((*CORE, "federated/rules.py"), ("jax",)),
    "federated/plain.py": (
        (*CORE, *(f"federated/{name}.py" for name in ("local", "rules"))),
        ("jax",),
    ),
    "federated/methods.py": (
        (*CORE, *(f"federated/{name}.py" for name in ("adapters", "drift", "fair", "local", "personal", "rules"))),
        ("jax", "optax"),
    ),
    "federated/trainer.py": ((*CORE, "federated/local.py"), ("jax", "optax")),
    "federated/sparse.py": ((*CORE, "federated/trainer.py"), ("jax", "optax")),
    "federated/lazy.py": ((*CORE, "federated/local.py", "federated/sparse.py", "federated/trainer.py"), ("jax",)),
    "federated/packing/schedule.py": ((), ("numpy",)),
    "federated/packing/": (("federated/",), ("jax", "numpy", "optax")),
    "evaluation/": (("evaluation/",), ("numpy",)),
    "storage/checkpoint.py": (("storage/folder.py",), ("jax", "numpy", "orbax")),
    "storage/parquet.py": ((), ("pyarrow",)),
    "storage/history.py": (("storage/parquet.py",), ("numpy", "pyarrow")),
    "storage/cells.py": (("storage/parquet.py",), ("pyarrow",)),
    "storage/results.py": (("storage/parquet.py",), ("numpy", "pyarrow")),
    "storage/folder.py": (("storage/cells.py",), ()),
    "storage/provenance.py": ((), ("jax",)),
    "sweep/extensions.py": (
        ("data/partition.py", "evaluation/protocols.py", "federated/", "registry.py"),
        ("jax",),
    ),
    "sweep/checks.py": (("federated/", "models/base.py", "registry.py", "sweep/extensions.py"), ("jax", "numpy")),
    "sweep/clients.py": (
        ("config/", "data/", "federated/packing/schedule.py", "sweep/checks.py", "sweep/extensions.py", "registry.py"),
        ("numpy",),
    ),
    "sweep/sizes.py": (("federated/types.py",), ("numpy",)),
    "sweep/hosts.py": ((), ("jax", "numpy")),
    "sweep/": (
        ("config/", "data/", "models/", "federated/", "evaluation/", "storage/", "sweep/", "hub.py", "registry.py"),
        ("jax", "numpy", "pyarrow"),
    ),
    "analysis/": (
        ("analysis/", "config/", "evaluation/fairness.py", "storage/", "text.py"),
        ("numpy", "pyarrow", "pydantic", "scipy", "yaml"),
    ),
    "report/drawing.py": (("text.py",), ("numpy", "matplotlib")),
    "report/figures.py": (("report/drawing.py",), ("numpy", "matplotlib")),
    "report/tables.py": (("analysis/",), ("numpy", "pyarrow")),
    "report/markup.py": (("report/tables.py", "text.py"), ()),
    "report/files.py": ((), ()),
    "report/card.py": (
        ("config/", "evaluation/fairness.py", "storage/", "text.py"),
        ("numpy", "pyarrow", "huggingface_hub"),
    ),
    "report/": (
        ("analysis/", "config/", "sweep/audits.py", "evaluation/", "report/", "storage/", "text.py"),
        ("numpy", "pyarrow", "matplotlib", "jinja2"),
    ),
    "terminal/": (
        ("analysis/", "evaluation/", "storage/", "sweep/", "terminal/", "text.py"),
        ("numpy", "pyarrow", "rich"),
    ),
    "api.py": (
        ("analysis/", "cachefiles.py", "config/", "report/", "storage/", "sweep/"),
        ("pandas",),
    ),
    "cli.py": (
        (
            *("__init__.py", "api.py", "cachefiles.py", "text.py", "tracking.py"),
            *("analysis/", "config/", "data/", "report/", "sweep/", "terminal/"),
        ),
        ("typer", "rich", "jax"),
    ),
    "__main__.py": (("cli.py",), ()),
    "tracking.py": (
        ("evaluation/fairness.py", "storage/", "sweep/run.py"),
        ("tensorboard", "mlflow", "wandb", "trackio"),
    ),
}
# Rooms in which one module may not import the ones named after it: the order in which a program comes to be.
ORDER = [
    "extensions",
    "architectures",
    "clients",
    "sizes",
    "program",
    "rounds",
    "plan",
    "target",
    "history",
    "resume",
    "run",
]
# These live in one room each, so that replacing one changes one room.
ONE_ROOM = {
    "flax": "models/",
    "orbax": "storage/",
    "datasets": "data/",
    "matplotlib": "report/",
    "jinja2": "report/",
    "typer": "cli.py",
}


def imports(path: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def as_file(name: str) -> str:
    parts = name.split(".")[1:] or ["__init__"]
    for length in range(len(parts), 0, -1):
        candidate = "/".join(parts[:length]) + ".py"
        if (PACKAGE / candidate).exists():
            return candidate
        if (PACKAGE / candidate).with_suffix("").is_dir():
            return "/".join(parts[:length]) + "/"
    raise AssertionError(f"{name} is no module of the package")


@pytest.mark.parametrize("path", FILES)
def test_imports_stay_within_the_room(path):
    import sys

    rooms, packages = next(allowed for room, allowed in ALLOWED.items() if path.startswith(room))
    for name in imports(path):
        top = name.split(".")[0]
        if top == "fedjax_paradox":
            target = as_file(name)
            assert target == "errors.py" or target.startswith(rooms), f"{path} must not import {target}"
        elif top not in sys.stdlib_module_names:
            assert top in packages, f"{path} must not import {top}"


def test_each_large_library_has_one_room():
    for path in FILES:
        for name in imports(path):
            room = ONE_ROOM.get(name.split(".")[0])
            assert room is None or path.startswith(room), f"{name} belongs to {room}, not {path}"


def test_a_sweep_is_built_in_one_order():
    for place, name in enumerate(ORDER):
        targets = {as_file(target) for target in imports(f"sweep/{name}.py") if target.startswith("fedjax_paradox.")}
        later = {f"sweep/{other}.py" for other in ORDER[place:]}
        assert not targets & later, f"sweep/{name}.py must not import {targets & later}"


def test_no_function_takes_more_than_five_positional_arguments():
    """A command's parameters are options of a command line, by name."""
    for path in FILES:
        for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
            if isinstance(node, ast.FunctionDef) and path != "cli.py":
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                assert len(set(names) - {"self"}) <= 5, f"{path}: {node.name} takes {names}"


def test_analysis_reads_no_checkpoint():
    for path in FILES:
        if path.startswith("analysis/"):
            assert not any(name.startswith("fedjax_paradox.storage.checkpoint") for name in imports(path)), path
