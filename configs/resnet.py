"""Residual networks: the CIFAR family (20, 32, 44, 56, 110) and the ImageNet one (18 to 152).

    python -m jaxdl.main --config configs/resnet.py                # ResNet-20 on digits
    python -m jaxdl.main --config configs/resnet.py:mnist
    python -m jaxdl.main --config configs/resnet.py:cifar10        # ResNet-20, the paper's recipe
    python -m jaxdl.main --config configs/resnet.py:cifar10,56     # any depth of either family
    python -m jaxdl.main --config configs/resnet.py:imagenet,50

digits    98.9% test accuracy (98.1 to 99.7 over 3 seeds), under a minute on 2 CPU cores
cifar10   91.25% (20), 92.49% (32), 93.03% (56) in the paper's table 6, 64k steps of 128 images;
          here 79.7% after 10 epochs on a JPEG copy (docs/log.md), in full not yet measured
mnist     not yet measured
imagenet  75.3% top-1 (50) in the paper, 76.1% torchvision: not yet measured

Deep Residual Learning for Image Recognition. He, Zhang, Ren, Sun 2015.
https://arxiv.org/abs/1512.03385
"""

from jaxdl import datasets
from jaxdl.config import Config, Data, Evaluation, choose, part

CIFAR_DEPTHS = ("20", "32", "44", "56", "110")
IMAGENET_DEPTHS = ("18", "34", "50", "101", "152")


def get_config(argument: str = "digits") -> Config:
    """The config for 'data' or 'data,depth': digits, mnist, cifar10 or imagenet."""
    data, _, depth = argument.partition(",")
    make = choose(
        data, {"digits": digits, "mnist": mnist, "cifar10": cifar10, "imagenet": imagenet}
    )
    depth = depth or ("50" if data == "imagenet" else "20")
    choose(depth, dict.fromkeys(CIFAR_DEPTHS + IMAGENET_DEPTHS))
    small = data != "imagenet" and depth in IMAGENET_DEPTHS
    return make(part(f"resnet{depth}", **({"stem": "cifar"} if small else {})))


def digits(model) -> Config:
    """Under a minute on two CPU cores."""
    return Config(
        data=Data(source=part("digits"), batch_size=64),
        model=model,
        optimizer=part("sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
        augment=(part("random_crop", padding=1),),
        duration="30 epochs",
    )


def mnist(model) -> Config:
    """Some minutes on two CPU cores."""
    return Config(
        data=datasets.mnist(),
        model=model,
        optimizer=part("sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
        augment=(part("random_crop", padding=2),),
        preprocess=(datasets.normalize("mnist"),),
        duration="5 epochs",
    )


def cifar10(model) -> Config:
    """Section 4.2: batch 128, rate 0.1 divided by 10 at 32k and 48k of 64k steps."""
    return Config(
        data=datasets.cifar10(batch_size=128, evaluation_batch_size=1000),
        model=model,
        optimizer=part("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=part("step", milestones=[50, 75], factor=0.1),
        augment=(part("random_crop", padding=4), part("random_flip")),
        preprocess=(datasets.normalize("cifar10"),),
        duration="64000 steps",
    )


def imagenet(model) -> Config:
    """Section 3.4 with a warmup and a cosine: batch 1024 over several devices."""
    return Config(
        data=datasets.imagenet(),
        model=model,
        optimizer=part("sgd", learning_rate=0.4, momentum=0.9, nesterov=True, weight_decay=1e-4),
        schedule=part("warmup_cosine", warmup="5 epochs"),
        augment=(part("random_flip"),),
        preprocess=(datasets.normalize("imagenet"),),
        evaluation=Evaluation(
            metrics=(part("accuracy"), part("top_k", k=5), part("cross_entropy"))
        ),
        duration="90 epochs",
    )
