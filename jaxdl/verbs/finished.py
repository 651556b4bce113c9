"""Verbs that look at a run or at a model: report, evaluate, export, summary."""

import json
from pathlib import Path

from jaxdl import config_file
from jaxdl.config import Config, Part
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.verbs.parsing import Parser, config_of, count, image_shape, overrides_in, prepare_jax


def report(arguments: list[str]) -> int:
    """Write a run's report anew."""
    from jaxdl.report import write_report

    parser = Parser(prog="jaxdl report", description="Write RUN/report.html anew.")
    parser.add_argument("run", type=Path, help="a run directory")
    workdir = parser.parse_args(arguments).run
    if not workdir.is_dir():
        raise UserError(f"no run directory '{workdir}'")
    print(write_report(workdir))
    return 0


def evaluate(arguments: list[str]) -> int:
    """Measure weights on a split."""
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
    config = override(config_file.load(options.config or config_of(options.run)), overrides)
    prepare_jax()
    from jaxdl.research import finished

    found = finished.evaluate(config, options.run, options.split)
    if options.json:
        print(json.dumps(found))
    else:
        print("  ".join(f"{options.split}/{k} {v:.4f}" for k, v in found.items()))
    return 0


def export(arguments: list[str]) -> int:
    """Write a run's weights for another library."""
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
    config = config_file.load(config_of(options.run))
    prepare_jax()
    from jaxdl.research import finished

    publisher = finished.export(options.run, config, options.file, options.publisher)
    print(f"{options.file}  (names of {publisher})")
    return 0


def summary(arguments: list[str]) -> int:
    """Show what the layers of a model cost."""
    parser = Parser(
        prog="jaxdl summary",
        description="Show shapes, parameters, multiply-adds and memory of a model, layer by layer. "
        "Its arguments are set as --model.width=64.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="a registered name; `jaxdl --list models` shows them")
    parser.add_argument(
        "--image", type=image_shape, metavar="HxWxC", help="default: the model's own"
    )
    parser.add_argument("--num-classes", type=count, metavar="N", help="default: its own")
    parser.add_argument("--batch-size", type=count, default=1, metavar="N")
    parser.add_argument("--depth", type=count, metavar="N", help="deeper layers in one row")
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--json", action="store_true", help="print rows and totals as JSON")
    overrides, rest = overrides_in(arguments, "--model.")
    options = parser.parse_args(rest)
    config = Config(model=Part(options.model))
    config = override(config, [(f"model.{path}", value) for path, value in overrides])

    from jaxdl.assemble import import_user_module
    from jaxdl.perf import summary as layers

    for name in options.imports:
        import_user_module(name)
    shown = layers.summary(config.model, options.image, options.num_classes, options.batch_size)
    if options.depth:
        shown = shown.at_depth(options.depth)
    if options.json:
        print(
            json.dumps(
                {"rows": config_file.to_dict(shown.rows), "totals": shown.totals()}, indent=2
            )
        )
    else:
        print(layers.text(shown))
    return 0
