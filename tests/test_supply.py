"""What the program supplies to a builder is looked up by the name of its parameter."""

import functools

import jax
import pytest

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, part
from jaxdl.errors import UserError

FAKE = Data(source=part("fake", size=[8, 8, 1], examples=24), batch_size=8)
SMALL = part("mlp", widths=[4])


def test_names_decide_and_not_their_order():
    def build(total_steps, num_classes, /, *, width=3):
        return total_steps, num_classes, width

    offered = {"num_classes": 10, "mesh": None, "total_steps": 7}
    assert registry.supply(build, **offered) == (7, 10, 3)
    assert registry.supply(functools.partial(build, width=4), **offered) == (7, 10, 4)
    assert registry.supply(lambda: "nothing", **offered) == "nothing"


def test_what_is_not_supplied_is_named():
    def build(num_clases, /):
        return num_clases

    with pytest.raises(
        UserError, match="'build' asks for 'num_clases'.*did you mean 'num_classes'"
    ):
        registry.supply(functools.partial(build), num_classes=10, mesh=None)


def test_every_kind_gets_what_the_run_knows(own_registry):
    seen = {}

    @registry.register("models")
    def curious_model(total_steps, num_classes, mesh, /):
        """A model."""
        seen["model"] = total_steps, num_classes, mesh
        return registry.bind("models", SMALL)(num_classes)

    @registry.register("objectives")
    def curious_objective(mesh, model, num_classes, total_steps, /):
        """An objective."""
        seen["objective"] = total_steps, num_classes, mesh
        return registry.bind("objectives", part("supervised"))(model)

    @registry.register("regularizers")
    def curious_regularizer(total_steps, mesh, objective, num_classes, /):
        """A regularizer."""
        seen["regularizer"] = total_steps, num_classes, mesh
        return objective

    @registry.register("wrappers")
    def curious_wrapper(num_classes, mesh, total_steps, inner, /):
        """A wrapper."""
        seen["wrapper"] = total_steps, num_classes, mesh
        return inner

    plan = assemble(
        Config(
            data=FAKE,
            model=part("curious_model"),
            objective=part("curious_objective"),
            regularizers=(part("curious_regularizer"),),
            wrappers=(part("curious_wrapper"),),
            duration="5 steps",
        )
    )
    expected = (5, 10, plan.mesh)
    assert isinstance(plan.mesh, jax.sharding.Mesh)
    assert seen == dict.fromkeys(["model", "objective", "regularizer", "wrapper"], expected)
