"""The verb that measures this machine: probe."""

import json

from jaxdl.verbs.parsing import Parser, positive, prepare_jax


def probe(arguments: list[str]) -> int:
    """Measure what this machine can do, and what shapes cost on it."""
    parser = Parser(
        prog="jaxdl probe",
        description="Measure arithmetic and memory of this machine's first device, by type, size "
        "and stride. docs/gpu.md and docs/tpu.md say what the figures mean.",
        allow_abbrev=False,
    )
    parser.add_argument("--seconds", type=positive, default=5.0, help="of measuring; default: 5")
    parser.add_argument("--quick", action="store_true", help="see that it works, measure nothing")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="what tells the time: wall clock, or CPU seconds where others use the machine; "
        "default: wall",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    prepare_jax()
    from jaxdl.perf import probe as probes
    from jaxdl.perf.roofline import CLOCKS

    seconds = 0.1 if options.quick else options.seconds
    found = probes.probe(seconds, CLOCKS[options.clock], options.quick)
    print(json.dumps(probes.as_dict(found)) if options.json else probes.text(found))
    return 0
