"""Auxiliary heads: what they add to the loss, worked by hand, and where they are not."""

from types import SimpleNamespace

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models, tree
from jaxdl.nn.head import AuxiliaryClassifier, Head
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised

LABEL = jnp.array([0, 1])
MAIN = jnp.array([[1.0, 0.0], [3.0, 0.0]])
FIRST = jnp.array([[10.0, 0.0], [20.0, 0.0]])
SECOND = jnp.array([[2.0, 0.0], [4.0, 0.0]])


def answering(**outputs):
    """A model that always gives these outputs."""
    return SimpleNamespace(
        init=None, predict=None, train=lambda params, variables, batch, key: (outputs, variables)
    )


def first_logit(logits, label):
    return logits[:, 0]


@pytest.mark.parametrize(
    ("weight", "mask", "expected"),
    [
        # (1 + 0.3 (10 + 2)) = 4.6 and (3 + 0.3 (20 + 4)) = 10.2
        (0.3, (1, 1), (4.6 + 10.2) / 2),
        (0.3, (1, 0), 4.6),
        (0.5, (0, 1), 3 + 0.5 * 24),
        (0.0, (1, 1), 2.0),
    ],
)
def test_each_head_adds_its_weighted_loss(weight, mask, expected):
    model = answering(logits=MAIN, auxiliary_logits=(FIRST, SECOND))
    goal = supervised(model, loss=first_logit, auxiliary_weight=weight)
    batch = {"label": LABEL, "mask": jnp.array(mask, jnp.float32)}
    loss, aux = goal.loss({}, {}, batch, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # What is reported is what is minimised; the accuracy is the main head's.
    total, count = aux.metrics["loss"]
    np.testing.assert_allclose(total / count, expected, rtol=1e-6)
    assert aux.metrics["accuracy"] == (mask[0], sum(mask))


def test_the_weight_is_the_papers_unless_told():
    goal = supervised(answering(logits=MAIN, auxiliary_logits=(FIRST,)), loss=first_logit)
    loss, _ = goal.loss({}, {}, {"label": LABEL}, None)
    np.testing.assert_allclose(loss, (1 + 3 + 0.3 * 30) / 2, rtol=1e-6)


def test_models_without_such_heads_are_left_alone():
    goal = supervised(answering(logits=MAIN), loss=first_logit)
    assert goal.loss({}, {}, {"label": LABEL}, None)[0] == 2.0


class TwoTaps(nn.Module):
    """Features 2x, and a map 3x for the auxiliary head."""

    def __call__(self, x, train=False):
        return self.taps(x, train)[0]

    def taps(self, x, train=False):
        return 2 * x, (3 * x,)


def test_only_training_asks_the_heads():
    model = AuxiliaryClassifier(TwoTaps(), Head(2), (Head(2),))
    goal = supervised(Model(model, jnp.dtype("float32")))
    batch = {"image": jnp.ones((2, 1, 1, 2)), "label": LABEL}
    params, variables = goal.init(jax.random.key(0), batch)
    assert set(params) == {"head", "auxiliary_0"}
    _, aux = goal.loss(params, variables, batch, jax.random.key(1))
    assert set(aux.outputs) == {"features", "logits", "auxiliary_logits"}
    assert set(goal.predict(params, variables, batch)) == {"features", "logits"}
    # Every pixel is 1, the map is 3: the logits are three times the sum of the kernel's rows.
    expected = 3 * np.sum(params["auxiliary_0"]["logits"]["kernel"], axis=0, keepdims=True)
    np.testing.assert_allclose(aux.outputs["auxiliary_logits"][0], expected.repeat(2, 0), rtol=1e-6)


# With 1000 classes, by torchvision, with and without.
COUNTS = {"googlenet": (13_004_888, 6_624_904), "inception_v3": (27_161_264, 23_834_568)}


@pytest.mark.parametrize("name", COUNTS)
def test_the_heads_can_be_left_out(name):
    image = jax.ShapeDtypeStruct((1, *models.input_shape(name)), jnp.float32)
    full, without = (
        jax.eval_shape(
            models.create(name, 1000, auxiliary_heads=heads).init, jax.random.key(0), image
        )["params"]
        for heads in (True, False)
    )
    assert (tree.count(full), tree.count(without)) == COUNTS[name]
    chex.assert_trees_all_equal_shapes({k: full[k] for k in ("backbone", "head")}, without)
