"""Looking for what is not finite in a run: `jaxdl find-nan`."""

from collections.abc import Iterator
from pathlib import Path

from jaxdl.assemble import assemble
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.rundir.checkpoint import Checkpoints
from jaxdl.session import first_nonfinite, first_state, restored_state


def search(config: Config, workdir: Path | None, steps: int) -> Iterator[tuple[int, str | None]]:
    """(number of a step, what was not finite in it, or None), from the newest checkpoint on.

    The first is the last step that was done: after a run that diverged, one of those that were
    skipped. No step is taken: all are looked at with the weights of the checkpoint.

    Args:
        config: of the run.
        workdir: its directory; without one, the weights that a run would begin with.
        steps: how many to look at.

    Raises:
        UserError: the directory has no finished checkpoint.
    """
    plan = assemble(config)
    if workdir is None:
        state = first_state(config, plan)
    else:
        if not (workdir / "checkpoints").is_dir():
            raise UserError(f"'{workdir}' has no checkpoints")
        with Checkpoints(workdir / "checkpoints", writes=False) as checkpoints:
            restored = restored_state(config, plan, checkpoints)
        if restored is None:
            raise UserError(f"'{workdir}' has no finished checkpoint")
        state = restored.state
    begun = max(0, int(state.step) - 1)
    for step in range(begun, begun + steps):
        yield step, first_nonfinite(config, plan, state, step)
