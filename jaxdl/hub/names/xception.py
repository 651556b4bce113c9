"""Xception as timm names it, after the PyTorch port of the author's weights."""

import re

from jaxdl.hub.convert import Naming, publish


def _in_list(match: re.Match) -> str:
    # A block is the list (activation, separable, norm) * n; the first lacks its first activation.
    block, number, layer = match.groups()
    index = 3 * int(number) - 2 - (block == "1")
    part = {"depthwise_conv": f"{index}/conv1", "pointwise_conv": f"{index}/pointwise"}
    return f"block{block}/rep/{part.get(layer, index + 1)}"


RULES = (
    (r"^backbone/", ""),
    (r"^stem_conv(\d)/conv", r"conv\1"),
    (r"^stem_conv(\d)/norm", r"bn\1"),
    (r"^block(\d+)/separable(\d)/(\w+)", _in_list),
    (r"shortcut/conv", "skip"),
    (r"shortcut/norm", "skipbn"),
    (r"^top1/pointwise_norm", "bn3"),
    (r"^top2/pointwise_norm", "bn4"),
    (r"^top1/depthwise_conv", "conv3/conv1"),
    (r"^top2/depthwise_conv", "conv4/conv1"),
    (r"^top1/pointwise_conv", "conv3/pointwise"),
    (r"^top2/pointwise_conv", "conv4/pointwise"),
    (r"^head/logits", "fc"),
)

publish("timm", ["xception"], Naming(RULES))
