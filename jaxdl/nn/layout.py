"""Tensor-parallel layout of this room's layers, as in Megatron.

Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism. Shoeybi,
Patwary, Puri, LeGresley, Casper, Catanzaro 2019. https://arxiv.org/abs/1909.08053

The first of two dense layers is split by columns and the second by rows, so that nothing travels
between them; attention is split by heads, an embedding by its words, a classifier by its classes.
A layer that does not divide stays as it is.
Blocks that are scanned have their parameters stacked, and a pipeline's stages take their part.
"""

from jaxdl.nn.stack import STACKED

LAYOUT: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/qkv/kernel$", (None, None, "tensor", None)),  # (d 3 n h)
    (r"/key_value/kernel$", (None, None, "tensor", None)),
    (r"/query/kernel$", (None, "tensor", None)),
    (r"/(qkv|key_value)/bias$", (None, "tensor", None)),
    (r"/query/bias$", ("tensor", None)),
    (r"/out/kernel$", ("tensor", None, None)),  # (n h d); its bias is added to the sum, whole
    (r"/dense1/kernel$", (None, "tensor")),
    (r"/dense1/bias$", ("tensor",)),
    (r"/dense2/kernel$", ("tensor", None)),
    (r"/fc6/kernel$", (None, "tensor")),
    (r"/fc6/bias$", ("tensor",)),
    (r"/fc7/kernel$", ("tensor", None)),
    (r"/embed/table/embedding$", ("tensor", None)),
    (r"(^|/)head/logits/kernel$", (None, "tensor")),
    (r"(^|/)head/logits/bias$", ("tensor",)),
)
"""(regular expression on paths, axis of the mesh for each of the last dimensions)."""

STAGED = rf"(^|/){STACKED}/"
"""Paths of parameters that are stacked along axis 0, a block a row."""
