"""MLP-Mixers as timm names them."""

from jaxdl.hub.convert import Naming, publish
from jaxdl.models.mixer import VARIANTS

RULES = (
    (r"^backbone/patch_embed/project", "stem/proj"),
    (r"^backbone/blocks/(\d+)", r"blocks/\1"),
    (r"token_mlp/dense(\d)$", r"mlp_tokens/fc\1"),
    (r"feature_mlp/dense(\d)$", r"mlp_channels/fc\1"),
    (r"^backbone/norm$", "norm"),
    (r"^head/logits", "head"),
)

publish("timm", [*VARIANTS], Naming(RULES, stacked="backbone/blocks"))
