"""What torchvision and timm answer for weights drawn by name: writes `logits/ROW.npz`.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.28
    python tests/references/make_logits.py [ROW ...]

A file holds names and shapes of the reference's tensors (JSON), the logits of two images at the
network's own size in inference, and for each batch norm two probes of the statistics (mean and
biased variance) of a batch of four smaller images in training, dropout off. A row MODEL.PUBLISHER
is the same model by other names; it has no probes, as the model's own row has them.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fill import images, probe, tensor

# Where torch is built for the CPU alone, torchvision looks for operators that are not there.
_library = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402


class Reference(NamedTuple):
    """Where a model of ours is found, and how it is asked."""

    library: str
    name: str
    size: int = 224
    train_size: int = 96
    gain: float = 2.0
    arguments: dict[str, Any] = {}


# Our name -> the reference: one of every structure, whatever its depth or width; with a second
# publisher where its names are another map of ours.
MODELS = {
    "resnet18": Reference("torchvision", "resnet18"),
    "resnet50": Reference("torchvision", "resnet50"),
    "resnext50_32x4d": Reference("torchvision", "resnext50_32x4d"),
    "seresnet18": Reference("timm", "seresnet18"),
    "seresnext50_32x4d": Reference("timm", "seresnext50_32x4d", gain=1.0),
    "alexnet": Reference("torchvision", "alexnet"),
    "vgg11": Reference("torchvision", "vgg11"),
    "vgg11_bn": Reference("torchvision", "vgg11_bn"),
    "efficientnet_b0": Reference("torchvision", "efficientnet_b0"),
    "efficientnet_b5": Reference("torchvision", "efficientnet_b5", 456, gain=1.5),
    "vit_tiny_patch16_224": Reference("timm", "vit_tiny_patch16_224", train_size=224, gain=1.0),
    "mixer_s32_224": Reference("timm", "mixer_s32_224", train_size=224, gain=1.0),
    "googlenet": Reference("torchvision", "googlenet"),
    "inception_v3": Reference("torchvision", "inception_v3", 299, train_size=299),
    "inception_v4": Reference("timm", "inception_v4", 299, train_size=139),
    "inception_resnet_v2": Reference("timm", "inception_resnet_v2", 299),
    "xception": Reference("timm", "legacy_xception", 299, gain=1.4),
    "mobilenet_v1": Reference("timm", "mobilenetv1_100"),
    "mobilenet_v2": Reference("torchvision", "mobilenet_v2"),
    "mobilenet_v3_small": Reference("torchvision", "mobilenet_v3_small"),
    "densenet121": Reference("torchvision", "densenet121"),
    "convnext_tiny": Reference("torchvision", "convnext_tiny", gain=1.0),
    # The whole of it, 50 blocks, takes a minute to compile and to fill.
    "senet154": Reference("timm", "legacy_senet154", gain=1.0, arguments={"layers": [1, 2, 2, 1]}),
    "efficientnet_b0.timm": Reference("timm", "efficientnet_b0"),
    "mobilenet_v2.timm": Reference("timm", "mobilenetv2_100"),
    "mobilenet_v3_small.timm": Reference("timm", "mobilenetv3_small_100"),
    "convnext_tiny.timm": Reference("timm", "convnext_tiny", gain=1.0),
}


def build(reference: Reference) -> torch.nn.Module:
    """The reference in float64 with every tensor drawn by its name."""
    if reference.library == "torchvision":
        model = torchvision.models.get_model(reference.name, weights=None, **reference.arguments)
    else:
        model = timm.create_model(reference.name, pretrained=False, **reference.arguments)
    model = model.double()
    state = model.state_dict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(np.array(tensor(key, tuple(value.shape), reference.gain))))
    return model


def first(outputs: object) -> torch.Tensor:
    """The main logits of what a forward pass gives."""
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def batch_statistics(model: torch.nn.Module, batch: torch.Tensor) -> dict[str, np.ndarray]:
    """Mean and biased variance that each batch norm saw in a training-mode forward pass."""
    seen = {}

    def keep(name: str):
        def hook(module: torch.nn.Module, inputs: tuple) -> None:
            x = inputs[0].detach()
            axes = [0, *range(2, x.ndim)]
            seen[f"{name}.running_mean"] = x.mean(axes).numpy()
            seen[f"{name}.running_var"] = x.var(axes, unbiased=False).numpy()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(keep(name))
        if "Drop" in type(module).__name__ or "StochasticDepth" in type(module).__name__:
            for attribute in ("p", "drop_prob"):
                if hasattr(module, attribute):
                    setattr(module, attribute, 0.0)
        if getattr(module, "drop_rate", None):
            module.drop_rate = 0.0
    model.train()
    with torch.no_grad():
        model(batch)
    return seen


def main(names: list[str]) -> None:
    """Write one file a model."""
    folder = Path(__file__).parent / "logits"
    folder.mkdir(exist_ok=True)
    for row in names or MODELS:
        reference = MODELS[row]
        model = build(reference).eval()
        to_torch = lambda x: torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            logits = first(model(to_torch(images(2, reference.size)))).numpy()
        statistics = {}
        if "." not in row:
            statistics = batch_statistics(model, to_torch(images(4, reference.train_size)))
        shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
        shapes = {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")}
        np.savez_compressed(
            folder / f"{row}.npz",
            about=json.dumps(reference._asdict()),
            shapes=json.dumps(shapes),
            logits=logits.astype(np.float32),
            probed=np.array([[probe(k, v), np.linalg.norm(v)] for k, v in statistics.items()]),
            probes=json.dumps(list(statistics)),
        )
        spread = np.abs(logits[0] - logits[1]).max() / np.abs(logits).max()
        assert spread > 0.02 and np.isfinite(logits).all(), f"{row}: change the gain ({spread:.4f})"
        print(f"{row}: logits up to {np.abs(logits).max():.3g}, two images differ by {spread:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
