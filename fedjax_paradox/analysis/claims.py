"""Published claims as data."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from fedjax_paradox.errors import InputError

Scalar = str | int | float | bool | None
Alternatives = Annotated[
    tuple[Scalar, ...],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(min_length=1),
]
Where = dict[str, Alternatives]
Measure = Literal["average", "worst", "gap", "best_minus_worst", "std", "bottom_10", "gini", "jain"]
Percent = Annotated[float, Field(ge=-100, le=100), AfterValidator(lambda percent: percent / 100)]
Round = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = {"frozen": True, "extra": "forbid"}


class Side(_Section):
    """`where`: column -> alternatives, of which the first with runs is used; or a setting that has no column
    (`local.mu`) -> values that all fit, null for a run that does not name it."""

    where: Where
    protocol: str
    round: Round
    published: dict[Measure, Percent]  # in the file per cent, here in [0, 1]


class Claim(_Section):
    """Side a's measure minus side b's is greater (or less) than `margin`."""

    id: str
    text: str
    source: str
    measure: Measure = "gap"
    direction: Literal["greater", "less"] = "greater"
    margin: Percent = 0.0  # in the file points, here in [-1, 1]
    # Within so many points of the margin a difference is too small to matter; in the file points, here in [0, 1].
    equivalent_within: Annotated[Percent, Field(ge=0)] = 0.02
    where: Where  # of both sides
    round: Round  # of both sides under a matched protocol; under the published mix each side has its own
    a: Side
    b: Side
    matched: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "label_matched",
        "label_filtered",
        "train_rows",
        "holdout",
    )


def load(path: str | Path) -> tuple[Claim, ...]:
    """The claims of a YAML file.

    Raises:
      InputError: the file is unreadable, a claim has a missing, unknown or invalid key, or an id occurs twice.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        claims = TypeAdapter(tuple[Claim, ...]).validate_python(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the claims of {path}: {error}; give a YAML list of claims") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()]
        raise InputError(f"{path} holds no valid claims; correct:\n  " + "\n  ".join(lines)) from error
    ids = [claim.id for claim in claims]
    if repeated := [name for name in ids if ids.count(name) > 1]:
        raise InputError(f"{path} has the id {repeated[0]!r} twice; give every claim its own")
    return claims
