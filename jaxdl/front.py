"""The front door's actions, of which `import jaxdl` offers `fit`, `evaluate` and `predict`."""

from datetime import datetime
from pathlib import Path

import numpy as np

from jaxdl import run as single
from jaxdl.config import Config, parts_of
from jaxdl.errors import UserError
from jaxdl.loaded import Images, LoadedRun, load_run
from jaxdl.population import run as population
from jaxdl.verbs.parsing import prepare_jax

Run = LoadedRun | str | Path
"""A run in hand, or its directory."""


def train(config: Config, workdir: Path) -> Path:
    """Train, evaluate and report what a config describes: one run, or a population of runs.

    Returns:
        The directory of the run; of a population, that of its best member.
    """
    if config.population is None:
        single.run(config, workdir)
        return workdir
    best: str = population.run(config, workdir)[0]["member"]
    return workdir / "members" / best


def fit(config: Config, workdir: str | Path | None = None) -> LoadedRun:
    """Train, evaluate and report a run, as the command line does, and give it back.

    Args:
        config: of the run; of a population, the best member is given back.
        workdir: the run directory, by default `runs/MODEL-DATE-TIME`. A run that it holds is gone
            on with; one that has ended trains no more.

    Raises:
        UserError: the config, the data or the directory cannot be used.
        Interrupted: the run was stopped; all is saved, and the same call goes on from it.
        Diverged: too many steps in a row were not finite.
    """
    if not isinstance(config, Config):
        raise UserError(
            f"fit takes a Config, such as jaxdl.load('cnn') gives, not a {type(config).__name__}"
        )
    list(parts_of(config))  # refuses a text where a part belongs
    if workdir is None:
        workdir = Path("runs") / f"{config.model.name}-{datetime.now():%Y%m%d-%H%M%S}"
    prepare_jax()
    return load_run(train(config, Path(workdir)))


def evaluate(run: Run, split: str = "test") -> dict[str, float | np.ndarray]:
    """Metric to value of a run over one split of its data.

    Args:
        run: from `fit` or `load_run`, or its directory.
        split: 'train', 'validation' or 'test'.
    """
    return _loaded(run).evaluate(split)


def predict(run: Run, images: Images) -> dict[str, np.ndarray]:
    """A run's answers for images; see `jaxdl.loaded.LoadedRun.predict`.

    Args:
        run: from `fit` or `load_run`, or its directory.
        images: (n, h, w, c), as the run's source stores them, or images of any sizes.
    """
    return _loaded(run).predict(images)


def _loaded(run: Run) -> LoadedRun:
    return run if isinstance(run, LoadedRun) else load_run(run)
