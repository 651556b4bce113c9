"""Semantic segmentation: a class for each pixel, judged by the mean intersection over union.

    python -m jaxdl.main --config configs/segmentation.py                  # drawn shapes, U-Net
    python -m jaxdl.main --config configs/segmentation.py:camvid           # SegNet
    python -m jaxdl.main --config configs/segmentation.py:camvid,fcn8s     # or unet, fcn16s, fcn32s

shapes  87.2% test mean IoU, 98.0% of pixels (1 seed), 1.5 minutes on 2 CPU cores, 121k parameters;
        saying 'ground' everywhere would be 19.1% and 76.3%
camvid  not yet measured: 11 classes on roads at 120x160, for a GPU; void pixels count for nothing

U-Net: Convolutional Networks for Biomedical Image Segmentation. Ronneberger, Fischer, Brox 2015.
https://arxiv.org/abs/1505.04597
SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation. Badrinarayanan,
Kendall, Cipolla 2015. https://arxiv.org/abs/1511.00561
"""

from jaxdl import datasets
from jaxdl.config import Config, Data, Evaluation, Part, choose, part

NETWORKS = ("segnet", "unet", "fcn8s", "fcn16s", "fcn32s")
EVALUATION = Evaluation(
    metrics=(part("mean_iou"), part("pixel_accuracy")), monitor="validation/mean_iou"
)


def get_config(argument: str = "shapes") -> Config:
    """The config for 'shapes', or for 'camvid' and 'camvid,network'."""
    data, _, network = argument.partition(",")
    make = choose(data, {"shapes": shapes, "camvid": camvid})
    network = network or {"shapes": "unet", "camvid": "segnet"}[data]
    return make(choose(network, {name: part(name) for name in NETWORKS}))


def shapes(model: Part) -> Config:
    """A small U-Net, or any other of the networks as it is."""
    if model.name == "unet":
        model = part("unet", width=8, depth=3, norm="batch", drop_rate=0.0)
    return Config(
        data=Data(source=part("shapes"), batch_size=16),
        model=model,
        objective=part("segmentation"),
        optimizer=part("adamw", learning_rate=3e-3, weight_decay=0.01),
        augment=(part("random_flip"), part("random_crop", padding=4)),
        duration="12 epochs",
        evaluation=EVALUATION,
    )


def camvid(model: Part) -> Config:
    """SegNet as in its paper, SGD at 0.1 in batches of 12; with a cosine, without class weights."""
    return Config(
        data=Data(
            source=part(
                "tfds", dataset="camvid_small", label="segmentation_mask", num_classes=11, void=11
            ),
            batch_size=12,
            evaluation_batch_size=24,
        ),
        model=model,
        objective=part("segmentation"),
        optimizer=part("sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
        if model.name == "segnet"
        else part("adamw", learning_rate=3e-4, weight_decay=0.01),
        schedule=part("warmup_cosine", warmup="5%"),
        augment=(part("random_flip"), part("random_crop", padding=8)),
        preprocess=(datasets.normalize("imagenet"),),
        duration="100 epochs",
        evaluation=EVALUATION,
    )
