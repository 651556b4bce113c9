"""`jaxdl evaluate`."""

import json
from argparse import Namespace

from jaxdl.config import Config
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import prepare_jax


@verb(
    option("--split", default="test", help="train, validation, test, or one of evaluation.splits"),
    option("--json", action="store_true", help="print JSON"),
    config="or run",
)
def evaluate(options: Namespace, config: Config) -> int:
    """Measure weights on a split.

    Those of a run's newest checkpoint, or, with --config, those that a run would begin with: of
    --config.init_from.
    """
    prepare_jax()
    import numpy as np

    from jaxdl.loaded import load_run, load_start

    run = load_run(options.run, config=config) if options.run else load_start(config, options.split)
    found = run.evaluate(options.split)
    if options.json:
        print(json.dumps({k: v if isinstance(v, float) else v.tolist() for k, v in found.items()}))
    else:
        numbers = {k: v for k, v in found.items() if isinstance(v, float)}
        print("  ".join(f"{options.split}/{k} {v:.4f}" for k, v in numbers.items()))
        for name in found.keys() - numbers.keys():
            print(f"{options.split}/{name}\n{np.array2string(found[name], precision=4)}")
    return 0
