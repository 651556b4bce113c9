"""Deep-learning research on JAX: each technique a config line over one sharded train step.

    import jaxdl

    run = jaxdl.fit(jaxdl.Config(model=jaxdl.part("cnn"), duration="3 epochs"), "runs/a")
    run.evaluate("test"), run.predict(images), jaxdl.load_run("runs/a")
    jaxdl.losses["focal"], jaxdl.optim["adamw"], jaxdl.list_models("resnet*")

A name is imported when it is used, and JAX with the first one that needs it.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for editors and type checkers, which do not call __getattr__
    from jaxdl import models
    from jaxdl.config import Config as Config
    from jaxdl.config import part as part
    from jaxdl.config_file import load as load
    from jaxdl.front import evaluate as evaluate
    from jaxdl.front import fit as fit
    from jaxdl.front import predict as predict
    from jaxdl.hub.load import pretrained as pretrained
    from jaxdl.loaded import load_run as load_run
    from jaxdl.models import list_models as list_models
    from jaxdl.registry import register as register

    create_model = models.create

_HOMES = {
    "Config": "jaxdl.config.Config",
    "part": "jaxdl.config.part",
    "load": "jaxdl.config_file.load",
    "fit": "jaxdl.front.fit",
    "evaluate": "jaxdl.front.evaluate",
    "predict": "jaxdl.front.predict",
    "load_run": "jaxdl.loaded.load_run",
    "create_model": "jaxdl.models.create",
    "list_models": "jaxdl.models.list_models",
    "pretrained": "jaxdl.hub.load.pretrained",
    "register": "jaxdl.registry.register",
}
"""Name at the front door to what it stands for."""

_MODULES = {module.name: module.ispkg for module in pkgutil.iter_modules(__path__)}
"""Name of each module inside to whether it is a room, a package."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].rpartition(".")
        return getattr(importlib.import_module(module), attribute)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    rooms = [name for name, is_room in _MODULES.items() if is_room]
    return sorted([*_HOMES, *rooms, "__doc__", "__file__", "__name__", "__version__"])
