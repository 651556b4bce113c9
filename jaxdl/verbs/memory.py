"""`jaxdl memory`."""

from argparse import Namespace

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import positive


@verb(
    option("--limit", type=positive, metavar="GIB", help="of a device; default: what it has"),
    config="required",
)
def memory(options: Namespace, config: Config) -> int:
    """Estimate, without compiling, what a step takes, and what would make it fit."""
    from jaxdl.assemble import assemble
    from jaxdl.held import GIB
    from jaxdl.perf.memory import advice, limit, placed

    available, plan = int(options.limit * GIB) if options.limit else limit(), assemble(config)
    print(advice(config, plan, available))
    if plan.mesh.size > 1:
        first, *rows = placed(plan.abstract_state(config.seed))
        print("\n".join([f"state: {first}", *(f"  {row}" for row in rows)]))
    return 0
