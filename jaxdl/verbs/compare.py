"""`jaxdl compare`."""

from argparse import Namespace
from pathlib import Path

from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import writing


@verb(
    option("runs", nargs="+", type=Path, metavar="RUN", help="run directories, or of populations"),
    option(
        "--output", type=Path, default=Path("comparison.html"), metavar="FILE",
        help="the page; default: comparison.html",
    ),
)  # fmt: skip
def compare(options: Namespace) -> int:
    """Compare runs on one page: settings that differ, results, curves.

    The best first, by the metric that the first run is judged by. Runs that differ by nothing but
    the seed are one variant, of which the page gives means.
    """
    from jaxdl.report.comparison import write_comparison

    with writing(options.output):
        lines = write_comparison(options.runs, options.output)
    print("\n".join(lines))
    print(f"{options.output}  (open it in a browser)")
    return 0
