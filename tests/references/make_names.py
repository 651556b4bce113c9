"""What torchvision and timm call their tensors, and their shapes: writes `names.json`.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.28
    python tests/references/make_names.py

Publisher and model of ours -> a digest of names and shapes, of each model that we and they have.
Not here are those of theirs that compute something else: timm's `senet154`, with another pooling,
and its `tf_efficientnet_b0` and the like, with another padding.
"""

import json
from pathlib import Path

import torch
from digest import digest
from make_logits import timm, torchvision

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RESNEXTS = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
ALIKE = (
    *RESNETS,
    *RESNEXTS,
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"efficientnet_b{i}" for i in range(8)),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    "inception_v3",
)
TORCHVISION = (
    *ALIKE,
    *("alexnet", "googlenet"),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
)
# Ours -> timm's name, where it is another.
RENAMED = {
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "senet154": "legacy_senet154",
    "xception": "legacy_xception",
}
TIMM = (
    *ALIKE,
    *RENAMED,
    "resnext101_32x4d",
    *(f"se{name}" for name in (*RESNETS, *RESNEXTS, "resnext101_32x4d")),
    *("inception_v4", "inception_resnet_v2"),
    *(f"mixer_{size}_224" for size in ("s32", "s16", "b16", "l16")),
    *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
    "vit_base_patch32_224",
)
# Arguments without which a model has less than its weights.
WHOLE = {"inception_v3": {"aux_logits": True}}


def digest_of(model: torch.nn.Module) -> str:
    """Of all tensors but the counters."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return digest({n: s for n, s in shapes.items() if not n.endswith("num_batches_tracked")})


def main() -> None:
    """Build every model without memory and write one line for each."""
    found = {}
    with torch.device("meta"):
        for name in TORCHVISION:
            model = torchvision.models.get_model(name, weights=None, **WHOLE.get(name, {}))
            found[f"torchvision/{name}"] = digest_of(model)
        for name in TIMM:
            model = timm.create_model(RENAMED.get(name, name), **WHOLE.get(name, {}))
            found[f"timm/{name}"] = digest_of(model)
    path = Path(__file__).parent / "names.json"
    path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
    print(f"{path.name}: {len(found)} models")


if __name__ == "__main__":
    main()
