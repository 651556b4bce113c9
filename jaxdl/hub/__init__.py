"""Weights from elsewhere, into networks of ours and back.

    from jaxdl import hub

    model, variables = hub.pretrained("timm/resnet50.a1_in1k", "resnet50", num_classes=10)
    logits = model.apply(variables, images)  # (b, h, w, 3), normalised as the publisher says
    hub.save("ours.safetensors", "resnet50", variables["params"], variables, publisher="timm")

`fetch` finds a file, here or elsewhere, and keeps it; `read` makes arrays of it, running nothing;
`namings` are what publishers are known for a model (`--list weights`); `transfer` joins the three.
"""

from jaxdl.hub.convert import namings
from jaxdl.hub.fetch import fetch
from jaxdl.hub.load import pretrained, save, transfer
from jaxdl.hub.read import read
from jaxdl.room import open_room

__all__ = ["fetch", "namings", "pretrained", "read", "save", "transfer"]

open_room(__name__)
