"""EfficientNet-B0 on real images, from a laptop's CPU to a TPU.

    python -m jaxdl.main --config configs/efficientnet.py               # scikit-learn's digits
    python -m jaxdl.main --config configs/efficientnet.py:cifar10
    python -m jaxdl.main --config configs/efficientnet.py:imagenet

digits    99.3% test accuracy (98.9 to 99.7 over 3 seeds), 2.7 minutes on 2 CPU cores, 4M parameters
cifar10   the paper's recipe on 32x32 images, for one GPU or TPU: not yet measured
imagenet  77.1% top-1 in the paper (77.7% torchvision), TPU v3-8 or more: not yet measured

EfficientNet: Rethinking Model Scaling for CNNs. Tan, Le 2019. https://arxiv.org/abs/1905.11946
"""

from jaxdl import datasets
from jaxdl.config import Checkpoint, Config, Data, Evaluation, choose, part

# The paper's strides shrink an image 32 times. Here the stem and two stages halve the map, so that
# the last convolutions still see one: 16 -> 8 -> 4 -> 2.
DIGITS_STRIDES = (2, 1, 1, 2, 2, 1, 1, 1)
# On 32x32 CIFAR images: 32 -> 32 -> 16 -> 8 -> 4.
CIFAR_STRIDES = (1, 1, 1, 2, 2, 1, 2, 1)


def get_config(argument: str = "digits") -> Config:
    """The config for 'digits', 'cifar10' or 'imagenet'."""
    return choose(argument, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})()


def digits() -> Config:
    """Minutes on two CPU cores: 8x8 images enlarged to 16x16."""
    return Config(
        data=Data(source=part("digits", size=16), batch_size=32),
        model=part("efficientnet_b0", strides=DIGITS_STRIDES),
        optimizer=part("adamw", learning_rate=3e-3, weight_decay=0.05),
        schedule=part("warmup_cosine", warmup="10%"),
        preprocess=(part("normalize", mean=[0.305], std=[0.376]),),
        augment=(part("random_crop", padding=1),),
        duration="20 epochs",
        average=part("ema", decay=0.99),
        evaluation=Evaluation(every="2 epochs"),
        checkpoint=Checkpoint(every="5 epochs"),
    )


def paper(batch_size: int, **fields) -> Config:
    """Section 5.2: TensorFlow's RMSProp, learning rate 0.256 at batch 4096."""
    return Config(
        objective=part("supervised", loss=part("cross_entropy", label_smoothing=0.1)),
        optimizer=part(
            "rmsprop",
            learning_rate=0.016 * batch_size / 256,
            rho=0.9,
            momentum=0.9,
            eps=1e-3,
            eps_in_sqrt=True,
            initial=1.0,
            weight_decay=1e-5,
        ),
        schedule=part("exponential", rate=0.97, every="2.4 epochs", warmup="5 epochs"),
        duration="350 epochs",
        precision=part("bfloat16"),
        average=part("ema", decay=0.9999),
        **fields,
    )


def cifar10() -> Config:
    """CIFAR-10 at its own size."""
    return paper(
        batch_size=512,
        data=datasets.cifar10(batch_size=512, evaluation_batch_size=1000),
        model=part("efficientnet_b0", strides=CIFAR_STRIDES),
        augment=(part("random_crop", padding=4), part("random_flip")),
        preprocess=(datasets.normalize("cifar10"),),
    )


def imagenet() -> Config:
    """ImageNet at 224x224. The paper adds AutoAugment."""
    return paper(
        batch_size=1024,
        data=datasets.imagenet(),
        model=part("efficientnet_b0"),
        augment=(part("random_flip"),),
        preprocess=(datasets.normalize("imagenet"),),
        evaluation=Evaluation(
            metrics=(part("accuracy"), part("top_k", k=5), part("cross_entropy"))
        ),
    )
