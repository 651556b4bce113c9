"""`import jaxdl`: names by tab without JAX, rooms as tables whatever was imported before."""

import ast
import dataclasses
import importlib
import json
import os
import pkgutil
import pydoc
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ROOT

import jaxdl
from jaxdl import registry
from jaxdl.assemble import import_user_module
from jaxdl.config import Log, Population
from jaxdl.config_file import to_json
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.rundir.outputs import read_outputs
from jaxdl.rundir.read import read_metrics

MODULES = [m.name for m in pkgutil.walk_packages(jaxdl.__path__, "jaxdl.")]
ROOMS = [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")]
OFFERED = {
    "Config", "part", "load", "fit", "evaluate", "predict", "create_model", "list_models",
    "pretrained", "load_run", "register",
}  # fmt: skip
TINY = jaxdl.Config(
    model=jaxdl.part("mlp", widths=[8]), duration="20 steps", log=Log(sinks=()), augment=()
)

OWN_LOSS = """
from jaxdl.registry import register


@register("losses")
def half_squared(logits, label, /):
    \'\'\'Half of the squared distance, from a file outside the package.\'\'\'
    return 0.5 * (logits[:, 0] - label) ** 2
"""


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported():
    """Importing a submodule sets an attribute on its package: no table may be lost by that."""
    for name in MODULES:
        importlib.import_module(name)


@pytest.fixture(params=sorted({(kind, room) for kind, room in registry.ROOMS.items()}))
def kind_and_room(request):
    kind, room = request.param
    return kind, importlib.import_module(room)


def without_jax(code):
    code = f"import sys\n{code}\nassert not {{'jax', 'numpy', 'flax'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_free_of_jax():
    without_jax(
        "import jaxdl\n"
        "assert jaxdl.load('configs/cnn.py') == jaxdl.load('configs/cnn.py')\n"
        "config = jaxdl.Config(model=jaxdl.part('mlp', widths=[4]))\n"
        "jaxdl.register, jaxdl.losses, jaxdl.verbs, dir(jaxdl), dir(jaxdl.verbs), jaxdl.train"
    )


def test_what_the_front_door_offers():
    rooms = {name.removeprefix("jaxdl.") for name in ROOMS if name.count(".") == 1}
    assert {n for n in dir(jaxdl) if not n.startswith("_")} == OFFERED | rooms
    for name in dir(jaxdl):
        assert getattr(jaxdl, name) is not None
    assert not OFFERED & {name.split(".")[1] for name in MODULES}  # importing would replace it
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        _ = jaxdl.fti


def test_type_checkers_see_the_names_that_are_offered():
    (block,) = [n for n in ast.parse((ROOT / "jaxdl/__init__.py").read_text()).body if
                isinstance(n, ast.If)]  # fmt: skip
    seen = {"create_model": "jaxdl.models.create"}
    for node in block.body:
        if isinstance(node, ast.ImportFrom) and node.module != "jaxdl":
            seen |= {alias.asname: f"{node.module}.{alias.name}" for alias in node.names}
    assert seen == jaxdl._HOMES


@pytest.mark.parametrize("name", ROOMS)
def test_a_package_is_a_room_and_still_a_package(name):
    room = importlib.import_module(name)
    assert isinstance(room, types.ModuleType) and bool(room)
    assert not {m.name for m in pkgutil.iter_modules(room.__path__)} & {"keys", "values", "items"}
    for attribute in dir(room):
        getattr(room, attribute)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nosuch'"):
        _ = room.nosuch


def test_every_registered_thing_is_reached(kind_and_room):
    kind, room = kind_and_room
    kinds = [k for k, package in registry.ROOMS.items() if package == room.__name__]
    completions = room._ipython_key_completions_()
    assert completions == list(room) == room.keys() and len(room) == len(completions)
    text = pydoc.plain(pydoc.render_doc(room))
    for entry in registry.entries(kind):
        assert room[kind, entry.name] is entry.build
        assert entry.name in room and entry.name in completions
        shared = sum(e.name == entry.name for k in kinds for e in registry.entries(k)) > 1
        assert (entry.name in dir(room)) != shared
        assert f"    {entry.name} " in text and entry.summary in text


def test_by_name():
    assert jaxdl.losses["focal"] is registry.find("losses", "focal").build
    assert jaxdl.optim["adamw"](learning_rate=0.1).init
    assert jaxdl.models["lenet5"] is jaxdl.models.lenet.lenet5
    assert isinstance(jaxdl.losses.focal, types.ModuleType)  # the file, as Python has it
    assert jaxdl.list_models("resnet*")[:2] == ["resnet18", "resnet20"]
    assert jaxdl.create_model("mlp", 3, widths=[4]).head.num_classes == 3


@pytest.mark.parametrize(
    ("room", "key", "message"),
    [
        ("losses", "fokal", r"jaxdl.losses has no 'fokal': did you mean 'focal'\?"),
        ("nn", "spatial", r"write jaxdl.nn\['gates', 'spatial'\] or jaxdl.nn\['dropouts', 'spa"),
        ("optim", ("scedules", "cosine"), "no kind 'scedules': did you mean 'schedules'"),
        ("optim", ("schedules", "adamw"), "jaxdl.optim has no 'adamw'"),
        ("perf", "bench", "jaxdl.perf has no 'bench': there are none"),
    ],
)
def test_a_name_that_is_not_there(room, key, message):
    with pytest.raises(UserError, match=message):
        getattr(jaxdl, room)[key]


def test_a_loss_of_one_s_own_appears(own_registry, tmp_path):
    assert "half_squared" not in jaxdl.losses
    own = tmp_path / "own_loss.py"
    own.write_text(OWN_LOSS)
    import_user_module(str(own))
    assert jaxdl.losses["half_squared"](jaxdl.nn.norm.jnp.ones((2, 1)), 0).tolist() == [0.5, 0.5]
    for names in (jaxdl.losses, dir(jaxdl.losses), jaxdl.losses._ipython_key_completions_()):
        assert "half_squared" in names
    assert "Half of the squared distance" in pydoc.render_doc(jaxdl.losses)
    assert jaxdl.losses.half_squared is jaxdl.losses["half_squared"]
    sys.modules.pop("own_loss")


def test_fit_is_what_the_command_does(tmp_path, capsys):
    run = jaxdl.fit(TINY, tmp_path / "here")
    (tmp_path / "config.json").write_text(to_json(TINY))
    assert main(["--config", f"{tmp_path}/config.json", "--workdir", f"{tmp_path}/there"]) == 0
    here, there = (read_metrics(tmp_path / name) for name in ("here", "there"))
    timing = ("train/images_per_second", "train/data_wait")
    strip = lambda lines: [{k: v for k, v in x.items() if k not in timing} for x in lines]
    assert strip(here) == strip(there)
    assert (tmp_path / "here" / "report.html").is_file()

    values = {k: v for line in here for k, v in line.items()}
    assert run.evaluate("test")["accuracy"] == pytest.approx(values["test/accuracy"])
    assert jaxdl.evaluate(run) == jaxdl.evaluate(tmp_path / "here") == run.evaluate("test")
    outputs = read_outputs(tmp_path / "here")
    test = run.opened("test")
    images = test.examples(np.arange(len(test)))["image"]
    loaded = jaxdl.load_run(tmp_path / "here")
    for answer in (run.predict(images), jaxdl.predict(run, images), loaded.predict(images)):
        np.testing.assert_allclose(answer["logits"], outputs.logits, atol=1e-5)

    capsys.readouterr()
    again = jaxdl.fit(TINY, str(tmp_path / "here"))
    assert "compiled" not in capsys.readouterr().out
    assert again.evaluate("test") == run.evaluate("test")


def test_fit_of_a_population_gives_the_best_member(tmp_path):
    population = dataclasses.replace(TINY, population=Population(seeds=2))
    run = jaxdl.fit(population, tmp_path)
    rows = json.loads((tmp_path / "members.json").read_text())
    best = max(rows, key=lambda row: row["validation/accuracy"])
    assert run.evaluate("test")["accuracy"] == pytest.approx(best["test/accuracy"])


def test_what_fit_is_not_given(tmp_path):
    with pytest.raises(UserError, match=r"such as jaxdl.load\('cnn'\) gives, not a str"):
        jaxdl.fit("cnn", tmp_path)
    with pytest.raises(UserError, match=r"config.model: in Python, write jaxdl.part\('cnn'\)"):
        jaxdl.fit(jaxdl.Config(model="cnn"))
    with pytest.raises(UserError, match=r"config.augment.0: in Python, write jaxdl.part"):
        jaxdl.fit(jaxdl.Config(augment=("random_flip",)), tmp_path)


TAB = """
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell()
shell.run_cell("import jaxdl")
with provisionalcompleter():
    for typed in ('jaxdl.', 'jaxdl.losses["fo', 'jaxdl.optim["adamw', 'jaxdl.train.ste'):
        print(*(c.text for c in shell.Completer.completions(typed, len(typed))))
"""


def test_tab_in_ipython(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TAB], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, losses, optimizers, files = (line.split() for line in done.stdout.splitlines())
    rooms = {name.removeprefix("jaxdl.") for name in ROOMS if name.count(".") == 1}
    assert OFFERED | rooms <= set(names)
    assert losses == ["focal", "focal_tversky"] and optimizers == ["adamw"] and files == ["step"]
