"""What a step will take, held to what states and compiled programs do take; and what helps."""

import dataclasses
import json

import jax
import pytest

from jaxdl import run
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Gradient, Mesh, part
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.override import override
from jaxdl.perf import memory
from jaxdl.perf.memory import activation_bytes, advice, estimate, explained, remedies
from jaxdl.session import first_state, training_batches
from jaxdl.train.step import compile_step


def config(model, batch_size=64, size=(8, 8, 3), **fields):
    data = Data(source=part("fake", size=list(size)), batch_size=batch_size)
    return Config(data=data, model=model, duration=10, preprocess=(), **fields)


MLP = config(part("mlp", widths=[16]))
WIDE = config(part("mlp", widths=[512]))
CNN = config(part("cnn", widths=[8, 8]), size=(32, 32, 3))
VIT = config(part("vit_tiny_patch16_224", width=24, depth=2), size=(32, 32, 3))


def on_first_device(tree):
    """Bytes that the first device holds of real arrays."""
    plain = lambda x: (
        jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    arrays = [plain(x) for x in jax.tree.leaves(tree)]
    device = jax.devices()[0]
    return sum(s.data.nbytes for x in arrays for s in x.addressable_shards if s.device == device)


@pytest.mark.parametrize("average", [None, part("ema")])
@pytest.mark.parametrize("mesh", [Mesh(), Mesh(1, 8), Mesh(4, 2)])
def test_state_and_batch_are_those_that_a_device_holds(mesh, average):
    wanted = dataclasses.replace(WIDE, mesh=mesh, average=average)
    plan = assemble(wanted)
    found, state = estimate(wanted, plan), first_state(wanted, plan)
    assert found.state == on_first_device(state)
    assert found.gradients == on_first_device(state.params)
    batches = training_batches(wanted, plan, 0, 1)
    assert found.batch == on_first_device(next(batches))
    batches.close()


def test_sharded_state_is_an_eighth_of_what_is_sharded():
    whole, split = (
        estimate(c, assemble(c)) for c in (WIDE, dataclasses.replace(WIDE, mesh=Mesh(1, 8)))
    )
    # three copies (parameters and two moments) of the one kernel of 2^14 numbers or more
    assert whole.state - split.state == 3 * 4 * 192 * 512 * 7 // 8
    assert whole.activations == split.activations


def test_activations_of_a_two_layer_network_counted_by_hand():
    plan = assemble(MLP)
    found = activation_bytes(plan.objective, plan.abstract_state(0), plan.batch_spec(64))
    # pixels as float32, the sign of the first layer, its output, the softmax, the label
    needed = 4 * 192 + 16 + 4 * 16 + 4 * 10 + 4
    assert needed <= found <= 1.1 * needed


@pytest.mark.parametrize("wanted", [MLP, CNN, VIT], ids=lambda c: c.model.name)
def test_activations_grow_with_the_micro_batch(wanted):
    def activations(batch_size, accumulate=1):
        data = dataclasses.replace(wanted.data, batch_size=batch_size)
        gradient = Gradient(accumulate=accumulate)
        changed = dataclasses.replace(wanted, data=data, gradient=gradient)
        return estimate(changed, assemble(changed)).activations

    once = activations(64)
    assert activations(128) == pytest.approx(2 * once, abs=1)
    assert activations(64, accumulate=4) == pytest.approx(once / 4, abs=1)


def test_numbers_of_any_size():
    huge = config(part("mlp", widths=[16]), batch_size=2**36)
    found, small = estimate(huge, assemble(huge)), estimate(MLP, assemble(MLP))
    assert found.batch == 2**30 * small.batch
    assert found.activations == 2**30 * small.activations
    assert found.state == small.state


@pytest.mark.parametrize("wanted", [MLP, CNN], ids=lambda c: c.model.name)
def test_a_compiled_step_takes_as_much_within_a_factor_of_two(wanted):
    plan = assemble(wanted)
    state, spec = first_state(wanted, plan), plan.batch_spec(64)
    step = compile_step(plan.phases[-1][1], state).lower(state, spec).compile()
    sizes = step.memory_analysis()
    taken = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    taken += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    assert 0.5 < estimate(wanted, plan).total / taken < 2


@pytest.mark.parametrize(
    ("wanted", "share", "kinds"),
    [
        (CNN, 0.9, ["accumulate", "remat", "precision", "batch_size", "size"]),
        (WIDE, 0.5, ["fsdp"]),
    ],
)
def test_a_remedy_fits_and_is_what_it_says(wanted, share, kinds):
    plan = assemble(wanted)
    available = int(share * estimate(wanted, plan).total)
    found = remedies(wanted, plan, available)
    assert all(kind in "\n".join(r.change for r in found) for kind in kinds)
    assert len({r.change for r in found}) == len(found)
    for remedy in found:
        said = remedy.change.partition("  ")[0].split()
        changed = override(wanted, [s.removeprefix("--config.").split("=") for s in said])
        assert estimate(changed, assemble(changed)) == remedy.estimate
        assert remedy.estimate.total <= available


def test_the_mildest_of_each_kind_is_offered():
    plan = assemble(CNN)
    whole = estimate(CNN, plan)
    # a third of the activations has to go: two micro-batches are enough, and so is half a batch
    found = [r.change for r in remedies(CNN, plan, whole.total - whole.activations // 3)]
    assert "--config.gradient.accumulate=2" in found
    assert any(c.startswith("--config.data.batch_size=32 ") for c in found)
    assert "--config.data.source.size=[24,24,3]" in found


def test_a_size_that_the_model_refuses_is_not_offered():
    # patches of 16 divide 16x16, not 24x24
    found = [r.change for r in remedies(VIT, assemble(VIT), 10**9)]
    assert [c for c in found if "size=[" in c] == ["--config.data.source.size=[16,16,3]"]
    least = dataclasses.replace(VIT, data=config(VIT.model, size=(16, 16, 3)).data)
    changes = [r.change for r in remedies(least, assemble(least), 10**9)]
    assert changes and not any("size=[" in c for c in changes)


@pytest.mark.parametrize("size", [{}, {"size": 16}])
def test_images_of_a_source_that_has_a_side(size):
    digits = dataclasses.replace(CNN, data=Data(source=part("digits", **size), batch_size=64))
    side = size.get("size", 8)
    found = remedies(digits, assemble(digits), 10**9)
    change = f"--config.data.source.size={side * 3 // 4}"
    (remedy,) = [r for r in found if r.change == change]
    changed = override(digits, [("data.source.size", str(side * 3 // 4))])
    assert remedy.estimate == estimate(changed, assemble(changed))


def test_what_is_used_already_is_not_offered():
    gradient = Gradient(accumulate=4, remat="products")
    used = dataclasses.replace(CNN, gradient=gradient, precision=part("bfloat16"))
    found = [r.change for r in remedies(used, assemble(used), 10**9)]
    assert "--config.gradient.accumulate=8" in found and "--config.gradient.remat=blocks" in found
    assert not any("precision" in c or "products" in c or "accumulate=2" in c for c in found)


def test_advice_in_words():
    plan = assemble(WIDE)
    fits = advice(WIDE, plan, 2**30).splitlines()
    assert len(fits) == 2 and fits[0].endswith("on each device, of 1.00 GiB")
    tight = advice(WIDE, plan, 2**20).splitlines()
    assert tight[2] == "any of these would fit, by the same estimate:"
    assert any(line.startswith("  --config.mesh.data=1 --config.mesh.fsdp=8") for line in tight)
    assert "no single change would fit" in advice(WIDE, plan, 100)


def test_bytes_in_words():
    sizes = (512, 1536, 2**20, 3 * 2**29)
    assert [memory.in_words(s) for s in sizes] == ["0.5 KiB", "1.5 KiB", "1.0 MiB", "1.50 GiB"]


def test_running_out_is_explained_and_other_errors_are_not():
    plan = assemble(CNN)
    exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    # the estimate is far below what there is, so it was wrong: what takes less is said all the same
    with pytest.raises(UserError, match="gradient.accumulate=2") as found, explained(CNN, plan):
        raise exhausted
    assert found.value.__cause__ is exhausted
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explained(CNN, plan):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_run_that_runs_out_says_what_would_fit(tmp_path, monkeypatch, capsys):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: failed to allocate")

    file = tmp_path / "config.json"
    file.write_text(json.dumps(dataclasses.asdict(CNN)))
    monkeypatch.setattr(run, "compile_step", exhausted)
    for module in (memory, run):
        monkeypatch.setattr(module, "limit", lambda: 2**20, raising=False)
    arguments = ["--config", file, "--config.log.sinks=[]", "--workdir", tmp_path / "run"]
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory: a step needs about 2.6 MiB on each device")
    assert "--config.gradient.accumulate=4" in error and "Traceback" not in error
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "out of memory"
