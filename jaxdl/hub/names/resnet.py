"""Residual networks as torchvision, timm and the CIFAR collection of akamaster name them."""

from jaxdl.hub.convert import POINTWISE, Naming, less, publish
from jaxdl.models.resnet import BASIC, BOTTLENECK, CIFAR, NEXT

RULES = (
    (r"^backbone/stem_conv", "conv1"),
    (r"^backbone/stem_norm", "bn1"),
    (r"^backbone/stage(\d+)_block", r"layer\1/block"),
    (r"(?<=/)block(\d+)", less(1)),
    (r"norm(\d)$", r"bn\1"),
    (r"shortcut_conv$", "downsample/0"),
    (r"shortcut_norm$", "downsample/1"),
    (r"^head/logits", "fc"),
)
SQUEEZE = (
    (r"attention/reduce$", "se/fc1", POINTWISE),
    (r"attention/expand$", "se/fc2", POINTWISE),
)

# All but one.
TORCHVISION = [n for n in (*BASIC, *BOTTLENECK, *NEXT) if n != "resnext101_32x4d"]

publish("torchvision", TORCHVISION, Naming(RULES))
publish("timm", [*BASIC, *BOTTLENECK, *NEXT], Naming(RULES))
publish("timm", [f"se{n}" for n in (*BASIC, *BOTTLENECK, *NEXT)], Naming(RULES + SQUEEZE))
# https://github.com/akamaster/pytorch_resnet_cifar10
publish("akamaster", [*CIFAR], Naming((*RULES[:-1], (r"^head/logits", "linear"))))
