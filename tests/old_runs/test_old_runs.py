"""Runs that older code has begun: resumed, they reach the weights that the older code reached.

`make.py` has made them, at the commit that it names. They were trained on one device, and
so each is resumed in a process of its own, without the devices that tests simulate.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from reached import values_of

from jaxdl.aliases import STATE, current_metric

HERE = Path(__file__).parent
RUNS = {"ema": [], "segmentation": ["--command-line"], "language": [], "population": []}


def renamed(key: str) -> str:
    """The key of metrics.jsonl that the newest code writes."""
    member, colon, name = key.rpartition(":")
    return member + colon + current_metric(name)


def moved(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of an old state by their paths of today; of two for one, the last is taken."""
    places = {STATE.get(path, path): array for path, array in arrays.items() if path not in STATE}
    return places | {STATE[path]: arrays[path] for path in STATE if path in arrays}


def numbers(tree: object) -> Counter[float]:
    """How often each number stands in a config: names change, numbers do not."""
    if isinstance(tree, dict | list):
        values = tree.values() if isinstance(tree, dict) else tree
        return sum(map(numbers, values), Counter())
    return Counter([float(tree)] if isinstance(tree, int | float) else [])


def environment() -> dict[str, str]:
    """One device, and the cache of compiled programs that tests have."""
    one = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    cache = jax.config.jax_compilation_cache_dir
    return {**os.environ, **one, **({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {})}


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_resumed_to_the_weights_that_the_old_code_reached(name, tmp_path):
    workdir, arrays = tmp_path / "run", tmp_path / "arrays.npz"
    shutil.copytree(HERE / name / "run", workdir)
    done = subprocess.run(
        [sys.executable, str(HERE / "resume.py"), str(workdir), str(arrays), *RUNS[name]],
        cwd=HERE / name, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    with np.load(arrays) as found, np.load(HERE / name / "expected.npz") as old:
        expected = moved(old)
        assert set(found) == set(expected)
        for path in expected:
            np.testing.assert_allclose(
                found[path], expected[path], rtol=1e-5, atol=1e-5, err_msg=path
            )
    expected = json.loads((HERE / name / "expected.json").read_text())
    expected = {renamed(key): value for key, value in expected.items()}
    found = values_of(workdir)
    assert {key: found.get(key) for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    # What moves no weight, such as the seconds until a run counts as hanging, is understood too.
    for file in (HERE / name / "run").rglob("config.json"):
        kept = workdir / file.relative_to(HERE / name / "run")
        assert not numbers(json.loads(file.read_text())) - numbers(json.loads(kept.read_text()))
    # `evaluate` says of the weights what the run said of them.
    evaluated = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    runs = sorted((workdir / "members").glob("*")) or [workdir]
    assert len(evaluated) == len(runs) and all((run / "config.json").is_file() for run in runs)
    for run, values in zip(runs, evaluated, strict=True):
        prefix = "" if run == workdir else f"{run.name}:"
        tested = {k: found[f"{prefix}test/{k}"] for k in values if f"{prefix}test/{k}" in found}
        assert {k: values[k] for k in tested} == pytest.approx(tested, rel=1e-4, abs=1e-4)
    assert (workdir / "report.html").is_file()
