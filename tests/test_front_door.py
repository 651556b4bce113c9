"""`import jaxdl`: names by tab without JAX, rooms as tables whatever was imported before."""

import ast
import importlib
import pkgutil
import pydoc
import subprocess
import sys
import types

import pytest
from conftest import ROOT

import jaxdl
from jaxdl import registry
from jaxdl.assemble import import_user_module
from jaxdl.errors import UserError

MODULES = [m.name for m in pkgutil.walk_packages(jaxdl.__path__, "jaxdl.")]
ROOMS = [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")]
OFFERED = {
    "Config",
    "part",
    "load",
    "create_model",
    "list_models",
    "load_run",
    "pretrained",
    "register",
}

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
    completions = room._ipython_key_completions_()
    assert completions == list(room) == room.keys() and len(room) == len(completions)
    text = pydoc.plain(pydoc.render_doc(room))
    for entry in registry.entries(kind):
        assert room[kind, entry.name] is entry.build
        assert entry.name in room and entry.name in completions
        assert (entry.name in dir(room)) == (entry.name != "spatial")  # which is of two kinds
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
