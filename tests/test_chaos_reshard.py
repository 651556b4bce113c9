"""Saved on some devices, restored on others: the fast form of `python -m tests.chaos reshard`."""

import pytest
from chaos.reshard import pair


@pytest.mark.parametrize(
    ("saved_on", "restored_on"),
    [((2, 2, 2), (1, 1, 2)), ((2, 2, 2), (1, 4))],
    ids=["tensor", "fsdp"],
)
def test_training_goes_on_elsewhere(saved_on, restored_on, tmp_path):
    same, same_back, off = pair("cnn", saved_on, restored_on, tmp_path / "checkpoints")
    assert same and same_back
    assert off <= 1e-6
