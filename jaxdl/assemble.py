"""Names become objects, here and nowhere else: a Config turned into a Plan."""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from jaxdl import registry
from jaxdl.config import Config, Part, to_steps
from jaxdl.data.pipeline import Split, open_split
from jaxdl.errors import UserError, choices
from jaxdl.objectives.base import Model, augmented
from jaxdl.optim.chain import chain
from jaxdl.train.evaluate import Metric, ratio
from jaxdl.train.gradients import accumulate
from jaxdl.train.precision import compute_dtype
from jaxdl.train.sharding import batch_sharding, make_mesh
from jaxdl.train.step import Step, make_step
from jaxdl.types import Objective

GIB = 2**30


class Plan(NamedTuple):
    """A config turned into objects; nothing has been computed yet."""

    splits: dict[str, Split]
    steps: int
    to_steps: Callable[[int | str], int]
    schedule: optax.Schedule
    objective: Objective
    tx: optax.GradientTransformationExtraArgs
    step: Step
    mesh: jax.sharding.Mesh
    metrics: dict[str, Metric]
    each: str
    """What logits and metrics are of: each 'example', 'pixel' or 'token'."""

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global training batch."""
        return {
            k: jax.ShapeDtypeStruct(
                (batch_size, *s.shape), s.dtype, sharding=batch_sharding(self.mesh)
            )
            for k, s in self.splits["train"].element_spec.items()
        }


def assemble(config: Config) -> Plan:
    """Check every name and argument of the config, open its data, build its parts."""
    for name in config.imports:
        import_user_module(name)
    check(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    _check_batch(config, mesh)
    splits = open_splits(config)
    train = splits["train"]

    sizes = {"examples": len(train), "batch_size": config.data.batch_size}
    steps = to_steps(config.duration, **sizes)
    if steps < 1:
        raise UserError(f"config.duration '{config.duration}' is less than one step")
    in_steps = functools.partial(to_steps, total=steps, **sizes)

    module = registry.bind("models", config.model)(train.num_classes)
    _check_fit(config, module, train)
    kernel_init = config.initializer and registry.bind("initializers", config.initializer)
    model = Model(module, compute_dtype(config.precision), kernel_init, config.freeze_norms)
    objective = augmented(
        registry.bind("objectives", config.objective)(model),
        [registry.bind("augmentations", p) for p in config.augment],
        [registry.bind("augmentations", p) for p in config.preprocess],
    )
    factor = registry.bind("schedules", config.schedule, in_steps)(steps)
    schedule, tx = _optimizer(config, factor, in_steps)
    step = make_step(
        objective, tx, accumulate(config.gradient.accumulate), ema_decay=config.ema_decay
    )
    metrics = {_metric_name(p): _metric(p) for p in config.evaluation.metrics}
    _check_monitor(config, splits, metrics)
    each = _each("objectives", config.objective)
    return Plan(splits, steps, in_steps, schedule, objective, tx, step, mesh, metrics, each)


def check(config: Config) -> None:
    """Raise UserError for the first part that is unknown or is given what it does not take."""
    one = [
        ("sources", config.data.source),
        ("models", config.model),
        ("objectives", config.objective),
        ("optimizers", config.optimizer),
        ("schedules", config.schedule),
    ]
    if config.initializer:
        one.append(("initializers", config.initializer))
    many = [
        ("wrappers", config.wrappers),
        ("augmentations", config.augment),
        ("augmentations", config.preprocess),
        ("metrics", config.evaluation.metrics),
    ]
    for kind, part in one + [(kind, part) for kind, parts in many for part in parts]:
        registry.bind(kind, part)


def import_user_module(name: str) -> None:
    """Import a module by name or by file, so that what it registers is found."""
    if name in sys.modules:
        return
    try:
        if name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(name).stem, name)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            importlib.import_module(name)
    except (ImportError, OSError, SyntaxError) as error:
        raise UserError(f"cannot import '{name}': {error}") from error


def open_splits(config: Config) -> dict[str, Split]:
    """The splits a config names, by role; all of one shape, and of the training split's classes."""
    build = registry.bind("sources", config.data.source)
    settings = {"memory": int(config.data.memory * GIB), "threads": config.data.threads}
    train = open_split(build, config.data.train, **settings)
    if train.num_classes is None:
        raise UserError(f"source '{config.data.source.name}' has no labels to learn")
    splits = {"train": train}
    for role in ("validation", "test"):
        name = getattr(config.data, role)
        if name:
            splits[role] = open_split(build, name, num_classes=train.num_classes, **settings)
            if splits[role].element_spec != train.element_spec:
                raise UserError(
                    f"split '{name}' holds {_shapes(splits[role])}, but '{train.name}' holds "
                    f"{_shapes(train)}"
                )
    return splits


def _shapes(split: Split) -> str:
    return ", ".join(f"{k} {s.dtype}{list(s.shape)}" for k, s in split.element_spec.items())


def _optimizer(config: Config, factor: optax.Schedule, in_steps: Callable[[int | str], int]):
    builder = registry.bind("optimizers", config.optimizer, in_steps)
    peak = builder.keywords.get("learning_rate", 1.0)

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        return peak * factor(step)

    tx = chain(
        builder(learning_rate=schedule),
        clip_norm=config.gradient.clip_norm,
        clip_value=config.gradient.clip_value,
        wrappers=[registry.bind("wrappers", p, in_steps) for p in config.wrappers],
    )
    return schedule, tx


def _metric(part: Part) -> Metric:
    facts = registry.find("metrics", part.name).facts
    return Metric(registry.bind("metrics", part), facts.get("value", ratio))


def _metric_name(part: Part) -> str:
    return "_".join([part.name, *(str(v) for v in part.args.values())])


def _check_batch(config: Config, mesh: jax.sharding.Mesh) -> None:
    size, n = config.data.batch_size, config.gradient.accumulate
    if size % (mesh.size * n):
        raise UserError(
            f"config.data.batch_size {size} does not divide over {mesh.size} devices"
            + (f" in {n} micro-batches" if n > 1 else "")
        )


def _each(kind: str, part: Part) -> str:
    """What an objective or a metric takes logits to be of, each: an example unless it says else."""
    return registry.find(kind, part.name).facts.get("each", "example")


def _check_fit(config: Config, module: Any, train: Split) -> None:
    """Refuse parts that do not speak of the same thing, before anything compiles."""
    source, spec = config.data.source.name, train.element_spec
    for field in ("augment", "preprocess"):
        for part in getattr(config, field):
            read = registry.find("augmentations", part.name).facts.get("reads", "image")
            if read not in spec:
                raise UserError(
                    f"augmentation '{part.name}' reads '{read}', and source '{source}' gives "
                    f"{_shapes(train)}: set config.{field} to []"
                )
    each = getattr(module, "each", None)
    for name in getattr(module, "reads", ("image",)):
        if name not in spec:
            raise UserError(
                f"model '{config.model.name}' reads '{name}', and source '{source}' gives "
                f"{_shapes(train)}"
            )
    asked = [("objectives", config.objective), *(("metrics", m) for m in config.evaluation.metrics)]
    for kind, part in asked:
        wanted = _each(kind, part)
        if each is not None and wanted != each:
            mates = [e.name for e in registry.entries(kind) if _each(kind, Part(e.name)) == each]
            raise UserError(
                f"{kind.removesuffix('s')} '{part.name}' is of each {wanted}, and model "
                f"'{config.model.name}' speaks of each {each}: {choices(part.name, mates)}"
            )
    given = _label_of(train)
    wanted = _each("objectives", config.objective)
    if wanted != "token" and given != wanted:
        found = f"a label of each {given}" if given else f"{_shapes(train)}, no label"
        raise UserError(
            f"objective '{config.objective.name}' reads a label of each {wanted}, and source "
            f"'{source}' gives {found}"
        )


def _label_of(split: Split) -> str | None:
    if "label" not in split.element_spec:
        return None
    return "pixel" if len(split.element_spec["label"].shape) == 2 else "example"


def _check_monitor(config: Config, splits: dict[str, Split], metrics: dict[str, Any]) -> None:
    if "validation" not in splits:
        if config.early_stopping:
            raise UserError("config.early_stopping needs a split in config.data.validation")
        return
    monitor, known = config.evaluation.monitor, [f"validation/{name}" for name in metrics]
    if monitor not in known:
        raise UserError(
            f"config.evaluation.monitor '{monitor}' is not measured while training: "
            f"{choices(monitor, known)}"
        )
