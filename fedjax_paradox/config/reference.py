"""Every key of a config, with what it means, what it may be and its default, from the schema alone."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fedjax_paradox.config.schema import CustomModel, Experiment, TextCNN, Transformer

_MODELS: dict[str, type[BaseModel]] = {"textcnn": TextCNN, "transformer": Transformer, "module:function": CustomModel}
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def json_schema() -> str:
    """The JSON Schema of a config, for editors."""
    return json.dumps(Experiment.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def markdown() -> str:
    """docs/keys.md"""
    parts = [
        "# Keys of a config",
        "Written by `fedjax-paradox schema --markdown`. Keys may be nested or dotted, in the file as on the command "
        "line (`local.learning_rate=0.1`). A list of values for a run of each goes under `grid`.",
        "## The experiment",
        *_table(Experiment, skip=("models", "local")),
        "## `local`: local training of all models",
        "Defaults are the published values of TextCNN; those of DistilBERT and MiniLM are AdamW, 1 epoch, batches of "
        "16, learning rate 5e-5, weight decay 0.01 and no ragged batch left out.",
        *_table(Experiment, only="local"),
    ]
    for name, schema in _MODELS.items():
        parts.append(f"## `models.NAME` with `architecture: {name}`")
        parts.append("`models.NAME.local` holds local training of this model, with the keys above.")
        parts += _table(schema, prefix="models.NAME.", skip=("local",))
    return "\n\n".join(parts) + "\n"


def _table(schema: type[BaseModel], prefix: str = "", skip: tuple[str, ...] = (), only: str = "") -> list[str]:
    whole = schema.model_json_schema()
    chosen = {
        key: (field.get("description", ""), _kind(field), _default(field))
        for key, field in _fields(whole, whole)
        if key.split(".")[0] not in skip and (not only or key.split(".")[0] == only)
    }
    lines = [f"| `{prefix}{key}` | {' | '.join(map(_told, told))} |" for key, told in chosen.items()]
    return ["\n".join(["| key | meaning | may be | default |", "|---|---|---|---|", *lines])]


def _fields(section: Mapping[str, Any], whole: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict]]:
    """(dotted key, field) of every key that holds no section."""
    for name, field in section["properties"].items():
        if "$ref" in field:
            yield from _fields(whole["$defs"][field["$ref"].rpartition("/")[2]], whole, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _kind(field: Mapping[str, Any]) -> str:
    """`integer ≥ 1 ≤ 65536`, `list of integer`, `textcnn`."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_kind, field["anyOf"])))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    bounds = [
        told.format(field[name]) for name, told in _BOUNDS.items() if name in field and abs(field[name]) < 2**63 - 1
    ]
    names = {"string": "text", "object": "mapping", "null": "null", "boolean": "true or false"}
    kind = str(field.get("type", "text"))
    return " ".join([names.get(kind, kind), *bounds])


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "required"
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _told(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
