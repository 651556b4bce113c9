"""The baseline convolutional network: what the others have to beat.

    python -m jaxdl.main --config configs/cnn.py                   # scikit-learn's digits
    python -m jaxdl.main --config configs/cnn.py:mnist
    python -m jaxdl.main --config configs/cnn.py:cifar10

digits   99.4% test accuracy (98.6 to 100 over 3 seeds), half a minute on 2 CPU cores
mnist    not yet measured
cifar10  not yet measured

Very Deep Convolutional Networks. Simonyan, Zisserman 2014. https://arxiv.org/abs/1409.1556
"""

from jaxdl import datasets
from jaxdl.config import Config, Data, choose, part


def get_config(argument: str = "digits") -> Config:
    """The config for 'digits', 'mnist' or 'cifar10'."""
    return choose(argument, {"digits": digits, "mnist": mnist, "cifar10": cifar10})()


def digits() -> Config:
    """Half a minute on two CPU cores."""
    return Config(
        data=Data(source=part("digits"), batch_size=64),
        model=part("cnn"),
        optimizer=part("adamw", learning_rate=2e-3, weight_decay=0.05),
        augment=(part("random_crop", padding=1),),
        duration="30 epochs",
    )


def mnist() -> Config:
    """Minutes on two CPU cores."""
    return Config(
        data=datasets.mnist(),
        model=part("cnn"),
        optimizer=part("adamw", learning_rate=2e-3, weight_decay=0.05),
        augment=(part("random_crop", padding=2),),
        preprocess=(datasets.normalize("mnist"),),
        duration="5 epochs",
    )


def cifar10() -> Config:
    """With flips, crops and dropout."""
    return Config(
        data=datasets.cifar10(),
        model=part("cnn", widths=[64, 128, 256], drop_rate=0.2),
        optimizer=part("adamw", learning_rate=1e-3, weight_decay=0.05),
        augment=(part("random_crop", padding=4), part("random_flip")),
        preprocess=(datasets.normalize("cifar10"),),
        duration="60 epochs",
    )
