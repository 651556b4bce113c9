"""Vision transformers as timm names them."""

from jaxdl.hub.convert import DENSE_IN, DENSE_OUT, Naming, publish
from jaxdl.models.vit import VARIANTS

RULES = (
    (r"^backbone/patch_embed/project", "patch_embed/proj"),
    (r"^backbone/class_token/token", "cls_token"),
    (r"^backbone/position_embed/positions", "pos_embed"),
    (r"^backbone/blocks/(\d+)", r"blocks/\1"),
    (r"attention/qkv$", "attn/qkv", DENSE_OUT),
    (r"attention/out$", "attn/proj", DENSE_IN),
    (r"mlp/dense(\d)$", r"mlp/fc\1"),
    (r"^backbone/norm$", "norm"),
    (r"^head/logits", "head"),
)

publish("timm", [*VARIANTS], Naming(RULES, stacked="backbone/blocks"))
