"""Pytrees by path."""

import jax.numpy as jnp

from jaxdl import tree

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
