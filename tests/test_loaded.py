"""A finished run in hand: what it predicts is what it was judged by, without its data."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_outputs import CONFIG, EXAMPLES

from jaxdl.assemble import assemble
from jaxdl.config import Data, Evaluation, Log, part
from jaxdl.data.images import load
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.run import run
from jaxdl.rundir.outputs import read_outputs
from jaxdl.session import final_state, weights_of


def folder_of_images(root):
    """A data set of three classes, larger than the run's images and not square."""
    random = np.random.default_rng(0)
    for split, n in {"train": 8, "validation": 4, "test": 24}.items():
        for k, name in enumerate(("ant", "bee", "cat")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                image = random.integers(60 * k, 60 * k + 100, (14, 18, 3)).astype(np.uint8)
                Image.fromarray(image).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run whose data is gone, and its test images as the source gave them."""
    root = tmp_path_factory.mktemp("loaded")
    data = folder_of_images(root / "data")
    source = part("folder", path=str(data), image_size=10)
    config = dataclasses.replace(
        CONFIG, data=Data(source=source, batch_size=8, evaluation_batch_size=32)
    )
    run(config, root / "run")
    images = assemble(config).splits["test"].arrays["image"]
    shutil.rmtree(data)
    return root / "run", images


def test_predictions_are_the_outputs_of_the_run_without_its_data(moved):
    workdir, images = moved
    found, kept = load_run(workdir), read_outputs(workdir)
    assert found.class_names == ("ant", "bee", "cat")
    # Not a whole number of batches, and random views that depend on the place in a batch.
    answers = found.predict(images[:50])
    np.testing.assert_allclose(answers["logits"], kept.logits[:50], atol=1e-4)
    np.testing.assert_array_equal(answers["label"], kept.logits[:50].argmax(-1))
    np.testing.assert_allclose(answers["probability"].sum(-1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="no folder"):
        found.evaluate("test")


def test_the_weights_are_the_average_that_judges_unless_others_are_asked_for(moved):
    workdir, images = moved
    kept = read_outputs(workdir).logits[:8]
    raw = load_run(workdir, "raw").predict(images[:8])["logits"]
    assert np.abs(raw - kept).max() > 1e-3
    with pytest.raises(UserError, match="has no '@7'"):
        load_run(workdir, "7")


def test_images_of_any_size_are_fitted_as_the_source_does(moved, tmp_path):
    workdir, _ = moved
    random = np.random.default_rng(1)
    files = []
    for i, size in enumerate([(14, 18, 3), (30, 12, 3), (10, 10, 3)]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(random.integers(0, 256, size).astype(np.uint8)).save(files[-1])
    grey = random.integers(0, 256, (20, 20)).astype(np.uint8)
    found = load_run(workdir)
    stored = found.stored([*(load(f, 3) for f in files), grey])
    assert stored.shape == (4, 10, 10, 3) and stored.dtype == np.uint8
    # By Pillow: the shorter side to 10, then the middle.
    picture = Image.open(files[0]).resize((13, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(stored[0], np.asarray(picture.crop((1, 0, 11, 10))))
    np.testing.assert_array_equal(stored[3, ..., 0], stored[3, ..., 2])
    assert found.features(stored).shape == (4, 8)
    np.testing.assert_array_equal(found.stored([str(files[0]), files[1]]), stored[:2])


def test_no_images_have_no_predictions(moved):
    with pytest.raises(UserError, match="at least one image"):
        load_run(moved[0]).predict([])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("a.png", r"give a list of images or of their files: \['a.png'\]"),
        (["nosuch.png"], "cannot read the image nosuch.png"),
        (np.zeros((8, 8), np.uint8), r"one of these is uint8\[8\]"),
        (np.zeros((2, 8, 8, 3), np.float32), r"one of these is float32\[8, 8, 3\]"),
    ],
)
def test_what_cannot_be_an_image_is_said(moved, images, said):
    with pytest.raises(UserError, match=said):
        load_run(moved[0]).predict(images)


def test_a_run_in_hand_is_shown_on_one_line(moved):
    assert repr(load_run(moved[0])).startswith("LoadedRun(")
    assert "\n" not in repr(load_run(moved[0])) and len(repr(load_run(moved[0]))) < 400


def test_a_run_of_an_older_program_is_loaded_by_its_data(tmp_path):
    run(CONFIG, tmp_path)
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["data"]["elements"]
    file.write_text(json.dumps(manifest))
    split = assemble(CONFIG).splits["test"]
    logits = load_run(tmp_path).predict(split.arrays["image"])["logits"]
    np.testing.assert_allclose(logits, read_outputs(tmp_path).logits, atol=1e-5)
    assert len(logits) == EXAMPLES


def test_statistics_are_found_anew_as_the_run_found_them(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=part("cnn", widths=[4]),
        average=part("swa", start=2, every=2),
        augment=(part("random_flip"),),
        evaluation=Evaluation(norm_batches=3),
        duration="6 steps",
    )
    run(config, tmp_path)
    plan = assemble(config)
    expected = weights_of(config, plan, final_state(config, plan, tmp_path))
    found = load_run(tmp_path)
    for mine, theirs in zip((found.params, found.variables), expected, strict=True):
        jax_equal(mine, theirs)
    metrics = found.evaluate()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = {k: v for line in lines for k, v in line.items()}
    assert metrics["cross_entropy"] == pytest.approx(last["test/cross_entropy"], rel=1e-6)


def jax_equal(mine, theirs):
    import jax

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), mine, theirs)


def test_a_mesh_that_this_machine_cannot_make_is_one_device(tmp_path):
    run(dataclasses.replace(CONFIG, log=Log(sinks=())), tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["mesh"]["fsdp"] = 64
    file.write_text(json.dumps(config))
    split = assemble(CONFIG).splits["test"]
    found = load_run(tmp_path)
    assert found.plan.mesh.size == 1
    logits = found.predict(split.arrays["image"])["logits"]
    np.testing.assert_allclose(logits, read_outputs(tmp_path).logits, atol=1e-5)
