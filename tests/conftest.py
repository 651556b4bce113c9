"""Tests run stricter than production: warnings are errors, rank promotion raises, 8 devices."""

import os
import sys
from pathlib import Path

import jax
import pytest

from jaxdl import registry
from jaxdl.cluster import allocator

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "jaxdl" / "tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Hundreds of programs run in one process here: what one frees, the next ones are to have.
allocator.keep_memory = lambda: False

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if folder and Path(folder).is_dir():
        return
    for item in items:
        if "data" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="TFDS_DATA_DIR names no prepared data sets"))


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    full = {kind: {e.name: e for e in registry.entries(kind)} for kind in registry.ROOMS}
    monkeypatch.setattr(registry, "_entries", full)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    # Hundreds of compiled networks would take gigabytes; the cache on disk still has them.
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_tensorflow():
    yield
    assert "tensorflow" not in sys.modules
