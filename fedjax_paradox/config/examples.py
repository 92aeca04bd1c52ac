"""The commented configs that come with the package."""

from importlib.resources import files
from pathlib import Path

SCHEMA = "experiment.schema.json"


def folder() -> Path:
    """Where they lie: in the installed package, or beside it in a checkout."""
    package = Path(str(files("fedjax_paradox")))
    return next(place for place in (package / "configs", package.parent / "configs") if place.is_dir())


def examples() -> dict[str, str]:
    """Name -> text, by name, each with the line by which an editor finds the installed schema."""
    place = folder()
    found = sorted(place.rglob("*.yaml"), key=lambda path: path.stem)
    return {path.stem: _with_schema(path.read_text(encoding="utf-8"), place / SCHEMA) for path in found}


def _with_schema(text: str, schema: Path) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("# yaml-language-server:")]
    return "\n".join([f"# yaml-language-server: $schema={schema.as_uri()}", *lines]) + "\n"
