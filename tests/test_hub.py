"""Published weights in and out: classes, channels, sizes, names, places to fetch from."""

import dataclasses
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from jaxdl import hub, models, tree
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, part
from jaxdl.errors import UserError
from jaxdl.hub.convert import flatten_variables
from jaxdl.hub.fetch import fetch
from jaxdl.hub.load import save, transfer
from jaxdl.loaded import load_start
from jaxdl.main import main
from jaxdl.run import run
from jaxdl.session import first_state

sys.path.append(str(ROOT / "tests" / "references"))
from fill import tensor  # noqa: E402


def fresh(name, classes=10, image=(32, 32, 3), **args):
    model = models.create(name, classes, **args)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image)))
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: random.standard_normal(s.shape, np.float32), dict(shapes))
    return model, variables.pop("params"), variables


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """ResNet-18 as torchvision names it, with 1000 classes."""
    shapes = json.loads(str(np.load(ROOT / "tests/references/logits/resnet18.npz")["shapes"]))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    tensors = {k: tensor(k, tuple(s), 2.0).astype(np.float32) for k, s in shapes.items()}
    save_file(tensors | {"bn1.num_batches_tracked": np.array(7)}, path)
    return path, tensors


def test_a_network_ready_to_use(published):
    model, variables = hub.pretrained(published[0], "resnet18", 10, image=(32, 32, 3))
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    logits = jax.jit(model.apply)(variables, image)
    assert logits.shape == (2, 10) and np.isfinite(logits).all()
    stem = published[1]["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(variables["params"]["backbone"]["stem_conv"]["kernel"], stem)


def test_other_classes_keep_a_fresh_head(published):
    path, tensors = published
    model, params, variables = fresh("resnet18", 10)
    new, state = transfer(path, "resnet18", params, variables)
    assert np.array_equal(new["head"]["logits"]["kernel"], params["head"]["logits"]["kernel"])
    found = tree.flatten(new["backbone"])
    stem = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["stem_conv/kernel"], stem)
    changed = [
        n for n, x in found.items() if not np.array_equal(x, tree.flatten(params["backbone"])[n])
    ]
    assert len(changed) == len(found)
    np.testing.assert_array_equal(
        state["batch_stats"]["backbone"]["stem_norm"]["var"], tensors["bn1.running_var"]
    )
    jax.eval_shape(model.apply, {"params": new, **state}, jnp.zeros((1, 32, 32, 3)))


def test_the_same_classes_take_the_head_too(published):
    path, tensors = published
    _, params, variables = fresh("resnet18", 1000)
    new, _ = transfer(path, "resnet18", params, variables)
    np.testing.assert_array_equal(new["head"]["logits"]["kernel"], tensors["fc.weight"].T)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels_see_grey_alike(published, channels):
    # An image whose channels are all equal gives the same maps, however many there are.
    path, tensors = published
    _, params, variables = fresh("resnet18", 10, (32, 32, channels))
    new, _ = transfer(path, "resnet18", params, variables)
    kernel = new["backbone"]["stem_conv"]["kernel"]
    grey = tensors["conv1.weight"].transpose(2, 3, 1, 0).sum(2)
    expected = grey if channels == 1 else grey * 3 / 3
    counts = np.bincount(np.arange(channels) % 3, minlength=3) * 3 / channels
    if channels > 1:
        expected = np.einsum("oihw,i->hwo", tensors["conv1.weight"], counts)
    np.testing.assert_allclose(kernel.sum(2), expected, rtol=1e-4, atol=1e-5)
    if channels in (1, 6):
        np.testing.assert_allclose(kernel.sum(2), grey, rtol=1e-4, atol=1e-5)


def test_positions_follow_the_image_size(tmp_path):
    _, params, variables = fresh("vit_tiny_patch16_224", 10, (64, 64, 3), depth=1)
    path = tmp_path / "vit.safetensors"
    save(path, "vit_tiny_patch16_224", params, variables)
    _, larger, variables = fresh("vit_tiny_patch16_224", 10, (96, 96, 3), depth=1)
    new, _ = transfer(path, "vit_tiny_patch16_224", larger, variables)
    (name,) = [n for n in tree.flatten(params) if n.endswith("/positions")]
    old, found = tree.flatten(params)[name], tree.flatten(new)[name]
    assert old.shape == (1, 17, 192) and found.shape == (1, 37, 192)
    np.testing.assert_array_equal(found[:, 0], old[:, 0])  # the class token's
    grid = jax.image.resize(old[:, 1:].reshape(1, 4, 4, 192), (1, 6, 6, 192), "cubic")
    np.testing.assert_allclose(found[:, 1:], grid.reshape(1, 36, 192), rtol=1e-5, atol=1e-6)


def test_what_is_exported_is_what_the_publisher_would_load(published, tmp_path):
    path, tensors = published
    _, params, variables = fresh("resnet18", 1000)
    new, state = transfer(path, "resnet18", params, variables)
    save(tmp_path / "ours.safetensors", "resnet18", new, state, publisher="torchvision")
    back = load_file(tmp_path / "ours.safetensors")
    assert back.keys() == tensors.keys()
    for name in tensors:
        np.testing.assert_array_equal(back[name], tensors[name])


def test_weights_that_need_another_network_say_so(tmp_path):
    # timm's batch norms have the epsilon of PyTorch, torchvision's that of the authors
    name, image = "mobilenet_v3_small", (32, 32, 3)
    _, params, variables = fresh(name, image=image)
    save(tmp_path / "a.safetensors", name, params, variables, publisher="timm")
    with pytest.warns(UserWarning, match="give 'mobilenet_v3_small' norm=batch"):
        transfer(tmp_path / "a.safetensors", name, params, variables)
    for norm in ("batch", part("batch")):
        transfer(tmp_path / "a.safetensors", name, params, variables, args={"norm": norm})
    save(tmp_path / "b.safetensors", name, params, variables, publisher="torchvision")
    transfer(tmp_path / "b.safetensors", name, params, variables)


def test_publishers_are_told_apart_by_names(tmp_path):
    # resnet20 is published by one hand, and its head is 'linear', not 'fc'
    _, params, variables = fresh("resnet20")
    save(tmp_path / "a.safetensors", "resnet20", params, variables, publisher="akamaster")
    assert "linear.weight" in load_file(tmp_path / "a.safetensors")
    new, _ = transfer(tmp_path / "a.safetensors", "resnet20", params, variables)
    jax.tree.map(np.testing.assert_array_equal, new, params)


def broken(tensors, how):
    tensors = dict(tensors)
    if how == "missing":
        del tensors["layer3.1.bn2.running_var"]
    elif how == "left over":
        tensors["layer5.0.conv1.weight"] = np.zeros((3, 3))
    elif how == "misshapen":
        tensors["layer1.0.conv1.weight"] = np.zeros((64, 32, 3, 3), np.float32)
    elif how == "swapped axes":
        tensors["layer2.0.conv1.weight"] = tensors["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)
    elif how == "a prefix":
        tensors = {f"encoder.{k}": v for k, v in tensors.items()}
    return tensors


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "lacks 'layer3.1.bn2.running_var'$"),
        ("left over", "has 'layer5.0.conv1.weight' too$"),
        ("misshapen", r"'layer1.0.conv1.weight' is \[64, 32, 3, 3\] in the file, the model needs"),
        ("swapped axes", "'layer2.0.conv1.weight' is"),
        ("a prefix", "lacks .* and .* more and has 'encoder"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(published, tmp_path, how, said):
    path = tmp_path / "broken.safetensors"
    arrays = {k: np.ascontiguousarray(v) for k, v in broken(published[1], how).items()}
    save_file(arrays, path)
    _, params, variables = fresh("resnet18")
    with pytest.raises(UserError, match=f"broken.safetensors.*{said}"):
        transfer(path, "resnet18", params, variables)


def test_a_model_nobody_published():
    _, params, variables = fresh("cnn")
    with pytest.raises(UserError, match="no published names are known for 'cnn'"):
        transfer(__file__, "cnn", params, variables)


# Places to fetch from


class Stand(http.server.SimpleHTTPRequestHandler):
    """A stand-in for the Hugging Face hub: the addresses and headers its client relies on."""

    asked = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.asked.append(self.path)
        file = Path(self.directory) / self.path.lstrip("/").replace("/resolve/main", "")
        if not file.is_file():
            self.send_response(404)
            repository = (Path(self.directory) / "/".join(self.path.split("/")[1:3])).is_dir()
            self.send_header("X-Error-Code", "EntryNotFound" if repository else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"' + "a" * 40 + '"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def stand(tmp_path):
    handler = lambda *args: Stand(*args, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "site"
    server.shutdown()
    server.server_close()


def hub_client(code, endpoint, home):
    # The client reads its environment once, when it is imported: so a process of its own.
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    code = f"from jaxdl.hub.fetch import fetch\nfrom jaxdl.errors import UserError\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hugging_face_id_is_fetched_once(stand, published, tmp_path):
    endpoint, site = stand
    (site / "timm" / "resnet18.a1_in1k").mkdir(parents=True)
    (site / "timm" / "resnet18.a1_in1k" / "model.safetensors").write_bytes(
        published[0].read_bytes()
    )
    said = hub_client("print(fetch('timm/resnet18.a1_in1k'))", endpoint, tmp_path / "home")
    assert Path(said).read_bytes() == published[0].read_bytes()
    before = len(Stand.asked)
    again = hub_client("print(fetch('timm/resnet18.a1_in1k'))", endpoint, tmp_path / "home")
    assert again == said
    fetched = [path for path in Stand.asked[before:] if not path.startswith("/api")]
    assert len(fetched) <= 1  # it asks whether the file is still the same

    code = "try: fetch('timm/no_such')\nexcept UserError as e: print(e)"
    assert "cannot fetch 'timm/no_such'" in hub_client(code, endpoint, tmp_path / "home")
    (site / "timm" / "empty").mkdir()
    code = "try: fetch('timm/empty')\nexcept UserError as e: print(e)"
    assert "'timm/empty' holds no model.safetensors" in hub_client(
        code, endpoint, tmp_path / "home"
    )


def test_an_address_is_fetched_once_and_checked(stand, tmp_path, monkeypatch):
    endpoint, site = stand
    monkeypatch.setenv("JAXDL_CACHE", str(tmp_path / "cache"))
    site.mkdir()
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    (site / f"net-{digest}.pth").write_bytes(b"weights")
    (site / "net-00000000.pth").write_bytes(b"weights")
    path = fetch(f"{endpoint}/net-{digest}.pth")
    assert path.read_bytes() == b"weights"
    before = len(Stand.asked)
    assert fetch(f"{endpoint}/net-{digest}.pth") == path and len(Stand.asked) == before
    with pytest.raises(UserError, match="came damaged"):
        fetch(f"{endpoint}/net-00000000.pth")
    with pytest.raises(UserError, match="cannot fetch .*404"):
        fetch(f"{endpoint}/none.pth")
    assert [p.name for p in (tmp_path / "cache").rglob("*.pth*")] == [path.name]


@pytest.mark.parametrize("source", ["no/such/file.pth", "weights.safetensors", "./x", "resnet18"])
def test_a_path_that_is_not_there(source):
    with pytest.raises(UserError, match="no file of weights"):
        fetch(source)


# Through the program


def tiny(**more):
    return Config(
        data=Data(source=part("digits"), batch_size=64),
        model=part("resnet20", width=4),
        optimizer=part("sgd", learning_rate=0.05),
        duration="3 steps",
        **more,
    )


def test_a_run_exported_is_where_another_begins(tmp_path, capsys):
    config = tiny(average=part("ema", decay=0.5))
    run(config, tmp_path / "a")
    file = tmp_path / "a.safetensors"
    assert main(["export", str(tmp_path / "a"), str(file)]) == 0
    capsys.readouterr()
    begun = load_start(tiny(init_from=str(file))).evaluate()
    assert main(["evaluate", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(begun, rel=1e-6)

    config = tiny(init_from=str(file), average=part("ema", decay=0.5), wrappers=(part("sam"),))
    plan = assemble(config)
    state = first_state(config, plan)
    other = first_state(dataclasses.replace(config, init_from=None), plan)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, other)
    chex.assert_trees_all_equal(state.average["params"], state.params)
    leaves = jax.tree.leaves((state.average, state.params))
    pointers = [x.addressable_data(0).unsafe_buffer_pointer() for x in leaves]
    assert len(set(pointers)) == len(pointers)  # the step donates each of them


def test_a_run_whose_weights_do_not_fit_says_so(tmp_path, capsys):
    _, params, variables = fresh("resnet32", 10, (8, 8, 1), width=4)
    save(tmp_path / "w.safetensors", "resnet32", params, variables)
    command = [f"{ROOT}/configs/resnet.py:digits", f"--config.init_from={tmp_path}/w.safetensors"]
    assert main(["evaluate", "--config", *command]) == 2
    assert "the weights do not fit the model" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.parametrize(
    ("depth", "weights", "error"),
    [("20", "resnet20-12fca82f.th", 18.97), ("32", "resnet32-d509ac18.th", 17.44)],
)
def test_published_cifar_networks_make_their_known_errors(depth, weights, error, capsys):
    # Measured by an independent conversion on the same JPEG copy of the test images.
    file = Path(os.environ["TFDS_DATA_DIR"]).parent / "weights" / weights
    if not file.is_file():
        pytest.skip(f"no {file.name} beside the data sets")
    command = [
        *("evaluate", "--json", "--config", f"{ROOT}/configs/resnet.py:cifar10,{depth}"),
        f"--config.init_from={file}",
        *("--config.data.train=train[:100]", "--config.data.validation="),
        "--config.preprocess.0.mean=[0.485,0.456,0.406]",
        "--config.preprocess.0.std=[0.229,0.224,0.225]",
    ]
    assert main(command) == 0
    assert 100 * (1 - json.loads(capsys.readouterr().out)["accuracy"]) == pytest.approx(
        error, abs=0.1
    )


def test_flattened_variables_have_no_name_twice():
    _, params, variables = fresh("resnet20")
    both = flatten_variables(params, variables)
    assert len(both) == len(jax.tree.leaves(params)) + len(jax.tree.leaves(variables))
