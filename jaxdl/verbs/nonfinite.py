"""The verb that looks for NaN: find-nan."""

from pathlib import Path

from jaxdl import config_file
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.verbs.parsing import Parser, config_of, count, overrides_in, prepare_jax


def find_nan(arguments: list[str]) -> int:
    """Name the first layer, gradient or update that is not finite."""
    parser = Parser(
        prog="jaxdl find-nan",
        description="Do steps of a run again, layer by layer, and name what is not finite: with "
        "the weights of its newest checkpoint, from the last step on, or, with --config, with "
        "those that a run would begin with.",
        allow_abbrev=False,
    )
    parser.add_argument("run", nargs="?", type=Path, help="a run directory")
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="instead of a run")
    parser.add_argument("--steps", type=count, default=10, metavar="N", help="default: 10")
    overrides, rest = overrides_in(arguments)
    options = parser.parse_args(rest)
    if bool(options.run) == bool(options.config):
        raise UserError("name a run directory or a --config, one of the two")
    config = override(config_file.load(options.config or config_of(options.run)), overrides)
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
