"""The contract of an objective: no combinator drops a field; a model serves for another network."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models, registry
from jaxdl.assemble import assemble
from jaxdl.augment.normalize import normalize
from jaxdl.config import Config, Data, Evaluation, Of, part
from jaxdl.config_file import from_json, to_json
from jaxdl.errors import UserError
from jaxdl.objectives.base import Model, augmented, frozen, put
from jaxdl.override import override
from jaxdl.types import CONSTANT, EXTRA, Objective

NEEDED = {
    "variational_dropout": {"examples": 10},
    "test_time_augmentation": {"augment": ["random_flip"]},
}
"""Arguments without which a combinator is not built."""

BATCH = {
    "image": np.zeros((2, 8, 8, 1), np.uint8),
    "label": np.arange(2, dtype=np.int32),
}


class Wider(NamedTuple):
    """An objective with one field more than today's."""

    init: object
    loss: object
    predict: object
    added: str = "nobody knows of this"


def combinators():
    for kind in ("regularizers", "predictors"):
        for entry in registry.entries(kind):
            args = NEEDED.get(entry.name, {})
            yield pytest.param(registry.bind(kind, part(entry.name, **args)), id=entry.name)
    yield pytest.param(lambda objective: frozen(objective, ".*"), id="frozen")
    yield pytest.param(lambda objective: augmented(objective, [], [normalize]), id="augmented")


@pytest.mark.parametrize("combine", list(combinators()))
def test_no_combinator_drops_a_field(combine):
    assert Objective._fields == Wider._fields[:-1]
    inner = Wider(*(lambda *args: None for _ in Objective._fields), added="kept")
    outer = combine(inner)
    assert isinstance(outer, Wider) and outer.added == "kept"
    assert tuple(outer) != tuple(inner)  # it did combine something


def test_another_network_under_the_same_precision_and_interceptors():
    dropped = []

    def dropout(key, x, rate):
        dropped.append(x.dtype)
        return x

    first = models.create("cnn", 7, widths=[4])
    model = Model(first, jnp.dtype("bfloat16"), dropout=dropout, num_classes=7)
    other = model.of(registry.bind("models", part("mlp", widths=[8], drop_rate=0.5)))
    assert other.module.backbone != first.backbone
    assert other == model._replace(module=other.module)
    params, variables = other.init(jax.random.key(0), BATCH)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    outputs, _ = other.train(params, variables, BATCH, jax.random.key(1))
    assert outputs["logits"].shape == (2, 7)
    assert dropped == [jnp.bfloat16]


def test_a_plan_has_the_network_and_what_prepares_batches():
    source = part("fake", examples=20, size=[8, 8, 1], num_classes=5)
    config = Config(
        data=Data(source, validation=None, test=None, batch_size=8),
        model=part("mlp", widths=[8]),
        preprocess=(part("normalize", mean=[0.25], std=[0.5]),),
        precision=part("bfloat16"),
        evaluation=Evaluation(predictors=(part("mc_dropout", samples=2),)),
    )
    plan = assemble(config)
    assert plan.model.num_classes == 5 and plan.model.dtype == jnp.bfloat16
    batch = {**BATCH, "image": np.full((2, 8, 8, 1), 255, np.uint8)}
    np.testing.assert_allclose(plan.prepare(batch)["image"], 1.5)
    params, variables = plan.objective.init(jax.random.key(0), batch)
    found = plan.model.predict(params, variables, plan.prepare(batch))
    # By way of the objective, whose predictor averages: nothing drops here.
    asked = plan.objective.predict(params, variables, batch)
    np.testing.assert_allclose(
        jax.nn.log_softmax(found["logits"]), asked["logits"], rtol=1e-2, atol=1e-2
    )


def test_parts_in_dicts_from_the_shell_to_the_builder(monkeypatch):
    monkeypatch.setitem(registry._entries, "objectives", dict(registry._entries["objectives"]))
    registry.entries("objectives")
    heads = dict[str, Annotated[Callable, Of("losses")]]

    @registry.register("objectives")
    def several(model: Model, /, *, heads: heads) -> dict[str, Callable]:
        return heads

    config = Config(objective=part("several", heads={"a": part("cross_entropy"), "b": "focal"}))
    assignments = [
        ("objective.heads.a", "cross_entropy(label_smoothing=0.5)"),
        ("objective.heads.b.gamma", "3"),
        ("objective.heads.c", "poly1"),
    ]
    config = from_json(to_json(override(config, assignments)))
    built = registry.Parts(config).one("objective")(None)
    assert [f.func.__name__ for f in built.values()] == ["cross_entropy", "focal", "poly1"]
    assert built["a"].keywords == {"label_smoothing": 0.5} and built["b"].keywords == {"gamma": 3}
    whole = override(config, [("objective.heads", '{"only": "focal"}')])
    assert list(registry.Parts(whole).one("objective")(None)) == ["only"]
    wrong = override(config, [("objective.heads.c", "poly2")])
    with pytest.raises(UserError, match="unknown loss 'poly2'.*'poly1'"):
        registry.Parts(wrong)
    wrong = override(config, [("objective.heads.b.gama", "3")])
    with pytest.raises(UserError, match="loss 'focal' takes no argument 'gama'"):
        registry.Parts(wrong)


class Seen(nn.Module):
    """A network that says which collections it has, and counts its passes."""

    @nn.compact
    def __call__(self, image, train):
        passes = self.variable("counts", "passes", lambda: jnp.zeros(()))
        if train:
            passes.value = passes.value + 1
        return nn.Dense(3)(image.reshape(len(image), -1))

    def outputs(self, image, train):
        SEEN.append(set(self.scope.root._variables))
        return {"logits": self(image, train)}


SEEN: list[set[str]] = []


def test_linen_sees_neither_what_is_extra_nor_what_is_constant():
    model = Model(Seen(), jnp.dtype("float32"))
    params, variables = model.init(jax.random.key(0), BATCH)
    variables = put(put(variables, EXTRA, "queue", np.arange(3)), CONSTANT, "teacher", {"a": 1})
    SEEN.clear()
    _, new = model.train(params, variables, BATCH, jax.random.key(1))
    model.predict(params, variables, BATCH)
    assert [{"params", "counts"}] * 2 == SEEN
    assert new["counts"]["passes"] == 1
    assert new[EXTRA] is variables[EXTRA] and new[CONSTANT] is variables[CONSTANT]
    assert put(new, EXTRA, "bank", 1)[EXTRA].keys() == {"queue", "bank"}


def test_a_token_is_predicted_from_those_before_it():
    # Logits of the token after each one: right everywhere, and wrong by one class.
    tokens = np.array([[1, 2, 3, 4], [4, 1, 2, 0]], np.int32)  # 0 is padding

    def loss(step):
        table = 30.0 * jax.nn.one_hot((jnp.arange(5) + step - 1) % 4 + 1, 5)
        model = Model(_Table(), jnp.dtype("float32"))
        goal = registry.bind("objectives", part("language"))(model)
        batch = {"tokens": jnp.asarray(tokens), "mask": jnp.ones(2)}
        return goal.loss({"table": table}, {}, batch, jax.random.key(0))

    value, aux = loss(1)
    assert float(value) < 1e-9 and [float(x) for x in aux.metrics["accuracy"]] == [5, 5]
    value, aux = loss(2)
    np.testing.assert_allclose(value, 30, rtol=1e-6)
    assert float(aux.metrics["accuracy"][0]) == 0


class _Table(nn.Module):
    """Logits that depend on the token at the place alone."""

    inputs = ("tokens",)

    @nn.compact
    def outputs(self, tokens, train=False):
        return {"logits": self.param("table", nn.initializers.zeros, (5, 5))[tokens]}
