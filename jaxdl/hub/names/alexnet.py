"""AlexNet as torchvision names it."""

from jaxdl.hub.convert import Naming, flattened, publish

RULES = (
    (r"^backbone/conv1", "features/0"),
    (r"^backbone/conv2", "features/3"),
    (r"^backbone/conv3", "features/6"),
    (r"^backbone/conv4", "features/8"),
    (r"^backbone/conv5", "features/10"),
    (r"^backbone/fc6", "classifier/1", flattened(6, 6)),
    (r"^backbone/fc7", "classifier/4"),
    (r"^head/logits", "classifier/6"),
)

publish("torchvision", ["alexnet"], Naming(RULES))
