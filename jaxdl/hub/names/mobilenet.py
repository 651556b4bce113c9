"""MobileNet v2 and v3 as torchvision names them."""

from itertools import accumulate

from jaxdl.hub.convert import POINTWISE, Naming, publish
from jaxdl.models.mobilenet_v2 import STAGES
from jaxdl.models.mobilenet_v3 import VARIANTS, Row

# The stem is the first layer and the top the last; blocks in between are counted from 1.
_BEFORE = [0, *accumulate(blocks for *_, blocks in STAGES)]
V2 = (
    (r"^backbone/stem/conv", "features/0/0"),
    (r"^backbone/stem/norm", "features/0/1"),
    (r"^backbone/top/conv", f"features/{_BEFORE[-1] + 1}/0"),
    (r"^backbone/top/norm", f"features/{_BEFORE[-1] + 1}/1"),
    (r"^(backbone/stage1_block\d+)/", r"\1/first_"),  # it does not widen
    (
        r"^backbone/stage(\d)_block(\d+)",
        lambda m: f"features/{_BEFORE[int(m[1]) - 1] + int(m[2])}/conv",
    ),
    (r"first_depthwise_conv", "0/0"),
    (r"first_depthwise_norm", "0/1"),
    (r"first_project_conv", "1"),
    (r"first_project_norm", "2"),
    (r"expand_conv", "0/0"),
    (r"expand_norm", "0/1"),
    (r"depthwise_conv", "1/0"),
    (r"depthwise_norm", "1/1"),
    (r"project_conv", "2"),
    (r"project_norm", "3"),
    (r"^head/logits", "classifier/1"),
)


def v3(rows: tuple[Row, ...]) -> tuple:
    """A block of torchvision is a list of as many layers as it has."""
    rules = [
        (r"^backbone/stem/conv", "features/0/0"),
        (r"^backbone/stem/norm", "features/0/1"),
        (r"^backbone/top/conv", f"features/{len(rows) + 1}/0"),
        (r"^backbone/top/norm", f"features/{len(rows) + 1}/1"),
    ]
    inputs = 16
    for i, row in enumerate(rows, 1):
        parts = ["expand"] * (row.wide != inputs) + ["depthwise"]
        parts += ["squeeze_excite"] * row.squeeze + ["project"]
        for k, part in enumerate(parts):
            theirs = rf"features/{i}/block/{k}"
            rules += [
                (rf"^backbone/block{i}/{part}_conv", f"{theirs}/0"),
                (rf"^backbone/block{i}/{part}_norm", f"{theirs}/1"),
                (rf"^backbone/block{i}/{part}(?=/)", theirs),
            ]
        inputs = row.features
    return (
        *rules,
        (r"reduce$", "fc1", POINTWISE),
        (r"expand$", "fc2", POINTWISE),
        (r"^head/hidden", "classifier/0"),
        (r"^head/logits", "classifier/3"),
    )


publish("torchvision", ["mobilenet_v2"], Naming(V2))
for name, (rows, _) in VARIANTS.items():
    publish("torchvision", [name], Naming(v3(rows)))
