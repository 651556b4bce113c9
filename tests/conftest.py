"""Tests run stricter than production: warnings are errors, rank promotion raises, 8 devices."""

import collections
import fnmatch
import os
import re
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
WHOLE = pytest.StashKey()
"""True where no files were named."""
COLLECTED = pytest.StashKey()
"""Cases of each test function, of every lane."""


LANES = {
    "quick": "a newcomer's answer in minutes: all but the tests marked slow or data",
    "slow": "the tests marked slow",
    "data": "the tests marked data, which need real data sets",
    "all": "every test",
}
SKIPS = {
    "TFDS_DATA_DIR names no prepared data sets": r".*",
    "libtpu": r"tests/test_probe\.py::.*",
}
"""Part of a reason to the tests that it may skip: any other skip fails the run."""

_counts: dict[str, list] = {"collected": [], "run": [], "skipped": []}


def pytest_addoption(parser):
    lanes = "; ".join(f"{name}: {about}" for name, about in LANES.items())
    parser.addoption("--lane", choices=list(LANES), help=f"which tests: {lanes}")


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        config.option.lane, config.stash[WHOLE] = config.workerinput["lane"]
        return
    # Whoever names files wants all that is in them.
    config.stash[WHOLE] = config.args_source is not pytest.Config.ArgsSource.ARGS
    if config.option.lane is None:
        config.option.lane = "quick" if config.stash[WHOLE] else "all"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["lane"] = (node.config.option.lane, node.config.stash[WHOLE])


def _patterns(name):
    lines = (ROOT / "tests" / name).read_text().splitlines()
    matches = [fnmatch.translate(line) for line in lines if line and not line.startswith("#")]
    return re.compile("|".join(matches))


def _mark_slow(items):
    slow, quick = _patterns("slow.txt"), _patterns("quick.txt")
    for item in items:
        if slow.match(item.nodeid) and not quick.match(item.nodeid):
            item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(config, items):
    _mark_slow(items)
    lane, kept, left_out = config.option.lane, [], []
    folder = os.environ.get("TFDS_DATA_DIR", "")
    has_data = bool(folder) and Path(folder).is_dir()
    config.stash[COLLECTED] = collections.Counter(item.nodeid.partition("[")[0] for item in items)
    for item in items:
        own = next((m for m in ("data", "slow") if m in item.keywords), "quick")
        (kept if lane in (own, "all") else left_out).append(item)
        if own == "data" and not has_data:
            item.add_marker(pytest.mark.skip(reason="TFDS_DATA_DIR names no prepared data sets"))
    items[:] = kept
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_runtest_logreport(report):
    if report.when == "call" and not report.skipped:
        _counts["run"].append(report.nodeid)
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _counts["skipped"].append((report.nodeid, reason.removeprefix("Skipped: ")))


def _unlisted_skips():
    return [
        (test, reason)
        for test, reason in _counts["skipped"]
        if not any(why in reason and re.match(tests, test) for why, tests in SKIPS.items())
    ]


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["collected"] = sum(config.stash.get(COLLECTED, {}).values())
    elif _unlisted_skips() and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    _counts["collected"] = [getattr(node, "workeroutput", {}).get("collected", 0)]


def pytest_terminal_summary(terminalreporter, config):
    own = sum(config.stash.get(COLLECTED, {}).values())
    collected, run, skipped = own or sum(_counts["collected"]), _counts["run"], _counts["skipped"]
    lane = config.option.lane
    terminalreporter.write_line(
        f"lane {lane}: {collected} collected, {len(run)} run, {len(skipped)} skipped"
    )
    for test, reason in _unlisted_skips():
        terminalreporter.write_line(f"not in SKIPS of tests/conftest.py: {test}: {reason}")


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
