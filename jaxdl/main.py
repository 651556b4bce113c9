"""The command line: arguments to a config to a verb. The only place that parses arguments."""

import argparse
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxdl import config as configs
from jaxdl.errors import UserError, choices
from jaxdl.override import override


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxdl",
        description="Train, evaluate and report one run. Any field of the config is set as "
        "--config.field=value, any argument of a part as --config.model.width=64.",
        epilog="What can be set: --config FILE --print-config shows every field, --list KIND NAME "
        "the arguments of a part. Other verbs: `jaxdl report RUN` writes RUN/report.html anew, "
        "`jaxdl summary MODEL` shows what layers cost, `jaxdl evaluate` measures weights, "
        "`jaxdl export` gives them away. Before a run: `jaxdl plot-schedule`, `jaxdl find-lr`, "
        "`jaxdl find-batch-size` and `jaxdl memory` take --config as training does.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="a .py or .json config file")
    parser.add_argument("--workdir", type=Path, help="run directory; one that has a run resumes it")
    parser.add_argument(
        "--list",
        nargs="+",
        metavar=("KIND", "PATTERN"),
        help="show what there is, e.g. models 'res*'; kinds: models, objectives, losses, metrics, "
        "augmentations, optimizers, wrappers, schedules, sources",
    )
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE",
        help="a module or file of your own that registers parts",
    )  # fmt: skip
    parser.add_argument(
        "--print-config", action="store_true", help="print the config as JSON, stop"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A warning of ours is for a reader, who has no use for the line of code it came from.
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        verb = arguments.pop(0)
        if verb not in VERBS:
            raise UserError(f"unknown verb '{verb}': {choices(verb, VERBS)}")
        return VERBS[verb](arguments)
    return _train_or_show(arguments)


def _train_or_show(arguments: list[str]) -> int:
    overrides, rest = _overrides(arguments)
    options = _parser().parse_args(rest)
    if options.list:
        return _list(options.list, options.imports)
    if not options.config:
        raise UserError("name a config: --config configs/efficientnet.py (or see --help)")
    config = override(configs.load(options.config), overrides)
    if options.imports:
        config = configs.add_imports(config, options.imports)
    if options.print_config:
        print(configs.to_json(config), end="")
        return 0
    return _train(config, options.workdir or _new_workdir(options.config))


def _overrides(
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
            if not queue:
                raise UserError(f"{prefix}{path} needs a value: {prefix}{path}=...")
            value = queue.pop(0)
        found.append((path, value))
    return found, rest


def _new_workdir(spec: str) -> Path:
    path, _, argument = spec.partition(":")
    parent = Path(path).resolve().parent.name
    stem = parent if path.endswith("config.json") else Path(path).stem
    name = "-".join(filter(None, [stem, argument, datetime.now().strftime("%Y%m%d-%H%M%S")]))
    return Path("runs") / name


def _prepare_jax() -> None:
    # Reading the cache saves more than it costs even for programs that compile in a moment.
    import jax

    if not jax.config.jax_compilation_cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxdl" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _train(config: configs.Config, workdir: Path) -> int:
    _prepare_jax()
    from jaxdl.run import run
    from jaxdl.train.signals import Interrupted

    try:
        run(config, workdir)
    except Interrupted as stop:
        print(f"{stop}; the same command with --workdir {workdir} goes on from there")
        return stop.exit_status
    return 0


def _list(request: list[str], imports: list[str]) -> int:
    from jaxdl import registry
    from jaxdl.assemble import import_user_module

    for name in imports:
        import_user_module(name)
    if len(request) > 2:
        raise UserError(f"--list takes a kind and a pattern, not {len(request)} words")
    entries = registry.entries(*request)
    width = max((len(e.name) for e in entries), default=0)
    sizes = [""] * len(entries)
    if request[0] == "models":
        from jaxdl.research.sizes import column

        sizes = column(e.name for e in entries)
    for entry, size in zip(entries, sizes, strict=True):
        paper = "" if entry.paper in entry.summary else entry.paper
        print(f"{entry.name:<{width}}  {size}{entry.summary}  {paper}".rstrip())
    if len(entries) == 1:
        print("\n".join(f"    {line}" for line in registry.describe(entries[0])))
    if not entries:
        raise UserError(f"no {request[0]} match '{request[1]}'")
    return 0


def _report(arguments: list[str]) -> int:
    from jaxdl.report import write_report

    parser = _Parser(prog="jaxdl report", description="Write RUN/report.html anew.")
    parser.add_argument("run", type=Path, help="a run directory")
    workdir = parser.parse_args(arguments).run
    if not workdir.is_dir():
        raise UserError(f"no run directory '{workdir}'")
    print(write_report(workdir))
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = _Parser(
        prog="jaxdl evaluate",
        description="Measure a run's newest checkpoint, or, with --config, the weights that a run "
        "would begin with: those of --config.init_from.",
        allow_abbrev=False,
    )
    parser.add_argument("run", nargs="?", type=Path, help="a run directory")
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="instead of a run")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--json", action="store_true", help="print JSON")
    overrides, rest = _overrides(arguments)
    options = parser.parse_args(rest)
    if bool(options.run) == bool(options.config):
        raise UserError("name a run directory or a --config, one of the two")
    config = override(configs.load(options.config or _config_of(options.run)), overrides)
    _prepare_jax()
    from jaxdl.research.finished import evaluate

    found = evaluate(config, options.run, options.split)
    if options.json:
        print(json.dumps(found))
    else:
        print("  ".join(f"{options.split}/{k} {v:.4f}" for k, v in found.items()))
    return 0


def _export(arguments: list[str]) -> int:
    parser = _Parser(
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
    _prepare_jax()
    from jaxdl.research.finished import export

    publisher = export(options.run, config, options.file, options.publisher)
    print(f"{options.file}  (names of {publisher})")
    return 0


def _config_of(run: Path) -> str:
    if not (run / "config.json").is_file():
        raise UserError(f"no run directory '{run}'")
    return str(run / "config.json")


def _summary(arguments: list[str]) -> int:
    parser = _Parser(
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
    overrides, rest = _overrides(arguments, "--model.")
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


def _before_a_run(
    arguments: list[str], verb: str, description: str, **options: dict[str, Any]
) -> tuple[argparse.Namespace, configs.Config]:
    """Options and config of a verb that takes --config as training does."""
    parser = _Parser(prog=f"jaxdl {verb}", description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", required=True)
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    for name, about in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **about)
    overrides, rest = _overrides(arguments)
    parsed = parser.parse_args(rest)
    config = override(configs.load(parsed.config), overrides)
    return parsed, configs.add_imports(config, parsed.imports)


def _plot_schedule(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "plot-schedule",
        "Draw the learning rate of each step of a run.",
        out={"type": Path, "default": Path("schedule.png"), "help": ".png, .svg or .pdf"},
        examples={"type": _count, "metavar": "N", "help": "of an epoch; default: ask the data"},
    )
    from jaxdl.research.schedule_plot import plot

    plot({options.config: config}, options.out, examples=options.examples)
    print(options.out)
    return 0


def _find_lr(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "find-lr",
        "Raise the learning rate step by step, and see where the loss falls and flies.",
        low={"type": float, "default": 1e-6, "help": "first rate"},
        high={"type": float, "default": 10.0, "help": "last rate"},
        steps={"type": _count, "default": 100, "help": "of the test"},
        out={"type": Path, "help": "draw the loss: .png, .svg or .pdf"},
    )
    _prepare_jax()
    from jaxdl.research.lr_finder import find_learning_rate, plot

    test = find_learning_rate(config, low=options.low, high=options.high, steps=options.steps)
    if options.out:
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
        share={"type": float, "default": 0.9, "help": "of the memory that a step may take"},
        largest={"type": _count, "default": 65536, "help": "size that ends the search"},
    )
    _prepare_jax()
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
    print(f"the largest that fits: --config.data.batch_size={best}")
    return 0


def _memory(arguments: list[str]) -> int:
    options, config = _before_a_run(
        arguments,
        "memory",
        "Estimate, without compiling, what a step takes, and what would make it fit.",
        limit={"type": float, "metavar": "GIB", "help": "of a device; default: what it has"},
    )
    if options.limit is not None and options.limit <= 0:
        raise UserError(f"--limit is a positive number of GiB, not {options.limit}")
    from jaxdl.assemble import GIB, assemble
    from jaxdl.memory import advice, limit

    available = int(options.limit * GIB) if options.limit else limit()
    print(advice(config, assemble(config), available))
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": _train_or_show,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
    "summary": _summary,
    "plot-schedule": _plot_schedule,
    "find-lr": _find_lr,
    "find-batch-size": _find_batch_size,
    "memory": _memory,
}


if __name__ == "__main__":
    sys.exit(main())
