"""Resume an old run to its end on one device, then look at it with the verbs: a process of its own.

    python resume.py WORKDIR ARRAYS [--command-line]

Started in the run's folder, to which paths in its config are relative. ARRAYS is the .npz file that
gets the arrays of `reached.arrays_of`; the exit status is 0 if all went well. What `evaluate` has
measured is printed as JSON, one line for each directory.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reached import arrays_of

from jaxdl import run as single
from jaxdl.config_file import load
from jaxdl.main import main as program
from jaxdl.population import run as population
from jaxdl.verbs.parsing import prepare_jax


def main(argv: Sequence[str] | None = None) -> int:
    """Resume, write the arrays, evaluate and report; the first status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("arrays", type=Path)
    parser.add_argument("--command-line", action="store_true", help="resume by `jaxdl --config`")
    options = parser.parse_args(argv)
    workdir = options.workdir
    members = sorted((workdir / "members").glob("*"))
    # As it was left: old numbers and an old manifest, and no page yet.
    if status := program(["report", str(workdir)]):
        return status
    if options.command_line:
        file = workdir / "config.json"
        if status := program(["--config", str(file), "--workdir", str(workdir)]):
            return status
    else:
        prepare_jax()
        config = load(str(workdir / "config.json"))
        (population if config.population else single).run(config, workdir)
    np.savez(options.arrays, **arrays_of(workdir))
    verbs = [["evaluate", str(run), "--json"] for run in members or [workdir]]
    verbs += [["report", str(run)] for run in [workdir, *members[:1]]]
    return next((status for verb in verbs if (status := program(verb))), 0)


if __name__ == "__main__":
    sys.exit(main())
