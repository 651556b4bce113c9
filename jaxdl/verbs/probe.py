"""`jaxdl probe`."""

import json
from argparse import Namespace

from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import positive, prepare_jax


@verb(
    option("--seconds", type=positive, default=5.0, help="of measuring; default: 5"),
    option("--quick", action="store_true", help="see that it works, measure nothing"),
    option(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="what tells the time: wall clock, or CPU seconds where others use the machine; "
        "default: wall",
    ),
    option("--json", action="store_true", help="print JSON"),
)  # fmt: skip
def probe(options: Namespace) -> int:
    """Measure arithmetic and memory of this machine's first device, by type, size and stride.

    docs/gpu.md and docs/tpu.md say what the figures mean.
    """
    prepare_jax()
    from jaxdl.perf import probe as probes
    from jaxdl.perf.roofline import CLOCKS

    seconds = 0.1 if options.quick else options.seconds
    found = probes.probe(seconds, CLOCKS[options.clock], options.quick)
    print(json.dumps(probes.as_dict(found)) if options.json else probes.text(found))
    return 0
