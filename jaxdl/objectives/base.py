"""Building blocks of objectives: a model with the one cast at its boundary, and augmentation."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdl import registry, tree
from jaxdl.errors import UserError, choices
from jaxdl.nn import conv
from jaxdl.nn.capture import CHANGES, VALUES
from jaxdl.nn.drop import Drop, elementwise, replace_dropout
from jaxdl.nn.ghost_batch_norm import ghost_batch_norm
from jaxdl.nn.norm import frozen_norms, keep_statistics
from jaxdl.nn.precise import cast_params, precise
from jaxdl.nn.remat import Policy, rematerialize
from jaxdl.types import CONSTANT, EXTRA, Array, Aux, Batch, Objective, PyTree, as_label

Transform = Callable[[Array | None, Batch], Batch]


class Model(NamedTuple):
    """A Linen model as pure functions, computing in `dtype` with float32 parameters.

    The model's `reads` are the keys of a batch that it is called with, an image where it has none.
    The cast of parameters and input happens here and nowhere else. Outputs are float32.
    """

    module: nn.Module
    dtype: jnp.dtype
    kernel_init: Callable[..., Array] | None = None
    """Draws every kernel in place of the layer's own initializer."""
    freeze_norms: str | None = None
    """Regular expression on paths of parameters: batch norms of which it matches all read their
    running statistics in training too, and keep them."""
    dropout: Drop = elementwise
    """Function that every dropout layer applies."""
    remat: Policy | None = None
    """Blocks are computed again in the backward pass."""
    float32: str | None = None
    """Regular expression on the paths of modules that compute in float32 all the same."""
    norm_parts: int = 1
    """Parts of a batch that have batch statistics of their own."""
    num_classes: int | None = None
    """Classes of the training split, with which registered models are built."""

    vocabulary: int | None = None
    """Tokens of the training split, padding included."""

    def of(self, build: Callable[..., nn.Module]) -> "Model":
        """Another network under the same precision and the same interceptors.

        Args:
            build: a registered model with its arguments bound, which may ask for `num_classes`
                and `vocabulary`.
        """
        known = {"num_classes": self.num_classes, "vocabulary": self.vocabulary}
        return self._replace(module=registry.supply(build, **known))

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Fresh float32 (params, variables) for batches of this shape."""
        inputs = [batch[name][:1] for name in self._reads()]
        # Of the pass only shapes matter, and an accelerator's convolutions are the soonest traced.
        with nn.intercept_methods(self._redraw), conv.target("tpu"):
            variables = dict(self.module.init({"params": key}, *inputs, train=False))
        return variables.pop("params"), variables

    def _redraw(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if self.kernel_init and hasattr(context.module, "kernel_init"):
            object.__setattr__(context.module, "kernel_init", self.kernel_init)
        return call(*args, **kwargs)

    def train(
        self, params: PyTree, variables: PyTree, batch: Batch, key: Array
    ) -> tuple[dict[str, Array], PyTree]:
        """(outputs, new variables) of a training-mode forward pass."""
        changes = [replace_dropout(self.dropout)] if self.dropout is not elementwise else []
        if self.freeze_norms is not None:
            statistics = variables.get("batch_stats", {})
            kept = frozen_norms(params, statistics, self.freeze_norms)
            changes.append(keep_statistics(kept))
        changes += [ghost_batch_norm(self.norm_parts)] if self.norm_parts > 1 else []
        changes += [rematerialize(self.remat)] if self.remat else []
        collections, beside = _apart(variables)
        with self._changed(changes):
            outputs, new = self.module.apply(
                self._collections(params, collections),
                *self._inputs(batch),
                train=True,
                rngs={"dropout": key},
                mutable=list(collections),
                method="outputs",
            )
        return tree.cast(outputs, jnp.float32), {**new, **beside}

    def predict(
        self, params: PyTree, variables: PyTree, batch: Batch, key: Array | None = None
    ) -> dict[str, Array]:
        """Outputs of an inference-mode forward pass: 'features' and 'logits'.

        With a key, dropout and stochastic depth drop as in training.
        """
        collections, _ = _apart(variables)
        with self._changed([] if key is None else [replace_dropout(self.dropout, always=True)]):
            outputs = self.module.apply(
                self._collections(params, collections),
                *self._inputs(batch),
                train=False,
                rngs=None if key is None else {"dropout": key},
                method="outputs",
            )
        return dict(tree.cast(outputs, jnp.float32))

    def outputs(
        self,
        params: PyTree,
        variables: PyTree,
        batch: Batch,
        capture: Sequence[str] = (),
        score: Callable[[dict[str, Array]], Array] | None = None,
    ) -> dict[str, Any]:
        """Outputs of an inference-mode forward pass, and values from inside the network.

        Args:
            params: of the model.
            variables: of the model.
            batch: with what the model reads.
            capture: names of values that layers hand out, such as 'attention_weights'.
            score: outputs -> a scalar, of which the gradient to those values is taken.

        Returns:
            What `predict` gives, and under 'captured' the values by path, float32, such as
            'backbone/blocks/attention/attention_weights' (depth, b, n, t, s): values of blocks that
            are scanned are stacked along axis 0. With a score, 'captured_gradients' has the same
            paths and shapes.

        Raises:
            UserError: the model hands out no value of such a name.
        """

        collections, _ = _apart(variables)

        def run(changes: PyTree) -> tuple[dict[str, Array], dict[str, Array]]:
            with self._changed([]):
                outputs, handed = self.module.apply(
                    {**self._collections(params, collections), CHANGES: changes},
                    *self._inputs(batch),
                    train=False,
                    mutable=[VALUES],
                    method="outputs",
                )
            flat = flatten_dict(dict(handed).get(VALUES, {}), sep="/")
            missing = set(capture) - {path.rpartition("/")[2] for path in flat}
            if missing:
                offered = {path.rpartition("/")[2] for path in flat}
                name = min(missing)
                raise UserError(f"this model hands out no '{name}': {choices(name, offered)}")
            kept = {p: value for p, (value,) in flat.items() if p.rpartition("/")[2] in capture}
            return tree.cast(outputs, jnp.float32), kept

        if score is None:
            outputs, captured = run({})
            return {**outputs, "captured": tree.cast(captured, jnp.float32)}

        def scored(changes: PyTree) -> tuple[Array, tuple[dict[str, Array], dict[str, Array]]]:
            outputs, captured = run(changes)
            return score(outputs), (outputs, captured)

        # The gradient to a value is that to zeros which are added to it.
        shapes = jax.eval_shape(lambda: run({})[1])
        zeros = {path: jnp.zeros(s.shape, s.dtype) for path, s in shapes.items()}
        gradients, (outputs, captured) = jax.grad(scored, has_aux=True)(
            unflatten_dict(zeros, sep="/")
        )
        inside = {"captured": captured, "captured_gradients": flatten_dict(gradients, sep="/")}
        return {**outputs, **tree.cast(inside, jnp.float32)}

    def calls(self, spec: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[str, ...]:
        """Names of the backbone's children, in the order in which a batch of this shape calls them.

        Nothing is computed.
        """
        order: dict[str, None] = {}

        def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            path = context.module.path
            if len(path) > 1 and path[0] == "backbone":
                order[path[1]] = None
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            jax.eval_shape(self.init, jax.random.key(0), jax.tree.map(_prepared, dict(spec)))
        return tuple(order)

    def _changed(self, interceptors: Sequence[Callable[..., Any]]) -> ExitStack:
        stack = ExitStack()
        if self.float32 is not None:
            stack.enter_context(nn.intercept_methods(precise(self.dtype, self.float32)))
        for interceptor in interceptors:
            stack.enter_context(nn.intercept_methods(interceptor))
        return stack

    def _reads(self) -> tuple[str, ...]:
        return getattr(self.module, "inputs", ("image",))

    def _inputs(self, batch: Batch) -> list[Array]:
        # Tokens are signed integers and stay what they are; pixels, uint8 or float, are cast.
        inputs = [batch[name] for name in self._reads()]
        are_tokens = [jnp.issubdtype(x.dtype, jnp.signedinteger) for x in inputs]
        return [
            x if is_token else x.astype(self.dtype)
            for x, is_token in zip(inputs, are_tokens, strict=True)
        ]

    def _collections(self, params: PyTree, collections: PyTree) -> PyTree:
        return {"params": cast_params(params, self.dtype, self.float32), **collections}


def _apart(variables: PyTree) -> tuple[PyTree, PyTree]:
    """(collections of Linen modules, what stands beside them)."""
    beside = {name: variables[name] for name in (EXTRA, CONSTANT) if name in variables}
    return {name: x for name, x in variables.items() if name not in beside}, beside


def put(variables: PyTree, entry: str, name: str, value: PyTree) -> PyTree:
    """The variables with a value under a name in `EXTRA` or `CONSTANT`."""
    return {**variables, entry: {**variables.get(entry, {}), name: value}}


def _prepared(spec: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    # Stored pixels are bytes, and what a network reads of them are not.
    return jax.ShapeDtypeStruct(spec.shape, jnp.float32) if spec.dtype == jnp.uint8 else spec


def frozen(objective: Objective, pattern: str) -> Objective:
    """The same objective with no gradient to the parameters whose whole path matches.

    What only they need is not computed in the backward pass.
    """

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array) -> tuple[Array, Aux]:
        still = tree.select(params, pattern)
        held = jax.tree.map(lambda x, s: jax.lax.stop_gradient(x) if s else x, params, still)
        return objective.loss(held, variables, batch, key)

    return objective._replace(loss=loss)


def preparation(preprocess: Sequence[Transform]) -> Callable[[Batch], Batch]:
    """A function batch -> batch that applies deterministic transforms in turn, with no key."""

    def prepare(batch: Batch) -> Batch:
        for transform in preprocess:
            batch = transform(None, batch)
        return batch

    return prepare


def augmentation(augment: Sequence[Transform]) -> Callable[[Array, Batch], Batch]:
    """A function (key, batch) -> batch that applies random transforms, each with its own key."""
    return lambda key, batch: _randomly(augment, batch, jax.random.split(key, len(augment)))


class StreamTransforms(NamedTuple):
    """Transforms of the batches of a further stream."""

    augment: Sequence[Transform] = ()
    preprocess: Sequence[Transform] = ()
    views: Mapping[str, Sequence[Transform]] = {}
    """By name, what is done to the same examples in place of `augment`."""

    def __call__(self, batch: Batch, key: Array | None) -> Batch:
        """The batch transformed, with its views by name; without a key, as evaluation sees it."""
        prepare = preparation(self.preprocess)

        def seen(transforms: Sequence[Transform], key: Array | None) -> Batch:
            if key is None:
                return prepare(batch)
            return prepare(_randomly(transforms, batch, jax.random.split(key, len(transforms))))

        views = {
            name: seen(transforms, _named_key(key, name)) for name, transforms in self.views.items()
        }
        return {**seen(self.augment, key), **views}


def _named_key(key: Array | None, name: str) -> Array | None:
    # A hash of the name, beyond the small numbers by which keys are split.
    return None if key is None else jax.random.fold_in(key, jnp.uint32(zlib.crc32(name.encode())))


def _randomly(
    transforms: Sequence[Transform], batch: Batch, keys: Array | Sequence[Array]
) -> Batch:
    for transform, key in zip(transforms, keys, strict=True):
        batch = transform(key, batch)
    return batch


def on_target(objective: Objective, target: str) -> Objective:
    """The same objective, which learns another target of the batch as its `label`."""
    if target in ("label", "tokens"):
        return objective

    def renamed(batch: Batch) -> Batch:
        return as_label(batch, target)

    return objective._replace(
        init=lambda key, batch: objective.init(key, renamed(batch)),
        loss=lambda params, variables, batch, key: objective.loss(
            params, variables, renamed(batch), key
        ),
        predict=lambda params, variables, batch, key=None: objective.predict(
            params, variables, renamed(batch), key
        ),
    )


def augmented(
    objective: Objective,
    augment: Sequence[Transform] = (),
    preprocess: Sequence[Transform] = (),
    streams: Mapping[str, StreamTransforms] = {},  # noqa: B006, never changed
) -> Objective:
    """The same objective on transformed batches.

    Args:
        objective: what sees the transformed batches.
        augment: random, applied to training batches only, each with a key of its own.
        preprocess: deterministic, applied to every batch after augmentation, with no key.
        streams: what is done to the batches that stand in a training batch, by their names.
    """
    prepared = preparation(preprocess)

    def own(batch: Batch) -> Batch:
        return {name: x for name, x in batch.items() if name not in streams}

    def further(batch: Batch, key: Array | None) -> Batch:
        return {
            name: transform(batch[name], _named_key(key, name))
            for name, transform in streams.items()
        }

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        return objective.init(key, {**prepared(own(batch)), **further(batch, None)})

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array) -> tuple[Array, Aux]:
        others = further(batch, key)
        key, *keys = jax.random.split(key, len(augment) + 1)
        batch = prepared(_randomly(augment, own(batch), keys))
        return objective.loss(params, variables, {**batch, **others}, key)

    return objective._replace(
        init=init,
        loss=loss,
        predict=lambda params, variables, batch, key=None: objective.predict(
            params, variables, prepared(own(batch)), key
        ),
    )
