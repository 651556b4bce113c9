"""Damaged checkpoints: never silently wrong; the fast form of `python -m tests.chaos damage`."""

import numpy as np
import pytest
from chaos.damage import DAMAGES, outcome, outcomes, saved

from jaxdl.rundir import integrity


def test_no_damage_is_silently_wrong():
    found = outcomes({"flip": 10, "truncate": 4, "delete": 3, "exchange": 2, "mix": 5})
    told = {what for kind in found.values() for what in kind}
    assert told <= {"older, file named", "not read"}, found
    assert sum(kind["older, file named"] for kind in found.values()) > 12, found


def flip_in_the_largest(rng, folder):
    file = max(folder.rglob("d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 + rng.integers(100)] ^= 1
    file.write_bytes(content)
    return [file]


def test_the_experiment_would_notice(tmp_path, monkeypatch):
    """Without what guards them, flipped bits are restored as if nothing was."""
    expected = saved(tmp_path / "source", integrity.READ_BELOW)
    monkeypatch.setattr(integrity, "verify", lambda folder, manifest: [])
    monkeypatch.setattr("jaxdl.rundir.verified.digests", lambda state: {})
    rng = np.random.default_rng(0)
    copy = tmp_path / "copy"
    found = [outcome(tmp_path / "source", expected, flip_in_the_largest, rng, copy) for _ in "12"]
    assert "WRONG" in found


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_changes_files(name, tmp_path):
    saved(tmp_path, integrity.READ_BELOW)
    contents = lambda: {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    before = contents()
    for seed in range(5):
        DAMAGES[name](np.random.default_rng(seed), tmp_path / "3")
    assert contents() != before
