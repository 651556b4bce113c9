"""EfficientNet as torchvision names it."""

from jaxdl.hub.convert import POINTWISE, Naming, less, publish
from jaxdl.models.efficientnet import VARIANTS

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

publish("torchvision", [*VARIANTS], Naming(RULES))
