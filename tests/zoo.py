"""What the batteries know of each model: counts from elsewhere, and a small form to run."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxdl.train.materialize import materialize

# Compiling takes longer than running: without LLVM's optimisations it takes half as long, and half
# of that where XLA writes its loops itself instead of lowering them through MLIR.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
with contextlib.suppress(jax.errors.JaxRuntimeError):  # jax 0.12 knows no other way than MLIR
    _ITSELF = {"xla_cpu_use_fusion_emitters": False}
    jax.jit(lambda: 0, compiler_options=_ITSELF)()
    QUICK |= _ITSELF
quick = partial(jax.jit, compiler_options=QUICK)


def initial(init: Callable[..., Any], *args: Any) -> Any:
    """What an initialiser returns, drawn rather than compiled."""
    here = SingleDeviceSharding(jax.devices()[0])
    made = materialize(init, *args, shardings=lambda shapes: jax.tree.map(lambda _: here, shapes))
    return jax.tree.map(jnp.asarray, jax.device_get(made))  # bound to no device, as init's are


# Parameters with 1000 classes at 3 channels: torchvision's published counts, exactly.
GOLDEN = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "alexnet": 61_100_840,
    # By hand, 2012: 34,944 + 307,456 + 885,120 + 663,936 + 442,624 in the convolutions,
    # 37,752,832 + 16,781,312 + 4,097,000 behind them.
    "alexnet_lrn": 60_965_224,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    # Less the biases of torchvision's convolutions, which stand before a norm: we have none.
    "vgg11_bn": 132_868_840 - 2_752,
    "vgg13_bn": 133_053_736 - 2_944,
    "vgg16_bn": 138_365_992 - 4_224,
    "vgg19_bn": 143_678_248 - 5_504,
    "googlenet": 13_004_888,  # with its auxiliary heads, as inception_v3
    "inception_v3": 27_161_264,
    "xception": 22_855_952,  # timm's
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet": 5_288_548,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v1_025": 470_072,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch32_224": 88_224_232,
    "vit_large_patch16_224": 304_326_632,
    "mixer_s32_224": 19_104_624,
    "mixer_s16_224": 18_528_264,
    "mixer_b16_224": 59_880_472,
    "mixer_l16_224": 208_196_168,
}

# In millions, as timm's results-imagenet.csv prints them.
ROUNDED = {
    "resnext101_32x4d": "44.18",
    "inception_v4": "42.68",
    "inception_resnet_v2": "55.84",
    "xception": "22.86",
    "senet154": "115.09",
    "seresnet18": "11.78",
    "seresnet34": "21.96",
    "seresnet50": "28.09",
    "seresnet101": "49.33",
    "seresnet152": "66.82",
    "seresnext50_32x4d": "27.56",
    "seresnext101_32x4d": "48.96",
    "seresnext101_32x8d": "93.57",
    "seresnext101_64x4d": "88.23",
}

# One of each structure, walked with real numbers: image size, and arguments that make it small.
BUILT = {
    "mlp": (32, {}),
    "cnn": (32, {}),
    "composed": (16, {}),
    "lenet5": (32, {}),
    "alexnet": (
        32,
        {"width": 0.125, "kernel": 5, "stride": 1, "pool_size": 3, "hidden": 32},
    ),
    "alexnet_lrn": (
        32,
        {"width": 0.125, "kernel": 5, "stride": 1, "pool_size": 2, "hidden": 32},
    ),
    "vgg11": (32, {"width": 8, "hidden": 32, "pool_size": 1}),
    "vgg11_bn": (32, {"width": 8, "hidden": 32, "pool_size": 1}),
    "lenet1989": (16, {}),
    "fcn8s": (32, {"width": 4, "hidden": 8}),
    "unet": (16, {"width": 4, "depth": 2}),
    "segnet": (32, {"width": 4}),
    "resnet20": (32, {}),
    "resnet18": (32, {"width": 8, "depths": [1, 1]}),
    "resnet50": (32, {"width": 8, "depths": [1, 1]}),
    "seresnext50_32x4d": (32, {"width": 16, "depths": [1, 1], "groups": 4, "group_width": 16}),
    "googlenet": (32, {"stem": "cifar", "width": 0.05}),
    "bn_inception": (32, {"width": 0.05}),
    "inception_v3": (75, {"width": 0.05, "depths": (1, 1, 1)}),
    "inception_v4": (75, {"width": 0.05, "depths": (1, 1, 1)}),
    "inception_resnet_v1": (75, {"width": 0.05, "depths": (1, 1, 1)}),
    "inception_resnet_v2": (75, {"width": 0.05, "depths": (1, 1, 2)}),
    "xception": (32, {"width": 0.05, "depth": 1}),
    "efficientnet_b0": (32, {"width": 0.25, "depth": 0.5}),
    "mobilenet_v1": (16, {"width": 0.25}),
    "mobilenet_v2": (16, {"width": 0.25}),
    "mobilenet_v3_small": (16, {"width": 0.25}),
    "densenet_cifar": (16, {"depth": 10, "growth": 4}),
    "convnext_tiny": (16, {"depths": [1, 1], "width": 8}),
    "senet154": (16, {"depths": [1, 1], "width": 8, "groups": 4, "stem": "cifar"}),
    "vit_tiny_patch16_224": (32, {"patch_size": 8, "width": 24, "depth": 3}),
    "mixer_s32_224": (32, {"patch_size": 8, "width": 24, "depth": 3, "drop_path": 0.1}),
}
