"""VGG as torchvision names it: all layers of the stages in one list, poolings included."""

from jaxdl.hub.convert import Naming, flattened, publish
from jaxdl.models.vgg import VARIANTS

DENSE = (
    (r"^backbone/fc6", "classifier/0", flattened(7, 7)),
    (r"^backbone/fc7", "classifier/3"),
    (r"^head/logits", "classifier/6"),
)


def rules(depths: tuple[int, ...], with_norm: bool) -> tuple[tuple, ...]:
    """Names of the convolutions and norms; an activation follows each, a pooling each stage."""
    found, place = [], 0
    for i, depth in enumerate(depths, 1):
        for j in range(1, depth + 1):
            found.append((f"^backbone/conv{i}_{j}$", f"features/{place}"))
            found.append((f"^backbone/norm{i}_{j}$", f"features/{place + 1}"))
            place += 3 if with_norm else 2
        place += 1
    return (*found, *DENSE)


for name, depths in VARIANTS.items():
    publish("torchvision", [name], Naming(rules(depths, with_norm=False)))
    folded = (r"norm(\d_\d)/mean$", r"conv\1/bias")
    publish("torchvision", [f"{name}_bn"], Naming(rules(depths, with_norm=True), folded=folded))
