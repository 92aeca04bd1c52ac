"""Federated text classification in JAX, measured by the client that a model leaves behind.

    import fedjax_paradox as fp

    experiment = fp.load("configs/quickstart.yaml", "rounds=5")
    results = fp.run(experiment, out="runs/mine")
    results.clients                                  # a pandas frame: cell, round, protocol, client, correct, total
    results.model("model=textcnn,alpha=0.1").predict(["a text"])

Names are imported when they are first used: `import fedjax_paradox` itself loads neither JAX nor pandas.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PLACES = {
    "api": ("Results", "load", "open_model", "run"),
    "config": ("Cell", "Experiment"),
    "errors": ("InputError",),
    "evaluation.protocols": ("Protocol", "View"),
    "federated.local": ("Learner", "local_update", "merged"),
    "federated.methods": ("RULES", "server"),
    "federated.objectives": ("OBJECTIVES", "smoothed"),
    "federated.plain": ("plain_round",),
    "federated.rules": ("on_leaves", "stateless", "weighted_mean", "weighted_sum"),
    "federated.types": ("Client", "Hyper", "Local", "Participants", "Rule", "Updates"),
    "models.base": ("Model",),
}
_NAMES = {name: (module, name) for module, names in _PLACES.items() for name in names}
_NAMES["open"] = ("api", "open_results")

__all__ = ["__version__", *sorted(_NAMES)]

try:
    __version__ = version("fedjax-paradox")
except PackageNotFoundError:  # a checkout that nobody installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
