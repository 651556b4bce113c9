"""Parts that do not go together are refused, by name, before anything is built."""

import numpy as np
import pytest

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, part
from jaxdl.errors import UserError

TEXT = {
    "data": Data(source=part("reversal"), batch_size=16),
    "model": part("transformer", width=16, depth=1, heads=2, hidden=16),
    "objective": part("language"),
    "preprocess": (),
}
MAPS = {
    "data": Data(source=part("shapes", size=16, examples=64), batch_size=16),
    "model": part("unet", width=4, depth=1),
    "objective": part("segmentation"),
}


def measured(*names, predictors=()):
    metrics = tuple(part(n) for n in names)
    return Evaluation(
        metrics=metrics,
        monitor=f"validation/{names[0]}",
        predictors=tuple(part(p) for p in predictors),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**TEXT, "evaluation": measured("bleu")}, "predictors=generate"),
        ({**TEXT, "evaluation": measured("accuracy")}, "of each example"),
        ({"evaluation": measured("accuracy", predictors=["generate"])}, "of each token"),
        ({**MAPS, "augment": (part("mixup"),)}, None),
        ({**MAPS, "augment": (part("cutmix"),), "evaluation": measured("mean_iou")}, None),
        ({"augment": (part("cutmix"), part("cutmix"))}, "the last in config.augment"),
        ({"wrappers": (part("reduce_on_plateau"),), "optimizer": part(
            "schedule_free_adamw", learning_rate=1e-3)}, "reduce_on_plateau' would scale"),
    ],
    ids=str,
)  # fmt: skip
def test_misfits(changes, message):
    config = Config(**changes)
    if message is None:
        if "evaluation" not in changes:
            config = Config(**changes, evaluation=measured("mean_iou"))
        assemble(config)
        return
    with pytest.raises(UserError, match=message):
        assemble(config)


def test_what_is_of_bytes_is_refused_on_floats(own_registry):
    @registry.register("sources")
    def floats(split: str, /):
        return {"image": np.zeros((32, 8, 8, 3), np.float32), "label": np.arange(32) % 2}

    data = Data(source=part("floats"), batch_size=16)
    with pytest.raises(UserError, match="'color_jitter' is of bytes, and source 'floats' gives"):
        assemble(Config(data=data, augment=(part("color_jitter"),)))
    assemble(Config(data=data, augment=(part("random_flip"),)))
