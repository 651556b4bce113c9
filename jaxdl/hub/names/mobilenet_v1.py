"""MobileNet v1 as timm and Keras name it."""

from itertools import accumulate

from jaxdl.hub.convert import (
    KERAS,
    KERAS_DEPTHWISE,
    KERAS_NORM,
    KERAS_POINTWISE,
    Naming,
    publish,
)
from jaxdl.models.mobilenet_v1 import STAGES, VARIANTS

TIMM = (
    (r"^backbone/stem/conv", "conv_stem"),
    (r"^backbone/stem/norm", "bn1"),
    (r"^backbone/stage(\d+)_block(\d+)", lambda m: f"blocks/{int(m[1]) - 1}/{int(m[2]) - 1}"),
    (r"depthwise_conv", "conv_dw"),
    (r"depthwise_norm", "bn1"),
    (r"pointwise_conv", "conv_pw"),
    (r"pointwise_norm", "bn2"),
    (r"^head/logits", "classifier"),
)
# Keras counts the blocks from 1, whatever their stage.
_BEFORE = [0, *accumulate(blocks for _, blocks in STAGES)]
AUTHORS = (
    (r"^backbone/stem/conv", "conv1"),
    (r"^backbone/stem/norm", "conv1_bn", KERAS_NORM),
    (r"^backbone/stage(\d+)_block(\d+)", lambda m: str(_BEFORE[int(m[1]) - 1] + int(m[2]))),
    (r"^(\d+)/depthwise_conv", r"conv_dw_\1", KERAS_DEPTHWISE),
    (r"^(\d+)/depthwise_norm", r"conv_dw_\1_bn", KERAS_NORM),
    (r"^(\d+)/pointwise_conv", r"conv_pw_\1"),
    (r"^(\d+)/pointwise_norm", r"conv_pw_\1_bn", KERAS_NORM),
    (r"^head/logits", "conv_preds", KERAS_POINTWISE),
)

publish("timm", ["mobilenet_v1"], Naming(TIMM))
publish("keras", [*VARIANTS], Naming(AUTHORS, KERAS))
