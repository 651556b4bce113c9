"""Pytrees by path."""

import re

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from jaxdl import tree
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Gradient, Mesh, part
from jaxdl.errors import UserError

PARAMS = {"head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "step": jnp.zeros((), int)}


def test_names_follow_the_structure():
    assert tree.names(PARAMS)["head"]["kernel"] == "head/kernel"
    assert list(tree.flatten(PARAMS)) == ["head/bias", "head/kernel", "step"]


def test_select_matches_whole_names():
    assert tree.select(PARAMS, ".*/kernel")["head"] == {"kernel": True, "bias": False}
    assert not any(tree.flatten(tree.select(PARAMS, "kernel")).values())


def test_cast_leaves_integers_alone():
    cast = tree.cast(PARAMS, jnp.bfloat16)
    assert cast["head"]["kernel"].dtype == jnp.bfloat16
    assert cast["step"].dtype == PARAMS["step"].dtype


def test_count():
    assert tree.count(PARAMS) == 10


BROKEN = {
    "config.freeze": {"freeze": "("},
    "config.lr_multipliers": {"lr_multipliers": {"(": 2.0}},
    "config.optimizers": {"optimizers": {"(": part("sgd", learning_rate=0.1)}},
    "config.mesh.rules": {"mesh": Mesh(rules=(("(", ("fsdp",)),))},
    "config.precision.float32": {"precision": part("bfloat16", float32="(")},
    "decay": {"optimizer": part("adamw", learning_rate=0.1, decay="(")},
    "exclude": {"gradient": Gradient(transforms=(part("adaptive_clip", exclude="("),))},
    "stacked": {"gradient": Gradient(transforms=(part("clip_block_rms", stacked="("),))},
    "match": {"regularizers": (part("l2", match="("),)},
}


@pytest.mark.parametrize("argument", BROKEN)
def test_a_broken_expression_is_answered_by_its_name(argument):
    source = part("fake", examples=32, size=[4, 4, 1])
    config = Config(data=Data(source=source, batch_size=16), model=part("mlp", widths=[4]))
    with pytest.raises(UserError, match=rf"^{argument}='\(' is not a regular expression: missing"):
        plan = assemble(Config(**{**vars(config), **BROKEN[argument]}))
        state = plan.abstract_state(0)
        jax.eval_shape(plan.objective.predict, state.params, {}, plan.batch_spec(8))


def test_expressions_of_a_user_are_compiled_in_one_place():
    files = sorted((ROOT / "jaxdl").rglob("*.py"))
    assert [f.name for f in files if re.search(r"\bre\.error\b", f.read_text())] == ["tree.py"]
