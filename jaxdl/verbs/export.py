"""`jaxdl export`."""

from argparse import Namespace
from pathlib import Path

from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import prepare_jax


@verb(
    option("run", type=Path, help="a run directory"),
    option("file", type=Path, help="what to write, NAME.safetensors"),
    option("--publisher", help="default: one whose network is the model's own"),
)
def export(options: Namespace) -> int:
    """Write a run's weights as safetensors for another library.

    Under the names of a publisher of weights, so that its own library loads them.
    """
    prepare_jax()
    from jaxdl.loaded import load_run

    publisher = load_run(options.run).export(options.file, options.publisher)
    print(f"{options.file}  (names of {publisher})")
    return 0
