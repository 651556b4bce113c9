"""ConvNeXt as torchvision and timm name it."""

from jaxdl.hub.convert import CHANNEL, Naming, publish
from jaxdl.models.convnext import VARIANTS

# A list of layers: the stem, then each stage with what halves the map before the next.
RULES = (
    (r"^backbone/stem_patches", "features/0/0"),
    (r"^backbone/stem_norm", "features/0/1"),
    (
        r"^backbone/stage(\d+)_block(\d+)",
        lambda m: f"features/{2 * int(m[1]) - 1}/{int(m[2]) - 1}/block",
    ),
    (r"^backbone/downsample(\d+)_norm", lambda m: f"features/{2 * int(m[1])}/0"),
    (r"^backbone/downsample(\d+)_patches", lambda m: f"features/{2 * int(m[1])}/1"),
    (r"block/depthwise", "block/0"),
    (r"block/norm", "block/2"),
    (r"block/dense1", "block/3"),
    (r"block/dense2", "block/5"),
    (r"block/layer_scale", "layer_scale", CHANNEL),
    (r"^head/norm", "classifier/0"),
    (r"^head/logits", "classifier/2"),
)

TIMM = (
    (r"^backbone/stem_patches", "stem/0"),
    (r"^backbone/stem_norm", "stem/1"),
    (
        r"^backbone/stage(\d+)_block(\d+)",
        lambda m: f"stages/{int(m[1]) - 1}/blocks/{int(m[2]) - 1}",
    ),
    (r"^backbone/downsample(\d+)_norm", r"stages/\1/downsample/0"),
    (r"^backbone/downsample(\d+)_patches", r"stages/\1/downsample/1"),
    (r"depthwise$", "conv_dw"),
    (r"dense(\d)$", r"mlp/fc\1"),
    (r"layer_scale$", "gamma"),
    (r"^head/logits", "head/fc"),
)

publish("torchvision", [*VARIANTS], Naming(RULES))
publish("timm", [*VARIANTS], Naming(TIMM))
