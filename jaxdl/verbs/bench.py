"""Verbs that measure: bench, profile."""

import json
from pathlib import Path

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.verbs.parsing import Parser, before_a_run, count, image_shape, prepare_jax, writing


def bench(arguments: list[str]) -> int:
    """Measure what models cost and how fast they are, or compare two measurements."""
    parser = Parser(
        prog="jaxdl bench",
        description="Measure what models cost and how fast they are on this machine: parameters, "
        "multiply-adds, memory, time to compile, time of a training step and of inference, and "
        "the share of what the machine can do at best. Models take turns, so that noise is shared.",
        allow_abbrev=False,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="resnet50, 'resnet50(width=32)'")
    parser.add_argument("--image", type=image_shape, metavar="HxWxC", help="default: each its own")
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="default: 32")
    parser.add_argument("--train", action="store_true", help="training steps alone")
    parser.add_argument("--infer", action="store_true", help="inference alone; default: both")
    parser.add_argument("--precision", default="auto", metavar="NAME", help="default: auto")
    parser.add_argument("--repeats", type=count, default=10, metavar="N", help="rounds; default 10")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: seconds of all cores together, for a machine that others use",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it")
    parser.add_argument(
        "--compare", nargs="+", type=Path, metavar="FILE",
        help="A.json B.json of two versions; A1 B1 A2 B2 ... of several processes of each",
    )  # fmt: skip
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    options = parser.parse_args(arguments)
    if bool(options.models) == bool(options.compare):
        raise UserError("name models, or files to --compare, one of the two")
    if options.compare:
        return _compare(options.compare)
    parts = [override(Config(), [("model", said)]).model for said in options.models]
    prepare_jax()
    from jaxdl.assemble import import_user_module
    from jaxdl.perf import bench as measured
    from jaxdl.perf import roofline

    for name in options.imports:
        import_user_module(name)
    settings = options.batch_size, options.image, options.precision
    runs = [measured.config_of(model, *settings) for model in parts]
    asked = [mode for mode in ("train", "infer") if getattr(options, mode)]
    found = measured.bench(
        runs, asked or ("train", "infer"), repeats=options.repeats, clock=options.clock
    )
    best = roofline.measure(clock=measured.CLOCKS[options.clock])
    told = measured.report(found, best, options.clock)
    print(measured.text(told))
    if options.json:
        with writing(options.json):
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(told, indent=1) + "\n")
        print(options.json)
    return 0


def _compare(files: list[Path]) -> int:
    from jaxdl.perf import bench_compare

    if len(files) % 2:
        raise UserError(f"--compare takes pairs A B, not {len(files)} files")
    runs = [bench_compare.load(file) for file in files]
    found = bench_compare.compare(runs[::2], runs[1::2])
    print(bench_compare.text(found, len(files) // 2))
    return 0


def profile(arguments: list[str]) -> int:
    """Show where the time of a training step goes."""
    options, config = before_a_run(
        arguments,
        "profile",
        "Trace some training steps: the costliest operations, by category and one by one, and the "
        "share of the time that waits for input.",
        steps={"type": count, "default": 10, "metavar": "N", "help": "default: 10"},
        top={"type": count, "default": 15, "metavar": "N", "help": "single ops; default: 15"},
        out={"type": Path, "default": Path("profile"), "metavar": "DIR", "help": "of the trace"},
    )
    prepare_jax()
    from jaxdl.perf import profile as profiler

    print(profiler.text(profiler.profile(config, options.out, options.steps), options.top))
    return 0
