"""A run compiles its step once, and its memory does not grow with its steps."""

import numpy as np
import pytest
from chaos.soak import Soaked, soak


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    return soak(500, 10, tmp_path_factory.mktemp("soak"))


def test_the_step_is_compiled_once_and_nothing_is_late(soaked):
    assert soaked.compiled == {"jit(step)": 1}


def test_memory_is_flat(soaked):
    assert len(soaked.memory) == 10
    assert soaked.growth < 20 * 2**20


def test_growth_is_seen():
    leaking = np.arange(100) * 2**20
    assert Soaked(leaking, None).growth == 80 * 2**20
    assert Soaked(np.full(100, 5), None).growth == 0
