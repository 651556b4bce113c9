"""Checkpoints: what is saved comes back, on any devices; what is damaged is noticed."""

import json
import logging
import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import Dropped, batches, goal_of, mesh_of

from jaxdl import tree
from jaxdl.errors import UserError
from jaxdl.nn.head import Classifier, Head
from jaxdl.optim.averages import ema
from jaxdl.rundir import integrity
from jaxdl.rundir.checkpoint import Checkpoints
from jaxdl.rundir.digest import digests
from jaxdl.train.sharding import batch_sharding
from jaxdl.train.state import StateSpec, abstract_state, init_state
from jaxdl.train.step import compile_step, make_step

SPEC = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in next(batches(1)).items()}
GOAL, TX = goal_of(Classifier(Dropped(), Head(10))), optax.adam(1e-3)
KEY = jax.random.key(0)


def trained(mesh, steps=2):
    state = init_state(GOAL, TX, KEY, SPEC, mesh, StateSpec(average=True))
    step = compile_step(make_step(GOAL, TX, average=ema(decay=0.9)), state)
    for batch in batches(steps):
        state, _ = step(state, jax.device_put(batch, batch_sharding(mesh)))
    return state


def like(mesh):
    return abstract_state(GOAL, TX, KEY, SPEC, mesh, StateSpec(average=True))


def raw(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def assert_same_bits(a, b):
    for (name, x), y in zip(tree.flatten(a).items(), tree.flatten(b).values(), strict=True):
        np.testing.assert_array_equal(raw(x), raw(y), err_msg=name)


def test_saved_on_eight_devices_restores_on_any(tmp_path):
    state = trained(mesh_of(4, 2))
    expected = jax.tree.map(raw, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, 0.5, {"window": {"loss": [0.1, 3.0]}})
    for mesh in (mesh_of(1), mesh_of(4), mesh_of(2, 2), mesh_of(1, 8)):
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore_newest(lambda step, mesh=mesh: like(mesh))
        assert restored.extra == {"window": {"loss": [0.1, 3.0]}}
        assert_same_bits(restored.state, expected)
        leaf = tree.flatten(restored.state.params)["backbone/Dense_0/kernel"]
        assert leaf.sharding.mesh.shape == mesh.shape


def test_what_is_saved_may_be_donated_at_once(tmp_path):
    # The step after an asynchronous save overwrites the buffers it is writing from.
    mesh = mesh_of(1)
    state = trained(mesh)
    step = compile_step(make_step(GOAL, TX, average=ema(decay=0.9)), state)
    expected = jax.tree.map(lambda x: raw(x).copy(), state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, None, {})
        for batch in batches(5, seed=1):
            state, _ = step(state, jax.device_put(batch, batch_sharding(mesh)))
        assert checkpoints.steps() == [2]
        assert_same_bits(checkpoints.restore(2, like(mesh)).state, expected)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_newest_and_best_are_kept_side_by_side(tmp_path, mode):
    state = trained(mesh_of(1), steps=1)
    metrics = {1: 0.2, 2: 0.9, 3: 0.1, 4: None, 5: 0.5, 6: 0.4}
    with Checkpoints(tmp_path, keep_latest=2, keep_best=1, mode=mode) as checkpoints:
        for step, metric in metrics.items():
            checkpoints.save(step, state, metric, {})
        assert checkpoints.steps() == ([2, 5, 6] if mode == "max" else [3, 5, 6])


def test_digests_notice_every_change_and_no_resharding():
    state = {
        "w": jnp.arange(64.0).reshape(8, 8),
        "b": jnp.zeros(3, jnp.bfloat16),
        "n": jnp.arange(3),
        "key": jax.random.key(0),
    }
    base = digests(state)
    sharded = jax.device_put(state["w"], batch_sharding(mesh_of(8)))
    assert digests({**state, "w": sharded}) == base
    flipped = {
        "one bit": state["w"].at[3, 4].set(np.nextafter(np.float32(28), np.float32(29))),
        "sign of zero": state["w"].at[0, 0].set(-0.0),
        "exchanged rows": state["w"][::-1],
        "exchanged elements": state["w"].at[0, 1].set(2.0).at[0, 2].set(1.0),
        "reshaped": state["w"].reshape(4, 16),
        "another type": state["w"].astype(jnp.int32),
    }
    for what, w in flipped.items():
        assert digests({**state, "w": w})["w"] != base["w"], what


def damage_data(folder):
    files = [f for f in folder.rglob("*") if f.is_file() and "ocdbt" in str(f) and "/d/" in str(f)]
    largest = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0x10
    largest.write_bytes(data)


def truncate(folder):
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_state(folder):
    shutil.rmtree(folder / "state")


@pytest.mark.parametrize("harm", [damage_data, truncate, remove_state])
def test_a_damaged_newest_is_told_and_the_one_before_used(tmp_path, harm):
    older, newer = trained(mesh_of(1), 1), trained(mesh_of(1), 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, older, None, {})
        checkpoints.save(2, newer, None, {})
    harm(tmp_path / "2")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.warns(
            UserWarning, match=r"checkpoint .*2 (is damaged|cannot be read).* using step 1"
        ),
    ):
        restored = checkpoints.restore_newest(lambda step: like(mesh_of(1)))
    assert_same_bits(restored.state, older)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_nothing_sound_is_an_error_that_says_so(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(lambda step: like(mesh_of(1))) is None
        checkpoints.save(1, trained(mesh_of(1), 1), None, {})
    truncate(tmp_path / "1")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="no older one is sound"),
    ):
        checkpoints.restore_newest(lambda step: like(mesh_of(1)))


def test_a_metric_decides_what_is_kept_after_a_restart_too(tmp_path):
    state = trained(mesh_of(1), steps=1)
    for step, metric in {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3}.items():
        with Checkpoints(tmp_path, keep_latest=1, keep_best=1) as checkpoints:
            checkpoints.save(step, state, metric, {})
    assert checkpoints.steps() == [1, 4]


def saved_twice(folder, monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr(
            integrity, "READ_BELOW", 2**13
        )  # larger files are known by their leaves
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(
                step, trained(mesh_of(1), step), 0.5, {"window": {"loss": [0.25, 3.0]}}
            )


def told(folder):
    with Checkpoints(folder) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.restore(2, like(mesh_of(1)))
    return str(caught.value)


def test_the_index_names_the_file_of_a_leaf(tmp_path, monkeypatch):
    saved_twice(tmp_path, monkeypatch)
    damage_data(tmp_path / "2")
    files = [f for f in (tmp_path / "2").rglob("d/*") if f.is_file()]
    largest = max(files, key=lambda f: f.stat().st_size)
    message = told(tmp_path)
    assert "1 of 35 leaves differ" in message or "cannot be read" in message
    assert str(largest.relative_to(tmp_path / "2")) in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra": {"window": {"loss": [0.75, 3.0]}}}, "integrity.json is not what was saved"),
        ({"metric": 0.75}, "integrity.json is not what was saved"),
        ({"digest": None}, "integrity.json is not what was saved"),
    ],
)
def test_a_seal_guards_what_it_says(tmp_path, change, said):
    saved_twice(tmp_path)
    file = tmp_path / "2" / "integrity.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert f"checkpoint {tmp_path}/2 is damaged: {said}" in told(tmp_path)


def test_another_checkpoint_in_its_place_is_told(tmp_path):
    saved_twice(tmp_path)
    shutil.rmtree(tmp_path / "2")
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    assert "integrity.json is of step 1" in told(tmp_path)
    (tmp_path / "2" / "integrity.json").unlink()
    assert "integrity.json is missing" in told(tmp_path)


def refuse(*_):
    raise OSError(28, "No space left on device")


def test_a_save_that_fails_is_told_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    states = {step: trained(mesh_of(1), step) for step in (1, 2, 3)}
    hook = sys.unraisablehook
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        checkpoints.save(1, states[1], None, {})
        assert checkpoints.unsaved() is None
        with monkeypatch.context() as patch:
            patch.setattr(integrity, "write", refuse)
            checkpoints.save(2, states[2], None, {})
            with pytest.warns(UserWarning, match=r"/2 was not written: OSError: .*No space left"):
                deadline = time.monotonic() + 60
                while checkpoints._saving and time.monotonic() < deadline:
                    checkpoints.watch(2, states[2], {})
        assert "goes on from step 1" in checkpoints.unsaved()
        assert [f.name for f in tmp_path.iterdir()] == ["1"]
        assert_same_bits(checkpoints.restore(1, like(mesh_of(1))).state, states[1])
        checkpoints.save(3, states[3], None, {})
        assert checkpoints.unsaved() is None and checkpoints.steps() == [3]
    assert sys.unraisablehook == hook


def test_what_others_say_passes_while_checkpoints_are_open(tmp_path):
    absl, asyncio = logging.getLogger("absl"), logging.getLogger("asyncio")
    before = (absl.level, list(absl.filters), list(asyncio.filters))

    def says(path):
        record = logging.LogRecord("absl", logging.WARNING, path, 1, "a word", (), None)
        return bool(absl.filter(record))

    first, second = Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "b")
    assert says("/lib/tensorflow_datasets/core.py") and not says("/lib/orbax/checkpoint/x.py")
    first.close()  # before the second, which was opened after it
    assert not says("/lib/orbax/checkpoint/x.py")
    second.close()
    assert says("/lib/orbax/checkpoint/x.py")
    assert (absl.level, absl.filters, asyncio.filters) == before
    told, hook = [], lambda unraisable: told.append(str(unraisable.exc_value))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", hook)
        with Checkpoints(tmp_path / "a"):
            for error in ("Encountered error while reading", "something else"):
                sys.unraisablehook(types.SimpleNamespace(exc_value=OSError(error)))
        assert sys.unraisablehook is hook and told == ["something else"]


def test_digests_that_cannot_be_had_fail_the_save(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr("jaxdl.rundir.checkpoint.start", refuse)
        with pytest.warns(UserWarning, match="was not written"):
            checkpoints.save(1, trained(mesh_of(1), 1), None, {})
        assert checkpoints.steps() == [] and not list(tmp_path.iterdir())


def test_one_that_looks_only_disturbs_nothing(tmp_path):
    saved_twice(tmp_path)
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()  # another process is at it
    damage_data(tmp_path / "2")
    before = sorted(tmp_path.rglob("*"))
    with (
        Checkpoints(tmp_path, writes=False) as checkpoints,
        pytest.warns(UserWarning, match="using step 1 instead"),
    ):
        checkpoints.restore_newest(lambda step: like(mesh_of(1)))
    assert sorted(tmp_path.rglob("*")) == before
    with Checkpoints(tmp_path):
        assert not (tmp_path / "3.orbax-checkpoint-tmp").exists()


def test_a_device_without_memory_is_no_damage(tmp_path, monkeypatch):
    saved_twice(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:

        def restore(*_, **__):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        with pytest.raises(jax.errors.JaxRuntimeError):
            checkpoints.restore_newest(lambda step: like(mesh_of(1)))
        assert checkpoints.steps() == [1, 2]


def test_a_metric_measured_after_the_save_is_kept(tmp_path):
    state = trained(mesh_of(1), 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {"window": {}})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, 0.75, {"window": {}})
    assert integrity.read(tmp_path / "1", 1).metric == 0.75
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, like(mesh_of(1)))
        assert restored.extra == {"window": {}}
        # the oldest is the best one, and stays
        for step in (2, 3, 4):
            checkpoints.save(step, trained(mesh_of(1), step), 0.5, {"window": {}})
        assert 1 in checkpoints.steps()


def test_a_late_metric_that_cannot_be_put_down_is_told_of_by_its_step(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    state = trained(mesh_of(1), 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
        checkpoints.settle()
        monkeypatch.setattr(integrity, "measure", full)
        with pytest.warns(UserWarning, match=f"{tmp_path}/1 was not written: OSError"):
            checkpoints.save(1, state, 0.5, {})
        assert checkpoints.steps() == [1]
