"""Networks beside the one that is trained, whose weights never move: teachers, feature extractors.

A builder declares one by an argument, and says nothing of where its weights come from:

    @register("regularizers")
    def distill(objective: Objective, /, *, teacher: Frozen) -> Objective: ...

The config names a run directory, `teacher=runs/a`, which gives the network and its weights; or a
registered model, `teacher=resnet18`, and `init_from` says under `constant/teacher` what fills it.
"""

from typing import Annotated, NamedTuple

from jaxdl.config import Network
from jaxdl.objectives.base import Model, put
from jaxdl.types import CONSTANT, Array, Batch, PyTree


class FrozenModel(NamedTuple):
    """A network whose weights stand under its name in the constant variables."""

    name: str
    model: Model
    """Under the precision and the interceptors of the model that is trained."""

    def init(self, key: Array, batch: Batch, variables: PyTree) -> PyTree:
        """The variables of an objective, and in them a place for the network's weights."""
        params, own = self.model.init(key, batch)
        return put(variables, CONSTANT, self.name, {"params": params, "variables": own})

    def predict(self, variables: PyTree, batch: Batch) -> dict[str, Array]:
        """Outputs of an inference-mode forward pass: 'features' and 'logits'.

        Args:
            variables: of the objective.
            batch: as the network that is trained sees it, augmented and preprocessed.
        """
        own = variables[CONSTANT][self.name]
        return self.model.predict(own["params"], own["variables"], batch)


Frozen = Annotated[FrozenModel, Network()]
"""Annotation of a builder for an argument that names a frozen network."""
