"""DenseNet as torchvision and timm name it."""

from jaxdl.hub.convert import Naming, publish
from jaxdl.models.densenet import VARIANTS

RULES = (
    (r"^backbone/stem_conv", "features/conv0"),
    (r"^backbone/stem_norm", "features/norm0"),
    (r"^backbone/block(\d+)_layer(\d+)", r"features/denseblock\1/denselayer\2"),
    (r"^backbone/transition", "features/transition"),
    (r"^backbone/top_norm", "features/norm5"),
    (r"^head/logits", "classifier"),
)

publish("torchvision", [*VARIANTS], Naming(RULES))
publish("timm", [*VARIANTS], Naming(RULES))
