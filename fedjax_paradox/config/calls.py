"""The one syntax of a call in a config: `name(setting=number)`; the name may be `module:function`."""

import re
from collections.abc import Mapping

from fedjax_paradox.errors import InputError

_NAME, _MANTISSA, _EXPONENT = r"[A-Za-z_]\w*", r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", "[eE][-+]?[0-9]+"
_SETTING = rf"\s*({_NAME})\s*=\s*({_MANTISSA}(?:{_EXPONENT})?)\s*"
_CALL = re.compile(rf"\s*({_NAME}(?:\.{_NAME})*(?::{_NAME})?)\s*(?:\(\s*\)|\(({_SETTING}(?:,{_SETTING})*)\))?\s*")


def parse_call(text: str) -> tuple[str, dict[str, float]]:
    """`fedavgw(beta=0.5)` -> `("fedavgw", {"beta": 0.5})`, or InputError; the name may be `module:function`."""
    match = _CALL.fullmatch(text)
    settings = re.findall(_SETTING, match[2] or "") if match else []
    if match is None or len(dict(settings)) < len(settings):
        raise InputError(
            f"{text!r} is not NAME or NAME(setting=number, ...), each setting once and by name, such as "
            "fedavgw(beta=0.5); inside a YAML list, quote a call that contains a comma"
        )
    return match[1], {key: float(value) for key, value in settings}


def format_call(name: str, settings: Mapping[str, float]) -> str:
    """The one spelling of a call: settings sorted by name, numbers in their shortest form."""
    inside = ", ".join(f"{key}={float(settings[key])!r}" for key in sorted(settings))
    return f"{name}({inside})" if inside else name
