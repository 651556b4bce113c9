"""Equal to torchvision and timm for the same weights: names, shapes, logits, batch statistics.

`references/make_logits.py` wrote what is compared with; both sides draw weights by name.
"""

import json
import sys
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from zoo import quick

from jaxdl import models, tree
from jaxdl.hub.convert import (
    TORCH,
    flatten_variables,
    from_theirs,
    namings,
    places,
    to_theirs,
)

sys.path.append(str(ROOT / "tests" / "references"))
from fill import images, probe, tensor  # noqa: E402

FILES = sorted((ROOT / "tests" / "references" / "logits").glob("*.npz"))
NAMES = [file.stem for file in FILES]

# What our builder is told so that it is as small as the reference; what else it must be told to be
# the reference is in the naming, as users need it too.
ARGUMENTS = {"senet154": {"depths": (1, 2, 2, 1)}}


@cache
def reference(name):
    file = np.load(ROOT / "tests" / "references" / "logits" / f"{name}.npz")
    read = {k: json.loads(str(file[k])) for k in ("about", "shapes", "probes")}
    read["about"]["model"] = name.partition(".")[0]  # of MODEL or MODEL.PUBLISHER
    return read | {"logits": file["logits"], "probed": file["probed"]}


def naming_of(name):
    about = reference(name)["about"]
    return namings(about["model"], about["library"])[about["library"]]


def undropped(name, **args):
    """The model without dropout, in training too."""
    model = reference(name)["about"]["model"]
    signature = models.registry.find("models", model).arguments()
    drops = {a: 0.0 for a in signature if a.startswith("drop_")}
    needed = dict(naming_of(name).arguments) | ARGUMENTS.get(name, {})
    return models.create(model, 1000, **drops | needed | args)


def filled(name):
    """Our variables, filled by the reference's names; checked to come out as they went in."""
    size = reference(name)["about"]["train_size"]
    shapes = jax.eval_shape(undropped(name).init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    naming = naming_of(name)
    gain = reference(name)["about"]["gain"]
    theirs = {k: tensor(k, tuple(s), gain) for k, s in reference(name)["shapes"].items()}
    variables = dict(shapes)
    ours = from_theirs(naming, flatten_variables(variables["params"], variables), theirs)
    back = to_theirs(naming, ours)
    assert back.keys() == theirs.keys()
    for place in places(naming, ours):
        if place.bias:  # a bias before a norm is folded into its mean: theirs, written so
            mean = theirs[place.theirs].astype(np.float32)
            theirs[place.theirs] = mean - theirs[place.bias].astype(np.float32)
            theirs[place.bias] = np.zeros_like(mean)
    for key in theirs:
        assert np.array_equal(back[key], theirs[key].astype(np.float32)), key
    return jax.tree.map(
        lambda n: jnp.asarray(ours[n]), {k: tree.names(v) for k, v in shapes.items()}
    )


def of_this_batch_alone(call, args, kwargs, context):
    """A batch norm that forgets: what it keeps are the statistics of the batch."""
    if isinstance(context.module, nn.BatchNorm):
        object.__setattr__(context.module, "momentum", 0.0)
    return call(*args, **kwargs)


def batch_statistics(name, variables):
    """Our name to what each batch norm saw in training."""
    about, model = reference(name)["about"], undropped(name)
    image = jnp.asarray(images(4, about["train_size"]), jnp.float32)

    @quick
    def statistics(variables, image):
        apply = partial(model.apply, train=True, mutable=["batch_stats"])
        with nn.intercept_methods(of_this_batch_alone):
            return apply(variables, image, rngs={"dropout": jax.random.key(0)})[1]["batch_stats"]

    return tree.flatten(statistics(variables, image))


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_reference(name):
    about, expected = reference(name)["about"], reference(name)["logits"]
    variables = filled(name)
    image = jnp.asarray(images(2, about["size"]), jnp.float32)
    logits = quick(undropped(name).apply)(variables, image)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    if not reference(name)["probes"]:  # it has no batch norm, or another file checks them
        return

    ours = batch_statistics(name, variables)
    naming = naming_of(name)
    theirs = {p.theirs: np.asarray(ours[p.ours]) for p in places(naming, ours)}
    for place in places(naming, ours):
        if place.bias:  # their norm sees the bias of the convolution before it
            bias = tensor(place.bias, place.shape, about["gain"])
            theirs[place.theirs] = theirs[place.theirs] + bias
    assert theirs.keys() == set(reference(name)["probes"])
    for key, (expected, norm) in zip(
        reference(name)["probes"], reference(name)["probed"], strict=True
    ):
        assert abs(probe(key, theirs[key]) - expected) <= 1e-3 * norm, key


def test_conventions_name_every_leaf_of_ours():
    assert set(TORCH.leaves) == {"kernel", "scale", "bias", "mean", "var", "embedding"}
