"""`jaxdl plot-schedule`."""

from argparse import Namespace
from pathlib import Path

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, figure, writing


@verb(
    option(
        "--out", type=figure, default=Path("schedule.png"), metavar="FILE",
        help=".png, .svg or .pdf; default: schedule.png",
    ),
    option("--examples", type=count, metavar="N", help="of an epoch; default: ask the data"),
    config="required",
)  # fmt: skip
def plot_schedule(options: Namespace, config: Config) -> int:
    """Draw the learning rate of each step of a run."""
    from jaxdl.research.schedule_plot import plot

    with writing(options.out):
        plot({options.config: config}, options.out, examples=options.examples)
    print(options.out)
    return 0
