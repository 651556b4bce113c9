"""What `jaxdl VERB` does besides training: a function of the arguments after the verb, for each."""

import argparse
import contextlib
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxdl import config as configs
from jaxdl.errors import UserError, choices
from jaxdl.override import override


class Parser(argparse.ArgumentParser):
    """Whose mistakes are answered as all of a user's are."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def overrides_in(
    arguments: list[str], prefix: str = "--config."
) -> tuple[list[tuple[str, str]], list[str]]:
    """Take `--config.path=value` and `--config.path value` out of the arguments."""
    found, rest, queue = [], [], list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith(prefix):
            rest.append(argument)
            continue
        path, equals, value = argument.removeprefix(prefix).partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UserError(f"{prefix}{path} needs a value: {prefix}{path}=...")
            value = queue.pop(0)
        found.append((path, value))
    return found, rest


def prepare_jax() -> None:
    """Keep what XLA compiles, from run to run."""
    # Reading the cache saves more than it costs even for programs that compile in a moment.
    import jax

    if not jax.config.jax_compilation_cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxdl" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _report(arguments: list[str]) -> int:
    from jaxdl.report import write_report

    parser = Parser(prog="jaxdl report", description="Write RUN/report.html anew.")
    parser.add_argument("run", type=Path, help="a run directory")
    workdir = parser.parse_args(arguments).run
    if not workdir.is_dir():
        raise UserError(f"no run directory '{workdir}'")
    print(write_report(workdir))
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = Parser(
        prog="jaxdl evaluate",
        description="Measure a run's newest checkpoint, or, with --config, the weights that a run "
        "would begin with: those of --config.init_from.",
        allow_abbrev=False,
    )
    parser.add_argument("run", nargs="?", type=Path, help="a run directory")
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="instead of a run")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--json", action="store_true", help="print JSON")
    overrides, rest = overrides_in(arguments)
    options = parser.parse_args(rest)
    if bool(options.run) == bool(options.config):
        raise UserError("name a run directory or a --config, one of the two")
    config = override(configs.load(options.config or _config_of(options.run)), overrides)
    prepare_jax()
    from jaxdl.research.finished import evaluate

    found = evaluate(config, options.run, options.split)
    if options.json:
        print(json.dumps(found))
    else:
        print("  ".join(f"{options.split}/{k} {v:.4f}" for k, v in found.items()))
    return 0


def _export(arguments: list[str]) -> int:
    parser = Parser(
        prog="jaxdl export",
        description="Write a run's weights as safetensors, under the names of a publisher of "
        "weights, so that its own library loads them.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("file", type=Path, help="what to write, NAME.safetensors")
    parser.add_argument("--publisher", help="default: one whose network is the model's own")
    options = parser.parse_args(arguments)
    config = configs.load(_config_of(options.run))
    prepare_jax()
    from jaxdl.research.finished import export

    publisher = export(options.run, config, options.file, options.publisher)
    print(f"{options.file}  (names of {publisher})")
    return 0


def _config_of(run: Path) -> str:
    if not (run / "config.json").is_file():
        raise UserError(f"no run directory '{run}'")
    return str(run / "config.json")


def _summary(arguments: list[str]) -> int:
    parser = Parser(
        prog="jaxdl summary",
        description="Show shapes, parameters, multiply-adds and memory of a model, layer by layer. "
        "Its arguments are set as --model.width=64.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="a registered name; `jaxdl --list models` shows them")
    parser.add_argument("--image", type=_image, metavar="HxWxC", help="default: the model's own")
    parser.add_argument("--num-classes", type=_count, metavar="N", help="default: its own")
    parser.add_argument("--batch-size", type=_count, default=1, metavar="N")
    parser.add_argument("--depth", type=_count, metavar="N", help="deeper layers in one row")
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--json", action="store_true", help="print rows and totals as JSON")
    overrides, rest = overrides_in(arguments, "--model.")
    options = parser.parse_args(rest)
    config = configs.Config(model=configs.Part(options.model))
    config = override(config, [(f"model.{path}", value) for path, value in overrides])

    from jaxdl.assemble import import_user_module
    from jaxdl.research.summary import summary, text

    for name in options.imports:
        import_user_module(name)
    shown = summary(config.model, options.image, options.num_classes, options.batch_size)
    if options.depth:
        shown = shown.at_depth(options.depth)
    if options.json:
        print(json.dumps({"rows": configs.to_dict(shown.rows), "totals": shown.totals()}, indent=2))
    else:
        print(text(shown))
    return 0


def _image(said: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", said):
        raise argparse.ArgumentTypeError(f"'{said}' is not HxWxC, such as 224x224x3")
    return tuple(map(int, said.split("x")))


def _count(said: str) -> int:
    if not said.isdecimal() or not int(said):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got '{said}'")
    return int(said)


def _positive(said: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(said) < math.inf:
            return float(said)
    raise argparse.ArgumentTypeError(f"expected a number above 0, got '{said}'")


def _figure(said: str) -> Path:
    from jaxdl.research.schedule_plot import SUFFIXES

    suffix = Path(said).suffix.removeprefix(".").lower()
    if suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"cannot draw '{said}': {choices(suffix, SUFFIXES)}")
    return Path(said)


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """That the file or its folder cannot be written is a user's mistake."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(error.filename) not in (file, *file.parents):
            raise
        raise UserError(f"cannot write '{file}': {error.strerror}") from error


def _before_a_run(
    arguments: list[str], verb: str, description: str, **options: dict[str, Any]
) -> tuple[argparse.Namespace, configs.Config]:
    """Options and config of a verb that takes --config as training does."""
    parser = Parser(prog=f"jaxdl {verb}", description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", required=True)
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    for name, about in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **about)
    overrides, rest = overrides_in(arguments)
    parsed = parser.parse_args(rest)
    config = override(configs.load(parsed.config), overrides)
    return parsed, configs.add_imports(config, parsed.imports)


def _plot_schedule(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "plot-schedule",
        "Draw the learning rate of each step of a run.",
        out={
            "type": _figure, "default": Path("schedule.png"), "metavar": "FILE",
            "help": ".png, .svg or .pdf; default: schedule.png",
        },
        examples={"type": _count, "metavar": "N", "help": "of an epoch; default: ask the data"},
    )  # fmt: skip
    from jaxdl.research.schedule_plot import plot

    with _writing(options.out):
        plot({options.config: config}, options.out, examples=options.examples)
    print(options.out)
    return 0


def _find_lr(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "find-lr",
        "Raise the learning rate step by step, and see where the loss falls and flies.",
        low={"type": _positive, "default": 1e-6, "metavar": "RATE", "help": "default: 1e-6"},
        high={"type": _positive, "default": 10.0, "metavar": "RATE", "help": "default: 10"},
        steps={"type": _count, "default": 100, "metavar": "N", "help": "default: 100"},
        out={"type": _figure, "metavar": "FILE", "help": "draw the loss: .png, .svg or .pdf"},
    )
    prepare_jax()
    from jaxdl.research.lr_finder import find_learning_rate, plot

    test = find_learning_rate(config, low=options.low, high=options.high, steps=options.steps)
    if options.out:
        with _writing(options.out):
            plot(test, options.out)
        print(options.out)
    print(f"the loss falls fastest at {test.steepest:.2g}, and is least at {test.lowest:.2g}")
    print(f"try --config.optimizer.learning_rate={min(test.steepest, test.lowest / 10):.2g}")
    return 0


def _find_batch_size(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "find-batch-size",
        "Double the batch until a step does not fit into the memory of a device.",
        share={"type": _positive, "default": 0.9, "help": "of a device's memory; default: 0.9"},
        largest={"type": _count, "default": 65536, "metavar": "N", "help": "default: 65536"},
    )
    prepare_jax()
    from jaxdl.memory import in_words
    from jaxdl.research.batch_size import find_batch_size

    best = None
    for trial in find_batch_size(config, share=options.share, largest=options.largest):
        memory = in_words(trial.bytes) if trial.bytes else "not compiled"
        fits = trial.seconds is not None
        speed = f"{trial.batch_size / trial.seconds:,.0f} examples/s" if fits else "does not fit"
        print(f"batch {trial.batch_size:>6}  {memory:>12}  {speed}", flush=True)
        best = trial.batch_size if fits else best
    if best is None:
        raise UserError("not even the smallest batch fits: see `jaxdl memory`")
    print(f"the largest {'tried' if fits else 'that fits'}: --config.data.batch_size={best}")
    return 0


def _memory(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "memory",
        "Estimate, without compiling, what a step takes, and what would make it fit.",
        limit={"type": _positive, "metavar": "GIB", "help": "of a device; default: what it has"},
    )
    from jaxdl.assemble import GIB, assemble
    from jaxdl.memory import advice, limit

    available = int(options.limit * GIB) if options.limit else limit()
    print(advice(config, assemble(config), available))
    return 0


def _trials(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "trials",
        "Run every variant with every seed; print means and spreads.",
        vary={
            "action": "append", "default": [], "metavar": "'NAME FIELD=VALUE ...'",
            "help": "a variant: --vary base --vary 'sam wrappers=sam(rho=0.1)'",
        },
        seeds={"type": _count, "default": 3, "metavar": "N", "help": "0 to N - 1"},
        metric={"action": "append", "default": [], "help": "default: test/accuracy"},
        workdir={"type": Path, "required": True, "help": "has a run directory for each"},
    )  # fmt: skip
    variants = _variants(config, options.vary or ["base"])
    prepare_jax()
    from jaxdl.research.trials import table, trials
    from jaxdl.train.signals import Interrupted

    metrics = options.metric or ["test/accuracy"]
    results: dict[str, list] = {name: [] for name in variants}
    try:
        for name, seed, found in trials(variants, range(options.seeds), options.workdir, metrics):
            results[name].append(found)
            shown = "  ".join(f"{m} {found[m]:.4f}" for m in metrics if m in found)
            print(f"{name}  seed {seed}  {shown}", flush=True)
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there")
        return stop.exit_status
    print(table(results, metrics))
    return 0


def _variants(config: configs.Config, asked: list[str]) -> dict[str, configs.Config]:
    """Name to config, from 'NAME FIELD=VALUE ...' of each."""
    found: dict[str, configs.Config] = {}
    for said in asked:
        try:
            name, *changes = shlex.split(said)
        except ValueError as error:
            raise UserError(f"--vary '{said}' is not NAME FIELD=VALUE ...") from error
        if name in found:
            raise UserError(f"two variants are called '{name}'")
        bare = [change for change in changes if "=" not in change]
        if bare:
            raise UserError(f"variant '{name}': '{bare[0]}' is not FIELD=VALUE")
        try:
            found[name] = override(config, [c.partition("=")[::2] for c in changes])
        except UserError as error:
            raise UserError(f"variant '{name}': {error}") from error
    return found


VERBS: dict[str, Callable[[list[str]], int]] = {
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
    "summary": _summary,
    "plot-schedule": _plot_schedule,
    "find-lr": _find_lr,
    "find-batch-size": _find_batch_size,
    "memory": _memory,
    "trials": _trials,
}
