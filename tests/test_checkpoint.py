"""Checkpoints: what is saved comes back, on any devices; what is damaged is noticed."""

import shutil

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
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.digest import digests
from jaxdl.train.sharding import batch_sharding
from jaxdl.train.state import Keeps, abstract_state, init_state
from jaxdl.train.step import compile_step, make_step

SPEC = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in next(batches(1)).items()}
GOAL, TX = goal_of(Classifier(Dropped(), Head(10))), optax.adam(1e-3)
KEY = jax.random.key(0)


def trained(mesh, steps=2):
    state = init_state(GOAL, TX, KEY, SPEC, mesh, Keeps(average=True))
    step = compile_step(make_step(GOAL, TX, average=ema(decay=0.9)), state)
    for batch in batches(steps):
        state, _ = step(state, jax.device_put(batch, batch_sharding(mesh)))
    return state


def like(mesh):
    return abstract_state(GOAL, TX, KEY, SPEC, mesh, Keeps(average=True))


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
            restored = checkpoints.restore_newest(like(mesh))
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
        restored = checkpoints.restore_newest(like(mesh_of(1)))
    assert_same_bits(restored.state, older)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_nothing_sound_is_an_error_that_says_so(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(like(mesh_of(1))) is None
        checkpoints.save(1, trained(mesh_of(1), 1), None, {})
    truncate(tmp_path / "1")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="no older one is sound"),
    ):
        checkpoints.restore_newest(like(mesh_of(1)))
