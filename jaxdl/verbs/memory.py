"""`jaxdl memory`."""

from argparse import Namespace

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import assembled, positive


@verb(
    option("--limit", type=positive, metavar="GIB", help="of a device; default: what it has"),
    config="required",
)
def memory(options: Namespace, config: Config) -> int:
    """Estimate, without compiling, what a step takes, and what would make it fit.

    The images of a well-known data set need not be on this machine: their shape is enough.
    """
    from jaxdl.held import GIB
    from jaxdl.perf.memory import advice, limit, placed

    available = int(options.limit * GIB) if options.limit else limit()
    config, plan = assembled(config)
    print(advice(config, plan, available))
    if plan.mesh.size > 1:
        first, *rows = placed(plan.abstract_state(config.seed))
        print("\n".join([f"state: {first}", *(f"  {row}" for row in rows)]))
    return 0
