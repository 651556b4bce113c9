"""A run begins from anything: other runs, files, module by module, whatever the model."""

import dataclasses
import shutil
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import BUILT

from jaxdl import init_from, models, registry, tree
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Mesh, Part, Population, part
from jaxdl.config_file import from_json, to_json
from jaxdl.errors import UserError
from jaxdl.hub.load import save
from jaxdl.init_from import beginning, filled, read_beginning
from jaxdl.main import main
from jaxdl.nn import conv
from jaxdl.objectives.base import put
from jaxdl.override import override
from jaxdl.population.run import run as run_members
from jaxdl.population.session import Population as Members
from jaxdl.run import run
from jaxdl.rundir.weights import RunWeights, run_weights
from jaxdl.session import first_state
from jaxdl.types import CONSTANT, Objective

# All registered models, by shapes


def shapes_of(name, classes=10, image=None, **args):
    model = models.create(name, classes, **args)
    inputs = models.input_specs(model, image or models.input_shape(name))
    with conv.target("tpu"):
        variables = dict(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    return variables.pop("params"), variables


def telling(shapes):
    """A number for each leaf, by which it is known again; no memory for it."""
    number = lambda name: np.float32(zlib.crc32(name.encode()) % 10**6)
    return jax.tree.map(
        lambda s, name: np.broadcast_to(number(name), s.shape), shapes, tree.names(shapes)
    )


def with_classes(shapes, classes):
    """The same network for other classes: the last axis of what computes logits is another."""
    resized = lambda s: jax.ShapeDtypeStruct((*s.shape[:-1], classes), s.dtype)
    reads = lambda name, s: ("/logits/" in name or "/head/" in name) and s.shape[-1] == 10
    return jax.tree.map(
        lambda s, name: resized(s) if reads(name, s) else s, shapes, tree.names(shapes)
    )


def begun(monkeypatch, name, theirs, here, args):
    """What a run of one model begins with from another of the same."""
    config = Config(model=Part(name, args), init_from="the run")
    weights = RunWeights(config, 7, False, *theirs)
    monkeypatch.setattr(init_from, "_run_of", lambda source: (source,))
    monkeypatch.setattr(init_from, "run_weights", lambda workdir: weights)
    found = beginning({"": config.model}, {"": "the run"}, *here)
    assert len(found.lines) == 1 and found.lines[0].startswith(f"the run ({name}, step 7): ")
    return found.values, found.lines[0]


@pytest.mark.parametrize("name", [e.name for e in registry.entries("models")])
def test_all_leaves_but_those_that_the_line_names_are_the_sources(name, monkeypatch):
    side, args = BUILT.get(name, (None, {}))
    channels = 1 if name.startswith("lenet") else 3
    here = shapes_of(name, 10, side and (side, side, channels), **args)
    theirs = telling(here)
    values, line = begun(monkeypatch, name, theirs, with_classes(here, 12), args)
    expected = tree.flatten({"params": theirs[0], "variables": theirs[1]})
    if "tokens" not in registry.find("models", name).metadata:
        assert "of another shape, fresh: params/" in line and "[10] there, [12] here" in line
    fresh = [n for n in expected if n not in values]
    assert all("/logits/" in n or "/head/" in n for n in fresh)
    assert all(f"{n} [" in line for n in fresh)
    for n, value in values.items():
        assert value.dtype == np.float32 and value.shape == expected[n].shape
        assert (value.flat[0] if value.size else 0) == expected[n].flat[0]
        assert value.strides == expected[n].strides  # all elements are that one


OF_ONE_SIZE = {"mlp", "lenet5", "lenet1989", "mixer_s32_224"}
"""Families that read images of one size: layers that see a whole map have kernels of its size."""
OF_SOME_CHANNELS = {"mlp"}
"""The families whose first layer is not a convolution."""


@pytest.mark.parametrize("name", BUILT)
def test_another_size_and_other_channels_where_the_family_allows_it(name, monkeypatch):
    side, args = BUILT[name]
    channels = 1 if name.startswith("lenet") else 3
    here = shapes_of(name, 10, (side, side, channels), **args)
    theirs = telling(here)
    larger = shapes_of(name, 10, (2 * side, 2 * side, channels), **args)
    values, line = begun(monkeypatch, name, theirs, larger, args)
    assert ("of another shape, fresh: " in line) == (name in OF_ONE_SIZE), line
    assert (len(values) == len(jax.tree.leaves(larger))) == (name not in OF_ONE_SIZE)
    other = shapes_of(name, 10, (side, side, 4 - channels), **args)
    values, line = begun(monkeypatch, name, theirs, other, args)
    assert ("of another shape, fresh: " in line) == (name in OF_SOME_CHANNELS), line
    assert ("adapted: params/backbone/" in line) == (name not in OF_SOME_CHANNELS)
    flat = tree.flatten({"params": other[0], "variables": other[1]})
    assert all(values[n].shape == flat[n].shape for n in values)


def test_channels_are_summed_or_repeated_and_positions_interpolated(monkeypatch):
    name, args = "vit_tiny_patch16_224", BUILT["vit_tiny_patch16_224"][1]
    here = shapes_of(name, 10, (32, 32, 3), **args)
    rng = np.random.default_rng(0)
    theirs = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), here)
    values, line = begun(monkeypatch, name, theirs, shapes_of(name, 10, (64, 64, 1), **args), args)
    kernel = "params/backbone/patch_embed/project/kernel"
    old = tree.flatten({"params": theirs[0]})
    np.testing.assert_allclose(values[kernel], old[kernel].sum(axis=2, keepdims=True), rtol=1e-6)
    positions = "params/backbone/position_embed/positions"
    grid = old[positions][0, 1:].reshape(4, 4, -1)
    wanted = jax.image.resize(jnp.asarray(grid), (8, 8, grid.shape[-1]), "cubic")
    np.testing.assert_allclose(values[positions][0, 1:], wanted.reshape(64, -1), atol=1e-5)
    np.testing.assert_array_equal(values[positions][:, 0], old[positions][:, 0])
    assert f"adapted: {kernel} [8, 8, 3, 24] there, [8, 8, 1, 24] here" in line


# Runs on disk


def small(**more):
    fields = {
        "data": Data(source=part("fake", examples=64), batch_size=16),
        "model": part("resnet20", width=2),
        "optimizer": part("sgd", learning_rate=0.05, momentum=0.9),
        "schedule": part("constant"),
        "duration": "2 steps",
    }
    return Config(**{**fields, **more})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "a"
    run(small(average=part("ema", decay=0.5), seed=1), workdir)
    return workdir


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "b"
    run(small(seed=2), workdir)
    return workdir


def test_a_run_begins_with_the_weights_that_another_is_judged_by(finished):
    config = small(init_from=str(finished), average=part("ema"))
    state = first_state(config, assemble(config))
    weights = run_weights(finished)
    assert weights.averaged
    chex.assert_trees_all_equal(state.params, weights.params)
    chex.assert_trees_all_equal(state.variables, weights.variables)
    chex.assert_trees_all_equal(state.average["params"], weights.params)
    fresh = first_state(small(), assemble(small()))
    chex.assert_trees_all_equal(state.key, fresh.key)
    assert int(state.step) == 0
    raw = small(init_from=f"{finished}@raw@2")
    state = first_state(raw, assemble(raw))
    chex.assert_trees_all_equal(state.params, run_weights(finished, "raw").params)


def test_module_by_module(finished, another, tmp_path, capsys):
    config = small(init_from={"backbone": str(finished), "head": str(another)})
    state = first_state(config, assemble(config))
    a, b = run_weights(finished), run_weights(another)
    chex.assert_trees_all_equal(state.params["backbone"], a.params["backbone"])
    chex.assert_trees_all_equal(state.variables, a.variables)
    chex.assert_trees_all_equal(state.params["head"], b.params["head"])
    assert [line.partition(" from ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "backbone", "head",
    ]  # fmt: skip

    longer = {"backbone": str(finished), "backbone/stem_conv": str(another)}
    state = first_state(small(init_from=longer), assemble(small(init_from=longer)))
    chex.assert_trees_all_equal(
        state.params["backbone"],
        {**a.params["backbone"], "stem_conv": b.params["backbone"]["stem_conv"]},
    )

    file = tmp_path / "w.safetensors"
    save(file, "resnet20", a.params, a.variables)
    config = small(init_from={"backbone": str(file)})
    state, fresh = (first_state(c, assemble(c)) for c in (config, small()))
    chex.assert_trees_all_equal(state.params["backbone"], a.params["backbone"])
    chex.assert_trees_all_equal(state.params["head"], fresh.params["head"])


def test_a_head_of_other_classes_stays_fresh_and_the_line_says_so(finished, tmp_path, capsys):
    data = Data(source=part("fake", examples=64, num_classes=7), batch_size=16)
    config = small(init_from=str(finished), data=data)
    state = first_state(config, assemble(config))
    fresh = first_state(small(data=data), assemble(small(data=data)))
    chex.assert_trees_all_equal(state.params["head"], fresh.params["head"])
    chex.assert_trees_all_equal(state.params["backbone"], run_weights(finished).params["backbone"])
    capsys.readouterr()
    run(config, tmp_path / "c")
    said = [s for s in capsys.readouterr().out.splitlines() if "begins with" in s]
    assert len(said) == 1 and said[0].endswith(
        "of another shape, fresh: params/head/logits/bias [10] there, [7] here, "
        "params/head/logits/kernel [8, 10] there, [8, 7] here"
    )
    assert "begins with" not in (tmp_path / "c" / "config.json").read_text()


def test_a_longer_network_of_the_family_and_what_is_left_over(finished):
    config = small(model=part("resnet32", width=2), init_from=str(finished))
    line = read_beginning(config, assemble(config)).lines[0]
    assert "not there, fresh: params/backbone/stage1_block4/*" in line


def test_it_is_not_read_again_where_training_goes_on(finished, tmp_path, capsys):
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(finished, source)
    config = small(init_from=str(source), duration="3 steps")
    run(dataclasses.replace(config, duration="2 steps"), workdir)
    shutil.rmtree(source)
    capsys.readouterr()
    run(config, workdir)
    assert "begins with" not in capsys.readouterr().out
    assert run_weights(workdir).step == 3


def test_on_split_devices_it_is_the_same(finished):
    config = small(init_from=str(finished), mesh=Mesh(fsdp=4, data=2))
    state = first_state(config, assemble(config))
    chex.assert_trees_all_equal(jax.device_get(state.params), run_weights(finished).params)


def test_members_of_a_population_begin_alike_and_go_on(finished, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(finished, source)
    data = Data(source=part("fake", examples=64, num_classes=7), batch_size=16)
    config = small(
        init_from=str(source),
        data=data,
        average=part("ema"),
        population=Population(seeds=2, grid={"optimizer.learning_rate": (0.01, 0.02)}),
    )
    alone = dataclasses.replace(config, population=None)
    plan = assemble(alone)
    with Members(config, plan, tmp_path / "look", begin=read_beginning(alone, plan)) as members:
        state = members.start().state
    backbone = run_weights(finished).params["backbone"]
    for i in range(4):
        of_one = jax.tree.map(lambda x, i=i: x[i], state)
        single = dataclasses.replace(alone, seed=i % 2)
        chex.assert_trees_all_equal(of_one.params["backbone"], backbone)
        expected = first_state(single, assemble(single)).params["head"]
        chex.assert_trees_all_close(of_one.params["head"], expected, rtol=1e-6, atol=1e-7)
        chex.assert_trees_all_equal(of_one.average["params"], of_one.params)
    run_members(config, tmp_path / "p")
    shutil.rmtree(source)
    run_members(dataclasses.replace(config, duration="3 steps"), tmp_path / "p")
    assert run_weights(tmp_path / "p" / "members" / "3").step == 3


# The shell


@pytest.mark.parametrize(
    ("assignments", "wanted"),
    [
        ([("init_from", "runs/a")], "runs/a"),
        ([("init_from", "2024")], "2024"),
        ([("init_from.backbone", "runs/a")], {"backbone": "runs/a"}),
        (
            [("init_from", '{"backbone": "runs/a"}'), ("init_from.constant/teacher", "runs/b@9")],
            {"backbone": "runs/a", "constant/teacher": "runs/b@9"},
        ),
        ([("init_from", "runs/a"), ("init_from", "null")], None),
    ],
)
def test_it_is_said_in_the_shell(assignments, wanted):
    config = override(Config(), assignments)
    assert config.init_from == wanted
    assert from_json(to_json(config)) == config


def test_a_path_into_a_source_for_everything_is_answered():
    with pytest.raises(UserError, match="config.init_from is 'runs/a': nothing can be set inside"):
        override(Config(init_from="runs/a"), [("init_from.head", "runs/b")])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=cnn", "init_from={run}"], "these weights do not fit model 'cnn'"),
        (["model=vit_tiny_patch16_224(depth=1,width=12,patch_size=4)", "init_from={run}"], "fit"),
        (["init_from.backbon={run}"], "no module 'backbon': did you mean 'backbone'"),
        (["init_from.constant/teacher={run}"], "no module 'constant/teacher'"),
        (["init_from={run}@9"], "has no '@9': choices: 2, latest, raw"),
        (["init_from={run}/tensorboard"], "has no checkpoints: is it a run directory"),
        (["init_from={run}x"], "no file of weights"),
    ],
)
def test_what_does_not_fit_ends_before_anything_compiles(
    overrides, message, finished, tmp_path, capsys
):
    (tmp_path / "c.json").write_text(to_json(small()))
    arguments = [f"--config.{o.format(run=finished)}" for o in overrides]
    compiled = []
    note = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(note)
    command = ["--config", str(tmp_path / "c.json"), "--workdir", str(tmp_path / "r"), *arguments]
    assert main(command) == 2
    jax.monitoring.unregister_event_duration_listener(note)
    assert not compiled and not (tmp_path / "r").exists()
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_here_wins_over_the_hub(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init_from, "published", lambda source, *_, **__: {"asked": source})
    assert init_from._run_of("owner/name") is None
    shutil.copytree(finished, "owner/name")
    assert (
        read_beginning(small(init_from="owner/name"), assemble(small()))
        .lines[0]
        .startswith("owner/name (resnet20, step 2, averaged): ")
    )


def test_what_has_no_place_is_fresh():
    params = {"backbone": {"kernel": np.zeros(2)}, "head": {"bias": np.ones(3)}}
    found, _ = filled({"params/backbone/kernel": np.full(2, 5.0)}, params, {})
    np.testing.assert_array_equal(found["backbone"]["kernel"], [5, 5])
    assert found["head"] is not params and found["head"]["bias"] is params["head"]["bias"]


def test_a_network_that_never_moves_begins_from_a_run_too(
    finished, another, own_registry, tmp_path, capsys
):
    @registry.register("regularizers")
    def beside(objective: Objective, /) -> Objective:
        """The objective with a frozen copy of its network beside it."""

        def init(key, batch):
            params, variables = objective.init(key, batch)
            frozen = {"params": params, "variables": variables}
            return params, put(variables, CONSTANT, "teacher", frozen)

        return objective._replace(init=init)

    sources = {"backbone": str(finished), "constant/teacher": f"{another}@raw"}
    config = small(regularizers=(part("beside"),), init_from=sources)
    state = first_state(config, assemble(config))
    a, b = run_weights(finished), run_weights(another, "raw")
    chex.assert_trees_all_equal(state.params["backbone"], a.params["backbone"])
    chex.assert_trees_all_equal(
        state.constant["teacher"], {"params": b.params, "variables": b.variables}
    )
    assert "teacher" not in state.variables
    inner = {"constant/teacher": str(another), "constant/teacher/head": str(finished)}
    config = dataclasses.replace(config, init_from=inner)
    state = first_state(config, assemble(config))
    found = state.constant["teacher"]["params"]
    chex.assert_trees_all_equal(found["backbone"], b.params["backbone"])
    chex.assert_trees_all_equal(found["head"], a.params["head"])
    population = dataclasses.replace(config, population=Population(seeds=2))
    with Members(
        population, assemble(config), tmp_path, begin=read_beginning(config, assemble(config))
    ) as members:
        chex.assert_trees_all_equal(members.start().state.constant["teacher"]["params"], found)
    with pytest.raises(UserError, match="no module 'constant/teach': did you mean 'constant/t"):
        read_beginning(small(init_from={"constant/teach": "x"}), assemble(config))


def test_a_source_that_is_not_there_is_named_first():
    config = Config(model=part("cnn"), init_from="runs/mistyped")
    with pytest.raises(UserError, match="^'runs/mistyped' is not a file or directory here, and"):
        read_beginning(config, assemble(config))
