"""Published claims as data."""

from collections.abc import Collection
from math import nan
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

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
MATCHED = ("label_matched", "label_filtered", "train_rows", "holdout")


class _Section(BaseModel):
    model_config = {"frozen": True, "extra": "forbid"}


class Side(_Section):
    """`where`: column -> alternatives, of which the first with runs is used; or a setting that has no column
    (`local.mu`) -> values that all fit, null for a run that does not name it."""

    where: Where
    protocol: str  # by default the first of the claim's `matched`
    round: Round  # by default the claim's
    published: dict[Measure, Percent] = {}  # in the file per cent, here in [0, 1]
    dose: float | None = None  # where the claim is of a response to a number


def _filled(side: Any, claim: dict[str, Any]) -> Any:
    """A side with the claim's protocol and round where it names none; what is no side stays, to be refused."""
    matched = claim.get("matched", MATCHED)
    if not (isinstance(side, dict) and matched and isinstance(matched, list | tuple) and "round" in claim):
        return side
    return {"protocol": matched[0], "round": claim["round"], **side}


class Claim(_Section):
    """Side a's measure minus side b's is greater (or less) than `margin`.

    With sides `between` them, a - b is the rise from b's dose to a's along the straight line that is fitted to the
    measures of all sides, in each pair of runs.
    """

    id: str
    text: str
    source: str
    measure: Measure = "gap"
    direction: Literal["greater", "less"] = "greater"
    margin: Percent = 0.0  # in the file points, here in [-1, 1]
    # A difference of fewer points either way is too small to matter; in the file points, here in [0, 1].
    equivalent_within: Annotated[Percent, Field(ge=0)] = 0.02
    where: Where  # of both sides
    round: Round  # of both sides under a matched protocol; under the published mix each side has its own
    a: Side
    b: Side
    between: tuple[Side, ...] = ()
    matched: Annotated[tuple[str, ...], Field(min_length=1)] = MATCHED

    @model_validator(mode="before")
    @classmethod
    def _fill_sides(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        sides = {name: _filled(data[name], data) for name in ("a", "b") if name in data}
        if isinstance(data.get("between"), list):
            sides["between"] = [_filled(side, data) for side in data["between"]]
        return {**data, **sides}

    @model_validator(mode="after")
    def _doses(self) -> "Claim":
        doses = [side.dose for side in (self.a, self.b, *self.between)]
        if self.between and (None in doses or len(set(doses)) < len(doses)):
            raise ValueError("with sides between a and b every side needs a `dose` of its own")
        return self

    @property
    def sides(self) -> dict[str, Side]:
        """By name: a, b, and those between them."""
        return {"a": self.a, "b": self.b, **{f"dose {side.dose:g}": side for side in self.between}}

    def weights(self, sides: Collection[str]) -> tuple[float, ...]:
        """What the sides' measures are summed with to get a - b: 1 and -1 of a and b alone, with others the weights of
        least squares.

        Args:
          sides: names, a and b among them.
        """
        if not self.between:
            return 1.0, -1.0
        doses = np.array([self.sides[name].dose for name in sides], np.float64)
        distances = doses - doses.mean()
        reach = float(self.a.dose) - float(self.b.dose)  # type: ignore[arg-type]  # all have one, see _doses
        return tuple((distances / (distances**2).sum() * reach).tolist())

    @property
    def is_published(self) -> bool:
        """Whether some side has published numbers: else there is nothing to compare with as published."""
        return any(side.published for side in self.sides.values())

    @property
    def published(self) -> float:
        """The published a - b, NaN where a or b has no number."""
        known = {
            name: side.published[self.measure] for name, side in self.sides.items() if self.measure in side.published
        }
        if not {"a", "b"} <= known.keys():
            return nan
        return sum(weight * value for weight, value in zip(self.weights(known), known.values(), strict=True))


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
