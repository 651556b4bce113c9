"""`jaxdl trials`."""

import shlex
from argparse import Namespace
from pathlib import Path

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, prepare_jax


@verb(
    option(
        "--vary", action="append", default=[], metavar="'NAME FIELD=VALUE ...'",
        help="a variant: --vary base --vary 'sam wrappers=sam(rho=0.1)'",
    ),
    option("--seeds", type=count, default=3, metavar="N", help="0 to N - 1"),
    option("--metric", action="append", default=[], help="default: test/accuracy"),
    option("--workdir", type=Path, required=True, help="has a run directory for each"),
    config="required",
    trains=True,
)  # fmt: skip
def trials(options: Namespace, config: Config) -> int:
    """Run every variant of a config with every seed; print means and spreads."""
    variants = _variants(config, options.vary or ["base"])
    prepare_jax()
    from jaxdl.cluster.signals import Interrupted
    from jaxdl.research import trials as several

    metrics = options.metric or ["test/accuracy"]
    results: dict[str, list] = {name: [] for name in variants}
    try:
        for name, seed, found in several.trials(
            variants, range(options.seeds), options.workdir, metrics
        ):
            results[name].append(found)
            shown = "  ".join(f"{m} {found[m]:.4f}" for m in metrics if m in found)
            print(f"{name}  seed {seed}  {shown}", flush=True)
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there")
        return stop.exit_status
    print(several.table(results, metrics))
    return 0


def _variants(config: Config, asked: list[str]) -> dict[str, Config]:
    """Name to config, from 'NAME FIELD=VALUE ...' of each."""
    found: dict[str, Config] = {}
    for said in asked:
        try:
            name, *changes = shlex.split(said)
        except ValueError as error:
            raise UserError(f"--vary '{said}' is not NAME FIELD=VALUE ...") from error
        if name in found:
            raise UserError(f"two variants are called '{name}'")
        bare = [change for change in changes if "=" not in change]
        if bare:
            raise UserError(f"variant '{name}': '{bare[0]}' is not FIELD=VALUE")
        try:
            found[name] = override(config, [c.partition("=")[::2] for c in changes])
        except UserError as error:
            raise UserError(f"variant '{name}': {error}") from error
    return found
