"""Verbs to ask before a run: plot-schedule, find-lr, find-batch-size, memory."""

from pathlib import Path

from jaxdl.errors import UserError
from jaxdl.verbs.parsing import before_a_run, count, figure, positive, prepare_jax, writing


def plot_schedule(arguments: list[str]) -> int:
    """Draw the learning rate of each step of a run."""
    options, config = before_a_run(
        arguments,
        "plot-schedule",
        "Draw the learning rate of each step of a run.",
        out={
            "type": figure, "default": Path("schedule.png"), "metavar": "FILE",
            "help": ".png, .svg or .pdf; default: schedule.png",
        },
        examples={"type": count, "metavar": "N", "help": "of an epoch; default: ask the data"},
    )  # fmt: skip
    from jaxdl.research.schedule_plot import plot

    with writing(options.out):
        plot({options.config: config}, options.out, examples=options.examples)
    print(options.out)
    return 0


def find_lr(arguments: list[str]) -> int:
    """Try a range of learning rates."""
    options, config = before_a_run(
        arguments,
        "find-lr",
        "Raise the learning rate step by step, and see where the loss falls and flies.",
        low={"type": positive, "default": 1e-6, "metavar": "RATE", "help": "default: 1e-6"},
        high={"type": positive, "default": 10.0, "metavar": "RATE", "help": "default: 10"},
        steps={"type": count, "default": 100, "metavar": "N", "help": "default: 100"},
        out={"type": figure, "metavar": "FILE", "help": "draw the loss: .png, .svg or .pdf"},
    )
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


def find_batch_size(arguments: list[str]) -> int:
    """Try larger and larger batches."""
    options, config = before_a_run(
        arguments,
        "find-batch-size",
        "Double the batch until a step does not fit into the memory of a device.",
        share={"type": positive, "default": 0.9, "help": "of a device's memory; default: 0.9"},
        largest={"type": count, "default": 65536, "metavar": "N", "help": "default: 65536"},
    )
    prepare_jax()
    from jaxdl.perf.batch_size import find_batch_size
    from jaxdl.perf.memory import in_words

    best = None
    for trial in find_batch_size(config, share=options.share, largest=options.largest):
        memory = in_words(trial.bytes) if trial.bytes else "not compiled"
        fits = trial.seconds is not None
        speed = f"{trial.batch_size / trial.seconds:,.0f} examples/s" if fits else "does not fit"
        print(f"batch {trial.batch_size:>6}  {memory:>12}  {speed}", flush=True)
        best = trial.batch_size if fits else best
    if best is None:
        raise UserError("not even the smallest batch fits: see `jaxdl memory`")
    print(f"the largest {'tried' if fits else 'that fits'}: --config.data.batch_size={best}")
    return 0


def memory(arguments: list[str]) -> int:
    """Estimate what a step takes."""
    options, config = before_a_run(
        arguments,
        "memory",
        "Estimate, without compiling, what a step takes, and what would make it fit.",
        limit={"type": positive, "metavar": "GIB", "help": "of a device; default: what it has"},
    )
    from jaxdl.assemble import GIB, assemble
    from jaxdl.perf.memory import advice, limit, placed

    available, plan = int(options.limit * GIB) if options.limit else limit(), assemble(config)
    print(advice(config, plan, available))
    if plan.mesh.size > 1:
        first, *rows = placed(plan.abstract_state(config.seed))
        print("\n".join([f"state: {first}", *(f"  {row}" for row in rows)]))
    return 0
