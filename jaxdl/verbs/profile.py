"""`jaxdl profile`."""

from argparse import Namespace
from pathlib import Path

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, prepare_jax


@verb(
    option("--steps", type=count, default=10, metavar="N", help="default: 10"),
    option("--top", type=count, default=15, metavar="N", help="single ops; default: 15"),
    option("--out", type=Path, default=Path("profile"), metavar="DIR", help="of the trace"),
    config="required",
)
def profile(options: Namespace, config: Config) -> int:
    """Trace some training steps, and show where their time goes.

    The costliest operations, by category and one by one, and the fraction of the time that
    waits for input.
    """
    prepare_jax()
    from jaxdl.perf import profile as profiler

    print(profiler.text(profiler.profile(config, options.out, options.steps), options.top))
    return 0
