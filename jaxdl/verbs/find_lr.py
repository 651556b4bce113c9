"""`jaxdl find-lr`."""

from argparse import Namespace

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, figure, positive, prepare_jax, writing


@verb(
    option("--low", type=positive, default=1e-6, metavar="RATE", help="default: 1e-6"),
    option("--high", type=positive, default=10.0, metavar="RATE", help="default: 10"),
    option("--steps", type=count, default=100, metavar="N", help="default: 100"),
    option("--out", type=figure, metavar="FILE", help="draw the loss: .png, .svg or .pdf"),
    config="required",
)
def find_lr(options: Namespace, config: Config) -> int:
    """Raise the learning rate step by step, and see where the loss falls and diverges."""
    prepare_jax()
    from jaxdl.research.lr_finder import find_learning_rate, plot

    test = find_learning_rate(config, low=options.low, high=options.high, steps=options.steps)
    if options.out:
        with writing(options.out):
            plot(test, options.out)
        print(options.out)
    print(f"the loss falls fastest at {test.steepest:.2g}, and is least at {test.lowest:.2g}")
    print(f"try --config.optimizer.learning_rate={min(test.steepest, test.lowest / 10):.2g}")
    return 0
