"""MobileNet v2 and v3 as torchvision and timm name them.

Of timm the `mobilenetv2_100`, `mobilenetv3_large_100` and `mobilenetv3_small_100`, not those with
`tf_`, whose padding is TensorFlow's. Its norms have an epsilon of 1e-5 where torchvision's v3 has
1e-3: weights of timm need norm=batch.
"""

from itertools import accumulate, groupby

from jaxdl.hub.convert import POINTWISE, Naming, publish
from jaxdl.hub.names.efficientnet import TIMM_BLOCK, TIMM_STAGES
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


TIMM_V2 = (
    (r"^backbone/stem/conv", "conv_stem"),
    (r"^backbone/stem/norm", "bn1"),
    (r"^backbone/top/conv", "conv_head"),
    (r"^backbone/top/norm", "bn2"),
    *TIMM_STAGES,
    (r"^head/logits", "classifier"),
)


def timm_v3(rows: tuple[Row, ...]) -> tuple:
    """A stage of timm is a run of blocks with the same features; the top is one more."""
    stages = [list(stage) for _, stage in groupby(rows, key=lambda row: row.features)]
    places = [f"blocks/{s}/{b}" for s, stage in enumerate(stages) for b in range(len(stage))]
    inputs = [16, *(row.features for row in rows)]
    blocks = []
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        first = "first_" if row.wide == inputs[i] else ""
        blocks.append((rf"^backbone/block{i + 1}/", f"{place}/{first}"))
    return (
        (r"^backbone/stem/conv", "conv_stem"),
        (r"^backbone/stem/norm", "bn1"),
        (r"^backbone/top/conv", f"blocks/{len(stages)}/0/conv"),
        (r"^backbone/top/norm", f"blocks/{len(stages)}/0/bn1"),
        *blocks,
        *TIMM_BLOCK,
        (r"^head/hidden", "conv_head", POINTWISE),
        (r"^head/logits", "classifier"),
    )


publish("torchvision", ["mobilenet_v2"], Naming(V2))
publish("timm", ["mobilenet_v2"], Naming(TIMM_V2))
for name, (rows, _) in VARIANTS.items():
    publish("torchvision", [name], Naming(v3(rows)))
    publish("timm", [name], Naming(timm_v3(rows), arguments={"norm": "batch"}))
