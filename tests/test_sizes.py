"""The table behind `--list models`: complete, and true by what is known from elsewhere."""

import pytest
from test_flops import GMACS
from zoo import GOLDEN, ROUNDED

from jaxdl import models, registry
from jaxdl.config import Count
from jaxdl.main import main
from jaxdl.perf import sizes

OWN = {e.name for e in registry.entries("models") if e.module.startswith("jaxdl.")}


def test_every_model_has_its_line():
    assert set(sizes.kept()) == OWN
    for name in OWN:
        assert sizes.size(name).shape == tuple(models.input_shape(name)), name


@pytest.mark.parametrize("name", [n for n in GOLDEN if models.usual_classes(n) == 1000])
def test_parameters_are_the_published_ones(name):
    with_auxiliary_heads = {"googlenet": 13_004_888, "inception_v3": 27_161_264}
    assert sizes.size(name).parameters == with_auxiliary_heads.get(name, GOLDEN[name])


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_are_the_rounded_ones(name):
    assert f"{sizes.size(name).parameters / 1e6:.2f}" == ROUNDED[name]


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds_are_the_published_ones_at_the_same_size(name):
    gmacs, side = GMACS[name]
    kept = sizes.size(name)
    if kept.shape[0] == side:
        assert kept.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("name", ["lenet5", "composed", "mobilenet_v2", "vit_tiny_patch16_224"])
def test_the_table_is_what_counting_gives(name):
    assert sizes.count(name) == sizes.size(name)


def test_a_model_of_ones_own_is_counted(own_registry, capsys):
    @registry.register("models", image=(8, 8, 1), num_classes=3)
    def mine(num_classes: int, /, *, width: Count = 4):
        """A network of one's own. https://example.org"""
        return models.create("mlp", num_classes, widths=[width])

    assert main(["--list", "models", "mine"]) == 0
    # 64 * 4 + 4 + 4 * 3 + 3 parameters, 64 * 4 + 4 * 3 multiply-adds
    assert sizes.count("mine")[:2] == (275, 268)
    assert "8x8x1" in capsys.readouterr().out
