"""The Inception networks as torchvision and timm name them."""

import re
from collections.abc import Callable

from jaxdl.hub.convert import UNUSED, Naming, flattened, less, publish

UNIT = ((r"/norm$", "/bn"),)

# A branch of torchvision's GoogLeNet with one convolution is that, any other a list.
GOOGLENET = (
    *UNIT,
    (r"^backbone/stem_", ""),
    (r"^backbone/", ""),
    (r"branch1_conv1", "branch1"),
    (r"branch([23])_conv(?=\d)", r"branch\1/"),
    (r"(?<=branch[23]/)(\d)", less(1)),
    (r"branch4_conv1", "branch4/1"),
    (r"^auxiliary_(?=\d)", "aux"),
    (r"(?<=^aux)(\d)", less(-1)),
    (r"^(aux\d)/hidden", r"\1/fc1", flattened(4, 4)),
    (r"^(aux\d)/logits", r"\1/fc2"),
    (r"^head/logits", "fc"),
)


def _letter(group: int) -> Callable[[re.Match], str]:
    # Mixed_5a is the stem's pooling, Mixed_6a and Mixed_7a are the reductions.
    return lambda match: f"Mixed_{group}{chr(ord('a') + int(match[1]))}"


V3 = (
    *UNIT,
    (r"^backbone/stem_conv1", "Conv2d_1a_3x3"),
    (r"^backbone/stem_conv2", "Conv2d_2a_3x3"),
    (r"^backbone/stem_conv3", "Conv2d_2b_3x3"),
    (r"^backbone/stem_conv4", "Conv2d_3b_1x1"),
    (r"^backbone/stem_conv5", "Conv2d_4a_3x3"),
    (r"(?<=inception_a\d/)branch1_conv1", "branch1x1"),
    (r"(?<=inception_a\d/)branch2_conv", "branch5x5_"),
    (r"(?<=inception_a\d/)branch3_conv", "branch3x3dbl_"),
    (r"(?<=reduction_a/)branch1_conv1", "branch3x3"),
    (r"(?<=reduction_a/)branch2_conv", "branch3x3dbl_"),
    (r"(?<=inception_b\d/)branch1_conv1", "branch1x1"),
    (r"(?<=inception_b\d/)branch2_conv", "branch7x7_"),
    (r"(?<=inception_b\d/)branch3_conv", "branch7x7dbl_"),
    (r"(?<=reduction_b/)branch1_conv", "branch3x3_"),
    (r"(?<=reduction_b/)branch2_conv", "branch7x7x3_"),
    (r"(?<=inception_c\d/)branch1_conv1", "branch1x1"),
    (r"(?<=inception_c\d/)branch2_conv", "branch3x3_"),
    (r"(?<=inception_c\d/)branch3_conv", "branch3x3dbl_"),
    (r"branch4_conv1", "branch_pool"),
    (r"^backbone/inception_a(\d)", _letter(5)),
    (r"^backbone/inception_b(\d)", _letter(6)),
    (r"^backbone/inception_c(\d)", _letter(7)),
    (r"^backbone/reduction_a", "Mixed_6a"),
    (r"^backbone/reduction_b", "Mixed_7a"),
    (r"^auxiliary_0/conv1", "AuxLogits/conv0"),
    (r"^auxiliary_0/conv2", "AuxLogits/conv1"),
    (r"^auxiliary_0/logits", "AuxLogits/fc"),
    (r"^head/logits", "fc"),
)


def _from_zero(separator: str) -> Callable[[re.Match], str]:
    return lambda match: f"branch{int(match[1]) - 1}{separator}{int(match[2]) - 1}"


def _in_list(name: str, offset: int) -> Callable[[re.Match], str]:
    return lambda match: f"{name}/{int(match[1]) + offset}"


# timm's branch of one convolution is that, any other a list, its pooling included.
V4 = (
    *UNIT,
    (r"branch4_conv1", "branch3/1"),
    (r"(inception_.\d|reduction_a)/branch1_conv1", r"\1/branch0"),
    (r"(?<=inception_c\d/)branch(\d)_conv(\d)", _from_zero("_")),
    (r"^backbone/stem_mixed1/branch2_conv1", "features/3/conv"),
    (r"^backbone/stem_mixed3/branch1_conv1", "features/5/conv"),
    (r"branch(\d)_conv(\d)", _from_zero("/")),
    (r"^backbone/stem_conv(\d)", _in_list("features", -1)),
    (r"^backbone/stem_mixed2", "features/4"),
    (r"^backbone/inception_a(\d)", _in_list("features", 5)),
    (r"^backbone/reduction_a", "features/10"),
    (r"^backbone/inception_b(\d)", _in_list("features", 10)),
    (r"^backbone/reduction_b", "features/18"),
    (r"^backbone/inception_c(\d)", _in_list("features", 18)),
    (r"^head/logits", "last_linear"),
)
RESNET_V2 = (
    *UNIT,
    (r"^backbone/stem_conv1", "conv2d_1a"),
    (r"^backbone/stem_conv2", "conv2d_2a"),
    (r"^backbone/stem_conv3", "conv2d_2b"),
    (r"^backbone/stem_conv4", "conv2d_3b"),
    (r"^backbone/stem_conv5", "conv2d_4a"),
    (r"branch4_conv1", "branch3/1"),
    (r"(inception|residual_.\d+|reduction_a)/branch1_conv1", r"\1/branch0"),
    (r"branch(\d)_conv(\d)", _from_zero("/")),
    (r"expand$", "conv2d"),
    (r"^backbone/inception", "mixed_5b"),
    (r"^backbone/residual_a(\d+)", _in_list("repeat", -1)),
    (r"^backbone/reduction_a", "mixed_6a"),
    (r"^backbone/residual_b(\d+)", _in_list("repeat_1", -1)),
    (r"^backbone/reduction_b", "mixed_7a"),
    (r"^backbone/residual_c10", "block8"),
    (r"^backbone/residual_c(\d)", _in_list("repeat_2", -1)),
    (r"^backbone/top_conv1", "conv2d_7b"),
    (r"^head/logits", "classif"),
)

# A network without auxiliary heads takes weights with them too. Of timm's, some have none.
V3_UNUSED = rf"{UNUSED}|AuxLogits\..*"

publish("torchvision", ["googlenet"], Naming(GOOGLENET, ignored=rf"{UNUSED}|aux\d\..*"))
publish("torchvision", ["inception_v3"], Naming(V3, ignored=V3_UNUSED))
publish("timm", ["inception_v3"], Naming(V3, ignored=V3_UNUSED))
publish("timm", ["inception_v4"], Naming(V4))
publish("timm", ["inception_resnet_v2"], Naming(RESNET_V2))
