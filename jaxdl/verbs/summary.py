"""`jaxdl summary`."""

import json
from argparse import Namespace

from jaxdl import config_file
from jaxdl.config import Config, Part
from jaxdl.override import override
from jaxdl.verbs import IMPORTS, option, verb
from jaxdl.verbs.parsing import count, image_shape


@verb(
    option("model", help="a registered name; `jaxdl --list models` shows them"),
    option("--image", type=image_shape, metavar="HxWxC", help="default: the model's own"),
    option("--num-classes", type=count, metavar="N", help="default: its own"),
    option("--batch-size", type=count, default=1, metavar="N"),
    option("--depth", type=count, metavar="N", help="deeper layers in one row"),
    IMPORTS,
    option("--json", action="store_true", help="print rows and totals as JSON"),
    overrides="--model.",
)
def summary(options: Namespace) -> int:
    """Show shapes, parameters, multiply-adds and memory of a model, layer by layer.

    Its arguments are set as --model.width=64.
    """
    changes = [(f"model.{path}", value) for path, value in options.overrides]
    config = override(Config(model=Part(options.model)), changes)

    from jaxdl.assemble import import_user_module
    from jaxdl.perf import summary as layers

    for name in options.imports:
        import_user_module(name)
    shown = layers.summary(config.model, options.image, options.num_classes, options.batch_size)
    if options.depth:
        shown = shown.at_depth(options.depth)
    if options.json:
        tables = {"rows": config_file.to_dict(shown.rows), "totals": shown.totals()}
        print(json.dumps(tables, indent=2))
    else:
        print(layers.text(shown))
    return 0
