"""`jaxdl bench`."""

import json
from argparse import Namespace
from pathlib import Path

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.verbs import IMPORTS, option, verb
from jaxdl.verbs.parsing import count, image_shape, prepare_jax, writing


@verb(
    option("models", nargs="*", metavar="MODEL", help="resnet50, 'resnet50(width=32)'"),
    option("--image", type=image_shape, metavar="HxWxC", help="default: each its own"),
    option("--batch-size", type=count, default=32, metavar="N", help="default: 32"),
    option("--train", action="store_true", help="training steps alone"),
    option("--infer", action="store_true", help="inference alone; default: both"),
    option("--precision", default="auto", metavar="NAME", help="default: auto"),
    option("--repeats", type=count, default=10, metavar="N", help="rounds; default 10"),
    option(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: seconds of all cores together, for a machine that others use",
    ),
    option("--json", type=Path, metavar="FILE", help="write all of it"),
    option(
        "--compare", nargs="+", type=Path, metavar="FILE",
        help="A.json B.json of two versions; A1 B1 A2 B2 ... of several processes of each",
    ),
    IMPORTS,
)  # fmt: skip
def bench(options: Namespace) -> int:
    """Measure what models cost and how fast they are, or compare two measurements.

    On this machine: parameters, multiply-adds, memory, time to compile, time of a training step and
    of inference, and the fraction of what the machine can do at best. Models take turns, so that
    noise is shared.
    """
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
