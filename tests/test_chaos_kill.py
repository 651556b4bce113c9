"""`kill -9` inside a save: the fast form of `python -m tests.chaos kill`; test_cli has more."""

from chaos import kill


def test_killed_inside_saves_ends_in_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(kill, "STEPS", 20)
    monkeypatch.setattr(kill, "RUN", [*kill.RUN, "--config.duration=20 steps"])
    moments = ["sealed", "just named"]
    found = kill.experiment(tmp_path, runs=1, kills=2, moments=moments)
    assert not found["wrong"] and found["struck"].total() == 2, found
