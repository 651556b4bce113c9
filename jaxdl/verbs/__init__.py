"""What `jaxdl VERB` does besides training: a function of the arguments after the verb, for each."""

from collections.abc import Callable

from jaxdl.verbs import before, bench, finished, nonfinite, probe, scale, several

VERBS: dict[str, Callable[[list[str]], int]] = {
    "bench": bench.bench,
    "evaluate": finished.evaluate,
    "export": finished.export,
    "report": finished.report,
    "summary": finished.summary,
    "profile": bench.profile,
    "probe": probe.probe,
    "plot-schedule": before.plot_schedule,
    "find-lr": before.find_lr,
    "find-batch-size": before.find_batch_size,
    "find-nan": nonfinite.find_nan,
    "memory": before.memory,
    "scale": scale.scale,
    "trials": several.trials,
}
