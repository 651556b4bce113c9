"""VGG as torchvision and timm name it: all layers of the stages in one list, poolings included.

timm's dense layers are convolutions: at sizes that give maps beyond 7x7 it averages what they
answer at each place, we average the map first. At 224x224 both are the same network.
"""

from jaxdl.hub.convert import POINTWISE, Naming, flattened, publish, windowed
from jaxdl.models.vgg import VARIANTS

DENSE = (
    (r"^backbone/fc6", "classifier/0", flattened(7, 7)),
    (r"^backbone/fc7", "classifier/3"),
    (r"^head/logits", "classifier/6"),
)
TIMM_DENSE = (
    (r"^backbone/fc6", "pre_logits/fc1", windowed(7, 7)),
    (r"^backbone/fc7", "pre_logits/fc2", POINTWISE),
    (r"^head/logits", "head/fc"),
)
FOLDED = (r"norm(\d_\d)/mean$", r"conv\1/bias")


def rules(depths: tuple[int, ...], with_norm: bool) -> tuple[tuple, ...]:
    """Names of the convolutions and norms; an activation follows each, a pooling each stage."""
    found, place = [], 0
    for i, depth in enumerate(depths, 1):
        for j in range(1, depth + 1):
            found.append((f"^backbone/conv{i}_{j}$", f"features/{place}"))
            found.append((f"^backbone/norm{i}_{j}$", f"features/{place + 1}"))
            place += 3 if with_norm else 2
        place += 1
    return tuple(found)


for name, depths in VARIANTS.items():
    for publisher, dense in (("torchvision", DENSE), ("timm", TIMM_DENSE)):
        publish(publisher, [name], Naming((*rules(depths, with_norm=False), *dense)))
        with_norm = Naming((*rules(depths, with_norm=True), *dense), folded=FOLDED)
        publish(publisher, [f"{name}_bn"], with_norm)
