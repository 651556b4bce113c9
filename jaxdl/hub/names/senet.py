"""SENet-154 as timm names it."""

from jaxdl.hub.convert import POINTWISE, Naming, less, publish

RULES = (
    (r"^backbone/stem(\d)/conv", r"layer0/conv\1"),
    (r"^backbone/stem(\d)/norm", r"layer0/bn\1"),
    (r"^backbone/stage(\d+)_block", r"layer\1/block"),
    (r"(?<=/)block(\d+)", less(1)),
    (r"unit(\d)/conv", r"conv\1"),
    (r"unit(\d)/norm", r"bn\1"),
    (r"shortcut/conv", "downsample/0"),
    (r"shortcut/norm", "downsample/1"),
    (r"attention/reduce$", "se_module/fc1", POINTWISE),
    (r"attention/expand$", "se_module/fc2", POINTWISE),
    (r"^head/logits", "last_linear"),
)

publish("timm", ["senet154"], Naming(RULES))
