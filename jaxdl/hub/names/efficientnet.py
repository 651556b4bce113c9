"""EfficientNet as torchvision and timm name it.

Of timm the `efficientnet_b*`, not the `tf_efficientnet_b*`, whose padding is TensorFlow's. Its
norms have an epsilon of 1e-5 at every scale: from B5 on, weights of timm need norm=batch.
"""

from jaxdl.hub.convert import POINTWISE, Naming, less, publish
from jaxdl.models.efficientnet import NORMS, VARIANTS
from jaxdl.nn.norm import batch_norm

# A block of torchvision is a list of layers; the first block of the first stage does not widen.
RULES = (
    (r"^backbone/stem_conv", "features/0/0"),
    (r"^backbone/stem_norm", "features/0/1"),
    (r"^backbone/top_conv", "features/8/0"),
    (r"^backbone/top_norm", "features/8/1"),
    (r"^(backbone/stage1_block\d+)/", r"\1/first_"),
    (r"^backbone/stage(\d)_block", r"features/\1/block"),
    (r"(?<=/)block(\d+)", less(1)),
    (r"first_depthwise_conv", "block/0/0"),
    (r"first_depthwise_norm", "block/0/1"),
    (r"first_squeeze_excite", "block/1"),
    (r"first_project_conv", "block/2/0"),
    (r"first_project_norm", "block/2/1"),
    (r"expand_conv", "block/0/0"),
    (r"expand_norm", "block/0/1"),
    (r"depthwise_conv", "block/1/0"),
    (r"depthwise_norm", "block/1/1"),
    (r"squeeze_excite", "block/2"),
    (r"project_conv", "block/3/0"),
    (r"project_norm", "block/3/1"),
    (r"reduce$", "fc1", POINTWISE),
    (r"expand$", "fc2", POINTWISE),
    (r"^head/logits", "classifier/1"),
)

# timm numbers the norms of a block in their order; a block that does not widen is of another kind.
TIMM_BLOCK = (
    (r"/(?:first_)?squeeze_excite/reduce$", "/se/conv_reduce", POINTWISE),
    (r"/(?:first_)?squeeze_excite/expand$", "/se/conv_expand", POINTWISE),
    (r"first_depthwise_conv", "conv_dw"),
    (r"first_depthwise_norm", "bn1"),
    (r"first_project_conv", "conv_pw"),
    (r"first_project_norm", "bn2"),
    (r"expand_conv", "conv_pw"),
    (r"expand_norm", "bn1"),
    (r"depthwise_conv", "conv_dw"),
    (r"depthwise_norm", "bn2"),
    (r"project_conv", "conv_pwl"),
    (r"project_norm", "bn3"),
)
TIMM_STAGES = (
    (r"^(backbone/stage1_block\d+)/", r"\1/first_"),
    (r"^backbone/stage(\d)_block(\d+)", lambda m: f"blocks/{int(m[1]) - 1}/{int(m[2]) - 1}"),
    *TIMM_BLOCK,
)
TIMM = (
    (r"^backbone/stem_conv", "conv_stem"),
    (r"^backbone/stem_norm", "bn1"),
    (r"^backbone/top_conv", "conv_head"),
    (r"^backbone/top_norm", "bn2"),
    *TIMM_STAGES,
    (r"^head/logits", "classifier"),
)

publish("torchvision", [*VARIANTS], Naming(RULES))
for name in VARIANTS:
    needed = {} if NORMS[name] is batch_norm else {"norm": "batch"}
    publish("timm", [name], Naming(TIMM, arguments=needed))
