"""Kinds of values that a config holds: what each may be, with bounds that no study comes near.

Sizes are bounded so that a slip of the hand is refused before anything is allocated; counters fit 32 bits.
"""

import math
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from fedjax_paradox.config.calls import format_call, parse_call


def _no_controls(text: str) -> str:
    """A terminal obeys control characters, a path cannot hold NUL, and halves of a character cannot be written."""
    return _without(text, ("Cc", "Cs"), "control characters")


def _folder_name(text: str) -> str:
    """Runs lie in runs/NAME-HASH, and a file system takes 255 bytes."""
    if "/" in text or not text.strip(". ") or len(text.encode()) > 200:
        raise ValueError("must fit into a folder's name: at most 200 bytes, no '/', and not dots and spaces alone")
    return _without(text, ("Cf", "Zl", "Zp"), "characters that are not shown")


def _without(text: str, categories: tuple[str, ...], told: str) -> str:
    if any(unicodedata.category(letter) in categories for letter in text):
        raise ValueError(f"must not hold {told}; leave them out")
    return text


def _file(file: Any) -> Any:
    if not isinstance(file, str | Path) or not 0 < len(str(file)) <= 4096:
        raise ValueError("must be the path of a file")
    return _no_controls(str(file))  # as JSON has it, and pydantic makes a path of it


def _quoted(revision: Any) -> Any:
    """YAML reads the tag 1.0 and some commits as numbers."""
    if isinstance(revision, int | float):
        raise ValueError("must be text; put it in quotes")
    return revision


def _revision(text: str) -> str:
    """As git names commits, branches and tags; the hub's client makes a path of it."""
    parts = text.split("/")
    if not re.fullmatch(r"[^\s~^:?*\[\\]+", text) or ".." in text or "@{" in text or text.startswith("-"):
        raise ValueError("must be a commit, branch or tag")
    if any(not part or part.startswith(".") or part.endswith((".", ".lock")) for part in parts):
        raise ValueError("must be a commit, branch or tag")
    return text


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    value, count = Counter(map(str, values)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{value!r:.80} is listed twice; keep one")
    return values


def _finite(value: Any) -> Any:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must hold finite numbers alone, not {value}")
    for part in inner:
        _finite(part)
    return value


def _call(text: str) -> str:
    name, numbers = parse_call(text)
    if any(abs(number) > MOST for number in numbers.values()):
        raise ValueError(f"numbers of a call must be at most {MOST:.0f}")
    return format_call(name, numbers)


def _named(*names: str) -> AfterValidator:
    """A call of one of these, or of a person's own module:function."""
    *rest, last = map(repr, names)

    def check(text: str) -> str:
        name, _ = parse_call(text)
        if name not in names and ":" not in name:
            raise ValueError(f"must be module:function, {', '.join(rest)} or {last}")
        return text

    return AfterValidator(check)


def _own(text: str) -> str:
    if ":" not in parse_call(text)[0]:
        raise ValueError("must be module:function")
    return text


# Numbers of a program are of single precision: squares of these stay finite and above 0.
MOST = 1e12
# Strict, since YAML's true is no number and its '3' is text.
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_no_controls)]
Revision = Annotated[
    str, BeforeValidator(_quoted), Field(max_length=200), AfterValidator(_no_controls), AfterValidator(_revision)
]
Name = Annotated[Text, AfterValidator(_folder_name)]
File = Annotated[Path, BeforeValidator(_file)]
Count = Annotated[int, Field(strict=True, ge=1)]
Amount = Annotated[Count, Field(le=1_000_000)]
Size = Annotated[Count, Field(le=2**16)]  # an axis of an array
Rows = Annotated[Count, Field(le=2**31 - 1)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Positive = Annotated[float, Field(strict=True, gt=0, le=MOST, allow_inf_nan=False)]
Rate = Annotated[float, Field(strict=True, ge=1e-12, le=MOST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, le=MOST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Call = Annotated[Text, AfterValidator(_call)]  # name(number=...) or module:function(number=...)
Own = Annotated[Call, AfterValidator(_own)]  # module:function(number=...)
Optimizer = Annotated[Call, _named("sgd", "adamw")]
Division = Annotated[Call, _named("dirichlet", "iid", "shards")]
Protocol = Annotated[Call, _named("train_rows", "label_filtered", "label_matched", "holdout", "global")]
Protocols = Annotated[tuple[Protocol, ...], Field(min_length=1), AfterValidator(_once)]
ComputeType = Literal["float32", "bfloat16"]
Label = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] | Text
Classes = Annotated[tuple[Label, ...], Field(min_length=2), AfterValidator(_once)]
Length = Annotated[Count, Field(le=2**14)]  # of a text in tokens
Vocabulary = Annotated[Count, Field(le=10_000_000)]
Widths = Annotated[tuple[Length, ...], Field(min_length=1, max_length=64), AfterValidator(_once)]
Epochs = Annotated[Count, Field(le=10_000)]
Options = Annotated[dict[Text, JsonValue], AfterValidator(_finite)]
