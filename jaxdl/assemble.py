"""Names become objects, here and nowhere else: a Config turned into a Plan."""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import registry
from jaxdl.assemble_streams import stream_transforms, train_streams, with_streams
from jaxdl.check_targets import learned, target_name
from jaxdl.checks import check, check_batch, check_fit, check_held, check_monitor, unit_of
from jaxdl.config import Config
from jaxdl.corrections import help_of_verb, setting
from jaxdl.data.class_order import Names
from jaxdl.data.pipeline import Split
from jaxdl.data.streams import TrainStream, joined
from jaxdl.data.target import Target
from jaxdl.data_defaults import with_data_defaults
from jaxdl.durations import to_steps
from jaxdl.errors import UserError, at
from jaxdl.held import Measured, measured, metrics_of, open_splits, order_of
from jaxdl.metrics.base import Metric, by_name, class_keys, entries
from jaxdl.networks import NetworkSpec, network_specs, with_networks
from jaxdl.nn.drop import elementwise
from jaxdl.nn.layout import LAYOUT, STAGED
from jaxdl.objectives.base import Model, augmented, frozen, on_target, preparation
from jaxdl.optim.chain import chain
from jaxdl.optim.groups import grouped, partitioned
from jaxdl.train.progress import timed, with_progress
from jaxdl.train.reestimate import Reestimate, make_reestimate
from jaxdl.train.refresh import Refresh
from jaxdl.train.sharding import AXES, Layout, batch_sharding, batch_shards, make_mesh
from jaxdl.train.state import StateSpec, TrainState, abstract_state
from jaxdl.train.step import Step, make_step
from jaxdl.types import Batch, Objective, progress_of


class Plan(NamedTuple):
    """A config turned into objects; nothing has been computed yet."""

    config: Config
    """The config of the run, with the defaults that follow from its training data."""
    parts: registry.Parts
    splits: dict[str, Split]
    streams: dict[str, TrainStream]
    """Streams of a training batch by name; the main one is that of the split `train`."""
    steps: int
    to_steps: Callable[[int | str], int]
    schedule: optax.Schedule
    objective: Objective
    """With the way to predict that evaluation asks for."""
    model: Model
    """The network alone, on prepared batches; what it computes in is that of the last phase."""
    prepare: Callable[[Batch], Batch]
    """Preprocessing of a batch as it is stored."""
    tx: optax.GradientTransformationExtraArgs
    phases: tuple[tuple[int, Step], ...]
    """Steps of training, and the number of the step from which each is used."""
    state_spec: StateSpec
    reestimate: Reestimate
    mesh: jax.sharding.Mesh
    metrics: dict[str, Metric]
    """Of training examples, and of evaluation splits that ask for no others."""
    held: dict[str, Measured]
    """Evaluation splits by name."""
    refreshes: dict[str, Refresh]
    """Changes between steps by name, in their order."""
    networks: dict[str, NetworkSpec]
    """Networks that stand under their names in the constant variables."""
    target_name: str
    """Key of the batch that the objective learns."""
    target: Target
    unit: str
    """Unit of logits and metrics: 'example', 'pixel' or 'token'."""

    @property
    def step(self) -> Step:
        """The step that a run ends with, and in most runs the only one."""
        return self.phases[-1][1]

    def roles(self, when: str) -> list[str]:
        """Names of the evaluation splits that are measured at a time, 'training' or 'end'."""
        return [name for name, held in self.held.items() if held.when == when]

    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return class_keys(self.target.names, self.target.size)

    def metrics_of(self, role: str) -> dict[str, Metric]:
        """Those of an evaluation split, or of training examples."""
        return self.held[role].metrics if role in self.held else self.metrics

    def measured(self, role: str) -> list[str]:
        """Keys of the numbers that are measured on a split, such as 'test/iou/sky'."""
        metrics, classes = self.metrics_of(role), self.classes()
        return [f"{role}/{m}{e}" for m, x in metrics.items() for e in entries(x, classes)]

    def by_name(
        self, role: str, values: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Values of a split: numbers by such keys, and apart matrices by metric."""
        numbers, matrices = by_name(values, self.metrics_of(role), self.classes())
        return {f"{role}/{name}": number for name, number in numbers.items()}, matrices

    def batch_spec(self, batch_size: int) -> dict[str, Any]:
        """Shapes of a global training batch; further streams keep a size of their own."""
        place = batch_sharding(self.mesh)

        def spec(stream: TrainStream) -> dict[str, jax.ShapeDtypeStruct]:
            size = stream.batch_size if stream.is_fixed else batch_size
            sized = lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype, sharding=place)
            return {k: sized(s) for k, s in stream.split.element_spec.items()}

        return joined({name: spec(stream) for name, stream in self.streams.items()})

    def told(self, batch: Batch, step: int) -> Batch:
        """A training batch as the step of a number sees it: with progress, where that is asked."""
        asked = asks_for_progress(self.parts)
        return with_progress(batch, step, self.steps) if asked else batch

    def abstract_state(self, seed: int) -> TrainState:
        """Shapes, types and shardings of the run's state."""
        return abstract_state(*self.first(seed))

    def first(self, seed: int) -> tuple[Any, ...]:
        """Arguments of `init_state` for the first state."""
        spec = self.batch_spec(1)
        return self.objective, self.tx, jax.random.key(seed), spec, self.mesh, self.state_spec


def assemble(
    config: Config,
    splits: dict[str, Split] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Names | None = None,
) -> Plan:
    """Check every name and argument of the config, open its data, build its parts.

    Args:
        config: of the run.
        splits: where its data is open already.
        mesh: in place of the one that the config describes.
        names: of the classes of the run that goes on, by target, as in `open_splits`.
    """
    for name in config.imports:
        import_user_module(name)
    parts = check(config)
    mesh = mesh or make_mesh(*(getattr(config.mesh, axis) for axis in AXES))
    check_batch(config, mesh)
    splits = splits or open_splits(config, parts=parts, names=names)
    completed = with_data_defaults(config, splits["train"])
    if completed != config:
        config, parts = completed, check(completed)
    splits = with_streams(config, parts, splits, names)
    streams = train_streams(config, parts, splits)
    steps, in_steps = durations(config, len(splits["train"]))
    target, vocabulary = learned(config, splits["train"]), splits["train"].vocabulary
    num_classes = splits["train"].num_classes
    if target and target.kind != "tokens":
        num_classes = target.size
    known = {"num_classes": num_classes, "vocabulary": vocabulary}
    make = functools.partial(registry.supply, mesh=mesh, total_steps=steps, **known)
    module = make(parts.one("model"))
    check_fit(config, module, splits["train"])
    check_held(config, splits)

    precision = make(parts.one("precision", in_steps))
    model = Model(
        module,
        precision.dtype,
        kernel_init=parts.one("initializer"),
        freeze_norms=frozen_norms_pattern(config),
        dropout=parts.one("dropout") or elementwise,
        remat=config.gradient.remat,
        float32=precision.float32,
        norm_parts=1 if config.sync_norms else batch_shards(mesh),
        **known,
    )
    networks = network_specs(config, parts)
    of_model = functools.partial(_objective, config, parts, make=make, networks=networks)
    objective = of_model(model)
    rate_of = functools.partial(
        learning_rate, schedule=parts.one("schedule", in_steps), steps=steps
    )
    element_spec = splits["train"].element_spec
    tx = _optimizer(config, parts, rate_of, model, element_spec, in_steps, make)
    average = config.average and make(parts.one("average", in_steps))
    method = make(parts.one("gradient.method"), micro_batches=config.gradient.accumulate)
    step = functools.partial(
        make_step,
        tx=tx,
        gradient=method,
        average=average,
        loss_scale=precision.loss_scale,
        skip_nonfinite=config.gradient.skip_nonfinite,
    )
    if asks_for_progress(parts):
        step = lambda objective, untimed=step: timed(untimed(objective), steps)
    phases = [(precision.start, step(objective))]
    if precision.start:
        exact = model._replace(dtype=jnp.dtype(jnp.float32))
        phases.insert(0, (0, step(of_model(exact))))

    def predicting(objective: Objective) -> Objective:
        for predictor in parts.many("evaluation.predictors"):
            objective = make(predictor, objective=objective)
        return objective

    prepared = lambda own: predicting(of_model(model, preprocess=own))
    objective = predicting(objective)
    plan = Plan(
        config=config,
        parts=parts,
        splits=splits,
        streams=streams,
        steps=steps,
        to_steps=in_steps,
        schedule=rate_of(parts.one("optimizer")),
        objective=objective,
        model=model,
        prepare=preparation(parts.many("preprocess")),
        tx=tx,
        phases=tuple(phases),
        state_spec=StateSpec(
            average is not None, precision.loss_scale, config.mesh.rules, Layout(LAYOUT, STAGED)
        ),
        reestimate=make_reestimate(objective),
        mesh=mesh,
        metrics=metrics_of(config, parts, make),
        target_name=target_name(config),
        target=target,
        held=measured(config, parts, objective, prepared, make),
        refreshes=_refreshes(parts.many("refresh", in_steps), make),
        networks=networks,
        unit=unit_of("objectives", config.objective),
    )
    for role, split in splits.items():
        if role in plan.held and split.readable:
            order_of(config, role, plan.held[role], split)  # refuses what does not fit
    during = plan.roles("training")
    check_monitor(config, [key for role in during for key in plan.measured(role)])
    return plan


def frozen_norms_pattern(config: Config) -> str | None:
    """Regular expression on paths of parameters whose batch norms keep their statistics."""
    if config.freeze_norms:
        return ".*"
    return config.freeze if config.freeze_statistics else None


def durations(config: Config, examples: int) -> tuple[int, Callable[[int | str], int]]:
    """Steps of the whole run, and what turns any of its durations into steps.

    Args:
        config: of the run.
        examples: size of the training split.
    """
    sizes = {"examples": examples, "batch_size": config.data.batch_size}
    with at("config.duration"):
        steps = to_steps(config.duration, **sizes)
    if steps < 1:
        message = f"config.duration '{config.duration}' is less than one step"
        raise UserError(message, setting("config.duration", "1 epoch"))
    if steps >= 2**31:  # they are counted in int32
        raise UserError(f"config.duration '{config.duration}' is {steps:.3g} steps, too many")
    in_steps = functools.partial(to_steps, total=steps, **sizes)
    for field in ("evaluation", "checkpoint", "log"):
        every = getattr(config, field).every
        with at(f"config.{field}.every"):
            period = in_steps(every)
        if period < 1:
            message = f"config.{field}.every '{every}' is less than one step"
            raise UserError(message, setting(f"config.{field}.every", "1 epoch"))
    return steps, in_steps


def learning_rate(
    optimizer: Callable[..., Any], schedule: Callable[[int], optax.Schedule], steps: int
) -> optax.Schedule:
    """step -> learning rate: the optimizer's peak times the schedule.

    Args:
        optimizer: bound, its durations in steps or not.
        schedule: bound, its durations in steps.
        steps: of the whole run.
    """
    peak = inspect.signature(optimizer).parameters["learning_rate"].default
    factor = registry.supply(schedule, total_steps=steps)
    return lambda step: peak * factor(step)


def _objective(
    config: Config,
    parts: registry.Parts,
    model: Model,
    make: Callable[..., Any],
    networks: Mapping[str, NetworkSpec],
    preprocess: list[Callable[..., Any]] | None = None,
) -> Objective:
    """The objective of a run: the model's own, regularized, on augmented batches."""
    make = functools.partial(make, progress=progress_of)
    objective = make(with_networks(parts.one("objective"), networks, model), model=model)
    for regularize in parts.many("regularizers"):
        objective = make(with_networks(regularize, networks, model), objective=objective)
    if config.freeze is not None:
        objective = frozen(objective, config.freeze)
    preprocess = parts.many("preprocess") if preprocess is None else preprocess
    streams = stream_transforms(config, parts)
    objective = augmented(objective, parts.many("augment"), preprocess, streams)
    return on_target(objective, target_name(config))


def _refreshes(
    bound: Sequence[Callable[..., Refresh]], make: Callable[..., Any]
) -> dict[str, Refresh]:
    """Refreshes by their names; those of one name are numbered."""
    names = [registry.name_of(build) for build in bound]
    keys = [n if names.count(n) == 1 else f"{n} {i}" for i, n in enumerate(names)]
    return {key: make(build) for key, build in zip(keys, bound, strict=True)}


def asks_for_progress(parts: registry.Parts) -> bool:
    """True if the objective, or one of the regularizers, has a parameter `progress`."""
    builders = [parts.one("objective"), *parts.many("regularizers")]
    return any("progress" in registry.supplied(build) for build in builders)


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
    except (ImportError, OSError, SyntaxError, registry.RegisterError) as error:
        raise UserError(f"cannot import '{name}': {error}", help_of_verb) from error


def _optimizer(
    config: Config,
    parts: registry.Parts,
    rate_of: Callable[[Callable[..., Any]], optax.Schedule],
    model: Model,
    element_spec: Mapping[str, jax.ShapeDtypeStruct],
    in_steps: Callable[[int | str], int],
    make: Callable[..., Any],
) -> optax.GradientTransformationExtraArgs:
    order = ()
    if config.layer_decay is not None:
        batch = {k: jax.ShapeDtypeStruct((1, *s.shape), s.dtype) for k, s in element_spec.items()}
        order = model.calls(batch)
    built = lambda build: make(functools.partial(build, learning_rate=rate_of(build)))
    groups = {p: built(build) for p, build in parts.named("optimizers", in_steps).items()}
    optimizer = grouped(
        partitioned(built(parts.one("optimizer", in_steps)), groups),
        freeze=config.freeze,
        lr_multipliers=config.lr_multipliers,
        order=order,
        layer_decay=config.layer_decay,
    )
    return chain(
        optimizer,
        transforms=[make(build) for build in parts.many("gradient.transforms", in_steps)],
        wrappers=[
            lambda inner, build=build: make(build, inner=inner)
            for build in parts.many("wrappers", in_steps)
        ],
    )
