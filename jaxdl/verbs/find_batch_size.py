"""`jaxdl find-batch-size`."""

from argparse import Namespace

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, positive, prepare_jax


@verb(
    option(
        "--fraction",
        "--share",
        type=positive,
        default=0.9,
        help="of a device's memory; default: 0.9",
    ),
    option("--largest", type=count, default=65536, metavar="N", help="default: 65536"),
    config="required",
)
def find_batch_size(options: Namespace, config: Config) -> int:
    """Double the batch until a step does not fit into the memory of a device."""
    prepare_jax()
    from jaxdl.perf.batch_size import find_batch_size
    from jaxdl.perf.memory import in_words

    best = None
    for trial in find_batch_size(config, fraction=options.fraction, largest=options.largest):
        memory = in_words(trial.bytes) if trial.bytes else "not compiled"
        fits = trial.seconds is not None
        speed = f"{trial.batch_size / trial.seconds:,.0f} examples/s" if fits else "does not fit"
        print(f"batch {trial.batch_size:>6}  {memory:>12}  {speed}", flush=True)
        best = trial.batch_size if fits else best
    if best is None:
        raise UserError("not even the smallest batch fits: see `jaxdl memory`")
    print(f"the largest {'tried' if fits else 'that fits'}: --config.data.batch_size={best}")
    return 0
