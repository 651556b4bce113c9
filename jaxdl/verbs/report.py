"""`jaxdl report`."""

from argparse import Namespace
from pathlib import Path

from jaxdl.corrections import run_like
from jaxdl.errors import UserError
from jaxdl.verbs import option, verb


@verb(option("run", type=Path, help="a run directory"))
def report(options: Namespace) -> int:
    """Write RUN/report.html anew."""
    from jaxdl.report import write_report

    if not options.run.is_dir():
        raise UserError(f"no run directory '{options.run}'", run_like(options.run))
    print(write_report(options.run))
    return 0
