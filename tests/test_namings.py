"""Every published naming against the publisher's own names and shapes, at our default sizes.

`references/make_names.py` wrote what is compared with.
"""

import json
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from test_models import shapes_of

from jaxdl import models, registry
from jaxdl.hub.convert import flatten_variables, from_theirs, namings, places, to_theirs
from jaxdl.hub.load import save, transfer

sys.path.append(str(ROOT / "tests" / "references"))
from digest import digest  # noqa: E402

PAIRS = [tuple(e.name.split("/")) for e in registry.entries("weights")]
DIGESTS = json.loads((ROOT / "tests" / "references" / "names.json").read_text())


def naming_of(publisher, model):
    return namings(model, publisher)[publisher]


@cache
def laid_out(layout, shape):
    """The shape of theirs, no array made."""
    return jax.eval_shape(layout.to_theirs, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


@cache
def our_shapes(model):
    variables = shapes_of(model)  # every other test of a whole model wants the same
    return flatten_variables(variables["params"], variables)


def their_shapes(publisher, model):
    found = places(naming_of(publisher, model), our_shapes(model))
    shapes = {place.theirs: laid_out(place.layout, place.shape) for place in found}
    return shapes | {place.bias: place.shape for place in found if place.bias}


@pytest.mark.parametrize(("publisher", "model"), PAIRS)
def test_every_tensor_has_a_name_of_its_own(publisher, model):
    naming = naming_of(publisher, model)
    found = places(naming, our_shapes(model))
    assert {place.ours for place in found} == set(our_shapes(model))
    names = [*(p.theirs for p in found), *(p.bias for p in found if p.bias)]
    assert len(set(names)) == len(names)
    for name in names:
        words = name.split(naming.convention.separator)
        assert all(word.isidentifier() or word.isdigit() for word in words), name
        assert not set(words) & {"backbone", "logits", "scale", "mean", "var"}, name


@pytest.mark.parametrize(("publisher", "model"), [key.split("/") for key in DIGESTS])
def test_names_and_shapes_are_the_publishers(publisher, model):
    assert digest(their_shapes(publisher, model)) == DIGESTS[f"{publisher}/{model}"]


def test_every_naming_of_a_library_is_compared_with_it():
    assert {f"{p}/{m}" for p, m in PAIRS if p in ("torchvision", "timm")} == set(DIGESTS)


def random_arrays(name, **args):
    shapes = shapes_of(name, 10, (75, 75, 3), **args)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: random.standard_normal(s.shape, np.float32), dict(shapes))
    return variables.pop("params"), variables


SMALL = {
    "efficientnet_b5": {"width": 0.25, "depth": 0.5},
    "mobilenet_v2": {"width": 0.25},
    "mobilenet_v3_large": {"width": 0.25},
    "convnext_tiny": {"depths": (1, 1), "width": 8},
    "vgg11_bn": {"width": 8, "hidden": 16},
}


@pytest.mark.parametrize("publisher", ["torchvision", "timm"])
@pytest.mark.parametrize("name", SMALL)
def test_a_file_tells_whose_names_it_has(name, publisher, tmp_path):
    params, variables = random_arrays(name, **SMALL[name])
    save(tmp_path / "w.safetensors", name, params, variables, publisher=publisher)
    zeros = jax.tree.map(np.zeros_like, (params, variables))
    needed = naming_of(publisher, name).arguments  # which it says when it is not there
    found = transfer(tmp_path / "w.safetensors", name, *zeros, args=needed)
    jax.tree.map(np.testing.assert_array_equal, found, (params, variables))


def test_dense_layers_of_a_vgg_are_convolutions_in_timm():
    # How timm reads torchvision's files: reshaped, and under other names.
    params, variables = random_arrays("vgg11", width=8, hidden=16)
    arrays = flatten_variables(params, variables)
    timm = to_theirs(naming_of("timm", "vgg11"), arrays)
    for name, array in to_theirs(naming_of("torchvision", "vgg11"), arrays).items():
        if name == "classifier.0.weight":
            array = array.reshape(16, 64, 7, 7)
        elif name == "classifier.3.weight":
            array = array.reshape(16, 16, 1, 1)
        name = name.replace("classifier.0", "pre_logits.fc1")
        name = name.replace("classifier.3", "pre_logits.fc2").replace("classifier.6", "head.fc")
        np.testing.assert_array_equal(timm[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("name", "args"), [("inception_v3", {"depths": (1, 1, 1)}), ("googlenet", {})]
)
def test_a_network_without_auxiliary_heads_reads_a_file_that_has_them(name, args):
    args = {"width": 0.05, **args}
    arrays = flatten_variables(*random_arrays(name, **args))
    alone = shapes_of(name, 10, (75, 75, 3), auxiliary_heads=False, **args)
    wanted = flatten_variables(alone["params"], alone)
    assert len(wanted) < len(arrays)
    for naming in namings(name).values():
        found = from_theirs(naming, wanted, to_theirs(naming, arrays))
        assert found.keys() == wanted.keys()
        for key in found:
            np.testing.assert_array_equal(found[key], arrays[key], err_msg=key)


def test_names_of_another_function_say_what_they_need_and_stand_last():
    for name in ("efficientnet_b5", "mobilenet_v3_small"):
        assert [*namings(name)] == ["torchvision", "timm"]
        assert registry.find("weights", f"timm/{name}").summary.endswith("Needs norm=batch.")
        models.create(name, 10, **naming_of("timm", name).arguments)
    assert [*namings("efficientnet_b4")] == ["timm", "torchvision"]
