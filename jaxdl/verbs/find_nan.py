"""`jaxdl find-nan`."""

from argparse import Namespace

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, prepare_jax


@verb(
    option("--steps", type=count, default=10, metavar="N", help="default: 10"),
    config="or run",
)
def find_nan(options: Namespace, config: Config) -> int:
    """Do steps of a run again, layer by layer, and name what is not finite.

    With the weights of its newest checkpoint, from the last step on, or, with --config, with those
    that a run would begin with.
    """
    prepare_jax()
    from jaxdl.research.nonfinite import search

    begun = None
    for step, found in search(config, options.run, options.steps):
        begun = step if begun is None else begun
        if found:
            print(f"step {step}: not finite is first {found}")
            return 0
    print(f"steps {begun} to {step}: all is finite")
    return 0
