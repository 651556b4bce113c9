"""What objectives are made of: a model with the one cast at its boundary, and augmentation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import tree
from jaxdl.nn.norm import BatchNorm, BatchRenorm
from jaxdl.types import Array, Batch, Objective, PyTree

Transform = Callable[[Array | None, Batch], Batch]


class Model(NamedTuple):
    """A Linen model as pure functions, computing in `dtype` with float32 parameters.

    The model's `reads` are the keys of a batch that it is called with, an image where it has none.
    The cast of parameters and input happens here and nowhere else. Outputs are float32.
    `kernel_init`, where it is given, draws every kernel in place of the layer's own initializer.
    With `freeze_norms`, batch norms read their running statistics in training too, and keep them.
    """

    module: nn.Module
    dtype: jnp.dtype
    kernel_init: Callable[..., Array] | None = None
    freeze_norms: bool = False

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Fresh float32 (params, variables) for batches of this shape."""
        inputs = [batch[name][:1] for name in self._reads()]
        with nn.intercept_methods(self._redraw):
            variables = dict(self.module.init({"params": key}, *inputs, train=False))
        return variables.pop("params"), variables

    def _redraw(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if self.kernel_init and hasattr(context.module, "kernel_init"):
            object.__setattr__(context.module, "kernel_init", self.kernel_init)
        return call(*args, **kwargs)

    def _freeze(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        is_norm = isinstance(context.module, BatchNorm | BatchRenorm) and len(args) == 2
        if self.freeze_norms and is_norm:
            args = (args[0], False)
        return call(*args, **kwargs)

    def train(
        self, params: PyTree, variables: PyTree, batch: Batch, key: Array
    ) -> tuple[dict[str, Array], PyTree]:
        """(outputs, new variables) of a training-mode forward pass."""
        with nn.intercept_methods(self._freeze):
            outputs, new = self.module.apply(
                self._collections(params, variables),
                *self._inputs(batch),
                train=True,
                rngs={"dropout": key},
                mutable=list(variables),
                method="outputs",
            )
        return tree.cast(outputs, jnp.float32), dict(new)

    def predict(self, params: PyTree, variables: PyTree, batch: Batch) -> dict[str, Array]:
        """Outputs of an inference-mode forward pass: 'features' and 'logits'."""
        outputs = self.module.apply(
            self._collections(params, variables),
            *self._inputs(batch),
            train=False,
            method="outputs",
        )
        return tree.cast(outputs, jnp.float32)

    def _reads(self) -> tuple[str, ...]:
        return getattr(self.module, "reads", ("image",))

    def _inputs(self, batch: Batch) -> list[Array]:
        # Tokens are signed integers and stay what they are; pixels, uint8 or float, are cast.
        is_token = lambda x: jnp.issubdtype(x.dtype, jnp.signedinteger)
        inputs = [batch[name] for name in self._reads()]
        return [x if is_token(x) else x.astype(self.dtype) for x in inputs]

    def _collections(self, params: PyTree, variables: PyTree) -> PyTree:
        return {"params": tree.cast(params, self.dtype), **variables}


def augmented(
    objective: Objective, augment: Sequence[Transform] = (), preprocess: Sequence[Transform] = ()
) -> Objective:
    """The same objective on transformed batches.

    Args:
        objective: what sees the transformed batches.
        augment: random, applied to training batches only, each with a key of its own.
        preprocess: deterministic, applied to every batch after augmentation, with no key.
    """

    def prepared(batch: Batch) -> Batch:
        for transform in preprocess:
            batch = transform(None, batch)
        return batch

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        key, *keys = jax.random.split(key, len(augment) + 1)
        for transform, k in zip(augment, keys, strict=True):
            batch = transform(k, batch)
        return objective.loss(params, variables, prepared(batch), key)

    return Objective(
        init=lambda key, batch: objective.init(key, prepared(batch)),
        loss=loss,
        predict=lambda params, variables, batch: objective.predict(
            params, variables, prepared(batch)
        ),
    )
