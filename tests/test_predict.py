"""`jaxdl predict`: new files of any kind, answered as the run would have answered its own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_loaded import folder_of_images
from test_outputs import CONFIG

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, Log, part
from jaxdl.data.images import load
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.main import main
from jaxdl.run import run
from jaxdl.rundir.outputs import read_outputs


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A run whose data is gone, and its first 50 test images as PNG."""
    root = tmp_path_factory.mktemp("predict")
    data = folder_of_images(root / "data")
    source = part("folder", path=str(data), image_size=10)
    run(dataclasses.replace(CONFIG, data=Data(source, batch_size=8)), root / "run")
    images = assemble(Config(data=Data(source))).splits["test"].arrays["image"][:50]
    (root / "png").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "png" / f"{i:02}.png")
    shutil.rmtree(data)
    return root


def answered(capsys, *arguments, status=0):
    assert main(["predict", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def refused(capsys, *arguments):
    lines, error = answered(capsys, *arguments, status=2)
    assert not lines and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_test_images_as_files_give_the_outputs_of_the_run(classes, capsys):
    lines, error = answered(capsys, classes / "run", classes / "png", "--json", "--top-k", "3")
    rows, kept = [json.loads(line) for line in lines], read_outputs(classes / "run")
    assert not error and len(rows) == 50
    odds = np.exp(kept.logits[:50].astype(np.float64))
    expected = odds / odds.sum(-1, keepdims=True)
    for i, row in enumerate(rows):
        assert row["file"].endswith(f"{i:02}.png")
        assert [c["class"] for c in row["classes"]] == [
            ("ant", "bee", "cat")[c["number"]] for c in row["classes"]
        ]
        found = {c["number"]: c["probability"] for c in row["classes"]}
        np.testing.assert_allclose([found[k] for k in range(3)], expected[i], atol=1e-4)
    images = [load(file, 3) for file in sorted((classes / "png").iterdir())]
    logits = load_run(classes / "run").predict(images)["logits"]
    np.testing.assert_allclose(logits, kept.logits[:50], atol=1e-4)


def test_the_likeliest_come_first(classes, capsys):
    file = classes / "png" / "00.png"
    ((line,), _) = answered(capsys, classes / "run", file)
    (row,) = [json.loads(x) for x in answered(capsys, classes / "run", file, "--json")[0]]
    best = max(row["classes"], key=lambda c: c["probability"])
    assert line.startswith(f"{file}  {best['class']} {100 * best['probability']:.1f}%  ")
    assert line.count("%") == 3
    assert answered(capsys, classes / "run", file, "--top-k", 1)[0][0].count("%") == 1
    raw = answered(capsys, f"{classes / 'run'}@raw", file, "--json")[0][0]
    assert json.loads(raw)["classes"] != row["classes"]


def awkward(folder):
    """Files of the same scene in many kinds: bright above, dark below."""
    folder.mkdir()
    scene = np.repeat(np.linspace(250, 5, 40).astype(np.uint8)[:, None], 40, axis=1)
    colour = np.stack([scene, scene, scene], axis=-1)
    Image.fromarray(scene).save(folder / "grey.png")
    clear = np.concatenate([colour, np.full((40, 40, 1), 255, np.uint8)], axis=-1)
    Image.fromarray(clear).save(folder / "alpha.png")
    Image.fromarray(scene.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(scene.astype(np.int32) * 257).save(folder / "deep.tif")
    large = Image.fromarray(colour).resize((4000, 4000))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise when shown
    large.rotate(90).save(folder / "turned.jpg", exif=exif, quality=95)
    return colour


def test_images_of_every_kind_are_read_alike(tmp_path):
    colour = awkward(tmp_path / "files")
    for name in ("grey.png", "alpha.png", "deep.png", "deep.tif"):
        np.testing.assert_array_equal(load(tmp_path / "files" / name, 3), colour, err_msg=name)
    turned = load(tmp_path / "files" / "turned.jpg", 3)
    assert turned.shape == (4000, 4000, 3)
    np.testing.assert_allclose(turned[50::100, 2000, 0], colour[:, 20, 0], atol=4)
    assert load(tmp_path / "files" / "alpha.png", 1).shape == (40, 40, 1)


def test_a_damaged_file_is_named_and_the_others_are_answered(classes, tmp_path, capsys):
    awkward(tmp_path / "files")
    whole = (tmp_path / "files" / "grey.png").read_bytes()
    (tmp_path / "files" / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "files" / "notes.txt").write_text("not an image")
    lines, error = answered(
        capsys, classes / "run", tmp_path / "files", tmp_path / "gone.png", "--json", status=1
    )
    names = [json.loads(line)["file"].rpartition("/")[2] for line in lines]
    assert names == ["alpha.png", "deep.png", "deep.tif", "grey.png", "turned.jpg"]
    damaged, missing = error.splitlines()
    assert "b.png" in damaged and "gone.png" in missing
    assert all(len(json.loads(line)["classes"]) == 3 for line in lines)


def test_mistakes_are_refused_in_a_line(classes, tmp_path, capsys):
    workdir = classes / "run"
    assert "name image files" in refused(capsys, workdir)
    assert "holds no image" in refused(capsys, workdir, tmp_path)
    assert "is it a run directory?" in refused(capsys, tmp_path / "nosuch", "a.png")
    image = classes / "png" / "00.png"
    assert "--output changes nothing" in refused(capsys, workdir, image, "--output", tmp_path)
    assert "--text changes nothing" in refused(capsys, workdir, "--text", "a")
    assert "has no '@nosuch'" in refused(capsys, f"{workdir}@nosuch", image)
    with pytest.raises(UserError, match="writes no text"):
        load_run(workdir).complete("a")


def small(**fields):
    log = Log(sinks=())
    return Config(**{"duration": "3 steps", "log": log, **fields})


def test_segmentation_gives_a_mask_for_each_image(tmp_path, capsys):
    config = small(
        data=Data(source=part("shapes", size=16, examples=80), batch_size=8),
        model=part("unet", width=4, depth=1),
        objective=part("segmentation"),
        evaluation=Evaluation(
            metrics=(part("pixel_accuracy"),), monitor="validation/pixel_accuracy"
        ),
    )
    run(config, tmp_path / "run")
    capsys.readouterr()
    images = assemble(config).splits["test"].arrays["image"]
    for name, image in (("x/a.png", images[0]), ("x/a.bmp", images[1]), ("y/b.png", images[2])):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / name)
    lines, _ = answered(
        capsys, tmp_path / "run", tmp_path / "in", "--output", tmp_path / "out", "--json"
    )
    expected = read_outputs(tmp_path / "run").logits.argmax(-1)
    rows = [json.loads(line) for line in lines]
    below = [row["mask"].removeprefix(f"{tmp_path / 'out'}/") for row in rows]
    assert below == ["x/a.png", "x/a-2.png", "y/b.png"]
    for row, number in zip(rows, (1, 0, 2), strict=True):
        with Image.open(row["mask"]) as mask:
            assert (
                mask.mode == "P"
                and len(np.unique(np.asarray(mask.convert("RGB")).reshape(-1, 3), axis=0)) <= 4
            )
            np.testing.assert_array_equal(np.asarray(mask), expected[number])
        assert sum(c["fraction"] for c in row["classes"]) <= 1 + 1e-6
        assert all(c["class"] in ("ground", "disc", "square", "triangle") for c in row["classes"])


def test_a_language_model_goes_on_with_a_text(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("abcdefg" * 200)
    source = part("characters", path=str(tmp_path / "text.txt"), length=16)
    config = small(
        data=Data(source=source, batch_size=8),
        model=part("transformer_decoder", depth=1, width=32, heads=2, hidden=32, drop_rate=0.0),
        objective=part("language"),
        preprocess=(),
        optimizer=part("adamw", learning_rate=0.01),
        duration="150 steps",
        evaluation=Evaluation(
            metrics=(part("bits_per_token"),), monitor="validation/bits_per_token", mode="min"
        ),
    )
    run(config, tmp_path / "run")
    (tmp_path / "text.txt").unlink()
    capsys.readouterr()
    (tmp_path / "prompt.txt").write_text("cdef\n")
    lines, _ = answered(
        capsys, tmp_path / "run", tmp_path / "prompt.txt", "--text", "abc", "--length", 5
    )
    assert lines == ["abc -> defga", "cdef -> gabcd"]
    # Of a prompt that is too long, its end.
    (row,) = answered(capsys, tmp_path / "run", "--text", "abcdefg" * 5, "--json")[0]
    assert json.loads(row)["text"] == "a"
    assert "--top-k changes nothing" in refused(capsys, tmp_path / "run", "--top-k", 2)
    assert "17 tokens" in refused(capsys, tmp_path / "run", "--text", "a", "--length", 17)
