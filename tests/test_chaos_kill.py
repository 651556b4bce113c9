"""`kill -9` inside a save: the fast form of `python -m tests.chaos kill`; test_cli has more."""

from chaos.kill import experiment


def test_killed_inside_saves_ends_in_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("chaos.kill.STEPS", 20)
    monkeypatch.setattr("chaos.kill.RUN", _short())
    moments = ["writing", "sealed", "just named"]
    found = experiment(tmp_path, runs=1, kills=3, moments=moments)
    assert not found["wrong"] and found["struck"].total() >= 2, found


def _short():
    from chaos.kill import RUN

    return [*RUN, "--config.duration=20 steps"]
