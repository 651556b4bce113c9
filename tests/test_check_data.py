"""A check of data without training: planted faults are named, and sound data have no finding."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdl.check_data import check_data
from jaxdl.config import Config, Data, part
from jaxdl.data.look_alikes import NEAREST, RATIO, look_alikes, thumbnail
from jaxdl.main import main

SPLITS = {"train": 20, "validation": 6, "test": 6}
CLASSES = ("cat", "dog", "hen")


def picture(rng):
    """A picture (48, 64, 3) that no other one is like: 6 x 6 random colours, enlarged."""
    small = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for split, n in SPLITS.items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                picture(rng).save(root / split / name / f"{i:02}.jpg", quality=90)
    return root


def damage(root):
    """Plant faults; (kind, file, what else the line names) of each."""
    train, test, validation = root / "train", root / "test", root / "validation"
    (train / "cat" / "00.jpg").write_bytes(b"not an image")
    whole = (train / "cat" / "01.jpg").read_bytes()
    (train / "cat" / "01.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "dog" / "x.heic").write_bytes(b"abc")
    shutil.copy(train / "dog" / "02.jpg", train / "loose.jpg")
    shutil.copy(train / "hen" / "03.jpg", test / "hen" / "copy.jpg")
    Image.open(train / "hen" / "04.jpg").save(validation / "hen" / "again.png")
    small = Image.open(train / "dog" / "05.jpg").resize((40, 30))
    small.save(test / "dog" / "small.jpg", quality=80)
    shutil.copy(train / "dog" / "06.jpg", train / "cat" / "otherwise.jpg")
    Image.new("RGB", (64, 48)).save(train / "hen" / "black.png")
    (train / "empty").mkdir()
    (test / "fox").mkdir()
    picture(np.random.default_rng(9)).save(test / "fox" / "0.jpg")
    # not examples, and no faults
    (train / "hen" / "._03.jpg").write_bytes(b"of a file manager")
    (train / "hen" / "notes.txt").write_text("not an image")
    return {
        ("unreadable", "train/cat/00.jpg"): "cannot identify",
        ("unreadable", "train/cat/01.jpg"): "truncated",
        ("left out", "train/dog/x.heic"): ".heic is not read",
        ("left out", "train/loose.jpg"): "no folder of a class",
        ("duplicate", "test/hen/copy.jpg"): "train/hen/03.jpg in train",
        ("duplicate", "validation/hen/again.png"): "train/hen/04.jpg in train",
        ("duplicate", "test/dog/small.jpg"): "encoded or resized anew, is",
        ("label", "train/dog/06.jpg"): "train/cat/otherwise.jpg (cat)",
        ("pixels", "train/hen/black.png"): "every pixel is 0",
        ("files", ""): "train/empty' holds no image",
        ("files ", ""): "test/fox' is not a class of the training images",
        ("classes", ""): "no training example of class empty",
    }


def arguments(root, page, *more):
    return [
        *("check", "--data", "--config", "cnn", "--output", str(page)),
        f"--config.data.source=folder(path={root},image_size=32)",
        *(f"--config.data.{split}={split}" for split in SPLITS),
        "--config.data.batch_size=8",
        *more,
    ]


def test_a_clean_folder_has_no_finding(clean, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments(clean, "a/page.html", "--config.augment=random_flip")) == 0
    out = capsys.readouterr().out
    assert "train  train  60 examples\n  image  uint8 32x32x3\n" in out
    assert "  cat 20, dog 20, hen 20\n" in out and "\nno finding\nsamples: a/page.html\n" in out
    assert [str(p) for p in tmp_path.rglob("*.*")] == [str(tmp_path / "a" / "page.html")]
    page = (tmp_path / "a" / "page.html").read_text()
    # 12 examples, each as it is and augmented three times
    assert len(re.findall(r'<img [^>]*src="data:image/png', page)) == 12 * 4
    assert not re.search(r"(src|href)=.(?!data:)", page)


def test_samples_are_training_examples_before_and_after_augmentation(clean):
    flips = {"probability": 1.0}
    source = part("folder", path=str(clean), image_size=32)
    config = Config(
        data=Data(source=source, train="train", validation="validation", test="test"),
        model=part("cnn"),
        augment=(part("random_vertical_flip", **flips),),
    )
    samples = check_data(config).samples
    assert len(samples) == 12 and [s.label for s in samples] == ["cat", "dog", "hen"] * 4
    for sample in samples:
        assert "/train/" in sample.name and f"/{sample.label}/" in sample.name
        decoded = Image.open(sample.name).resize((43, 32), Image.Resampling.BILINEAR)
        centre = np.asarray(decoded).astype(int)[:, 5:37]
        # by another filter: the same picture, upright
        error, flipped = (np.abs(centre - x).mean() for x in (sample.image, sample.image[::-1]))
        assert error < 8 < flipped
        assert len(sample.augmented) == 3
        for image, mixture in sample.augmented:
            np.testing.assert_array_equal(image, sample.image[::-1])
            assert mixture == ""


def test_every_planted_fault_of_a_folder_is_named_by_its_file(clean, tmp_path, capsys):
    root = tmp_path / "photos"
    shutil.copytree(clean, root)
    planted = damage(root)
    page = tmp_path / "page.html"
    assert main(arguments(root, page, "--json")) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    for (kind, file), words in planted.items():
        name = str(root / file) if file else ""
        matches = [f for f in found if f["kind"] == kind.strip() and f["name"] == name]
        assert any(words in f["message"] for f in matches), (kind, file, found)
    assert len(found) == len(planted)
    html = page.read_text()
    assert all(str(root / file) in html for _, file in planted if file)
    assert main(arguments(root, page)) == 1
    out = capsys.readouterr().out
    assert all(str(root / file) in out for _, file in planted if file)
    assert "\n12 findings\n" in out


def arrays(rng, n, **more):
    """Images in [0, 1] of red, green or blue, and their colour."""
    label = np.arange(n) % 3
    image = rng.uniform(0, 0.5, (n, 12, 12, 3)).astype(np.float32)
    image[np.arange(n), :, :, label] += 0.4
    return {"image": image, "label": label, **more}


def found_in(tmp_path, train, test, **config):
    path = tmp_path / "x.npz"
    columns = {f"{s}_{k}": x for s, a in (("train", train), ("test", test)) for k, x in a.items()}
    np.savez(path, **columns)
    source = part("npz", path=str(path))
    data = Data(source=source, train="train", validation="test", test="test", batch_size=8)
    result = check_data(Config(data=data, model=part("cnn"), **config))
    return [(f.kind, f.split, f.name, f.message) for f in result.findings], result


def nan_pixel(a, b):
    a["image"][7, 3, 3, 1] = np.nan
    return ("pixels", "train", "record 7", "NaN")


def contradiction(a, b):
    a["image"][4] = a["image"][8]
    return ("label", "train", "record 4", "labelled 1, and its copy otherwise: record 8 (2)")


def beyond(a, b):
    b["label"][5] = 3
    return ("label", "validation", "record 5", "'label' is 3, outside 0..2")


def gap(a, b):
    a["label"][a["label"] == 2] = 30
    b["label"] %= 2
    largest = "the largest label, 30, is that of record 2"
    return ("classes", "train", "", f"and 23 more; {largest}")


def one_class(a, b):
    a["label"] *= 0
    b["label"] *= 0
    return ("classes", "train", "", "every example is of class 0: there is nothing to tell apart")


def leak(a, b):
    b["image"][6] = a["image"][9]
    return ("duplicate", "validation", "record 6", "the same example is record 9 in train")


def bytes_as_floats(a, b):
    a["image"] *= 255
    return ("pixels", "train", "", "255")


def soft(a, b):
    for x in (a, b):
        x["label"] = np.eye(3, dtype=np.float32)[x["label"]]
    a["label"][11] = (0.5, 0.5, 0.5)
    return ("label", "train", "record 11", "adds up to 1.5: probabilities add up to 1")


def nan_number(a, b):
    for x in (a, b):
        x["label"] = (x["image"].mean((1, 2, 3)) * 10).astype(np.float32)
    a["label"][10] = np.nan
    return ("label", "train", "record 10", "'label' holds NaN or infinity")


def same_number(a, b):
    for x in (a, b):
        x["label"] = np.full(len(x["label"]), 1.5, np.float32)
    return ("classes", "train", "", "'label' is the same number in every example")


def painted(a, b):
    for x in (a, b):
        x["label"] = np.where(x["image"][..., 0] > 0.5, 255, 0).astype(np.uint8)
    return ("classes", "train", "", "255")


def void(a, b):
    for x in (a, b):
        x["label"] = (x["image"][..., 0] > 0.3).astype(np.uint8)
    a["label"][2] = 255
    return ("label", "train", "record 2", "is void (255) in every pixel")


PLANTS = [nan_pixel, contradiction, beyond, gap, one_class, leak, bytes_as_floats, soft, nan_number,
          same_number, painted, void]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda f: f.__name__)
def test_a_planted_fault_of_arrays_is_named_by_its_number(plant, tmp_path):
    rng = np.random.default_rng(1)
    train, test = arrays(rng, 24), arrays(rng, 12)
    kind, split, name, words = plant(train, test)
    findings, result = found_in(tmp_path, train, test)
    assert "test: it is the same as validation" in result.notes
    matches = [f for f in findings if f[:3] == (kind, split, name) and words in f[3]]
    assert len(matches) == 1, findings
    # what is not planted is not found; a run of such data may be refused on top
    about = {f[:3] for f in findings if f[0] != "refused"}
    assert {place for place in about if place[2]} <= {(kind, split, name)}


@pytest.mark.parametrize("kind", ["classes", "soft", "multilabel", "mask"])
def test_sound_arrays_have_no_finding(kind, tmp_path):
    rng = np.random.default_rng(1)
    splits = arrays(rng, 24), arrays(rng, 12)
    config = {"objective": part("supervised")}
    for one in splits:
        if kind == "soft":
            one["label"] = rng.dirichlet([1, 1, 1], len(one["label"])).astype(np.float32)
        if kind == "multilabel":
            one["label"] = (one["image"].mean((1, 2)) > np.median(one["image"].mean((1, 2)))) * 1
        if kind == "mask":
            one["label"] = (one["image"][..., 0] > 0.5).astype(np.uint8)
    findings, result = found_in(tmp_path, *splits, **config)
    assert [f for f in findings if f[0] != "refused"] == []
    assert (kind != "mask") == (findings == [])
    audited = result.audits[0]
    assert audited.targets["label"].kind == kind and len(audited.examples) == 24


def test_a_table_with_missing_and_damaged_files(clean, tmp_path, capsys):
    files = [f for split in SPLITS for f in sorted((clean / split).glob("*/*.jpg"))]
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(files[0].read_bytes()[:200])
    with (tmp_path / "t.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["image", "label", "split"])
        for file in [*files, damaged, tmp_path / "gone.jpg"]:
            split = file.parent.parent.name if file in files else "train"
            rows.writerow([file, file.parent.name if file in files else "cat", split])

    def words(**more):
        options = {"path": tmp_path / "t.csv", "image_size": 32, **more}
        source = ",".join(f"{k}={v}" for k, v in options.items())
        return [
            *arguments(clean, tmp_path / "p.html", "--json")[:-1],
            f"--config.data.source=csv({source})",
            "--json",
        ]

    assert main(words()) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert {(f["kind"], f["name"]) for f in found} == {
        ("files", ""),
        ("unreadable", str(damaged)),
        ("unreadable", str(tmp_path / "gone.jpg")),
    }
    assert main(words(on_error="skip")) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert {(f["kind"], f["name"]) for f in found} == {
        ("left out", str(damaged)),
        ("left out", str(tmp_path / "gone.jpg")),
    }


def test_without_data_the_config_alone_is_checked(capsys):
    assert main(["check", "--config", "cnn", "--config.duration=12 steps"]) == 0
    assert "the config is sound: 12 steps; examples: train " in capsys.readouterr().out
    assert main(["check", "--config", "cnn", "--json"]) == 2
    assert "--json changes nothing without --data" in capsys.readouterr().err


@pytest.mark.parametrize("args", [("--config.data.source=folder(path=nowhere)",), ()])
def test_data_that_are_not_there_are_refused(args, capsys):
    split = "--config.data.train=nothing"
    assert main(["check", "--data", "--config", "cnn", *args, *([] if args else [split])]) == 2
    line = capsys.readouterr().err
    assert ("nowhere" in line) if args else ("nothing" in line and "data.train" in line)


def jpeg(image, quality, size=None):
    file = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.resize(size) if size else picture).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


def test_look_alikes_are_pictures_encoded_anew_and_no_others():
    from sklearn.datasets import load_digits

    digits = (load_digits().images * 15).astype(np.uint8)[:600]
    large = [np.kron(d, np.ones((5, 5), np.uint8))[..., None] for d in digits]
    first = np.stack([thumbnail(x) for x in large[:400]])
    others = np.stack([thumbnail(x) for x in large[400:]])
    # two digits may be near, but none of these is alone in that
    assert len(look_alikes(others, first)) <= 1
    anew = np.stack([thumbnail(jpeg(x[..., 0], 75, (48, 48))[..., None]) for x in large[:60]])
    pairs = look_alikes(anew, first)
    assert sum(i == j for i, j in pairs) >= 57 and all(i == j for i, j in pairs)


def test_look_alikes_are_those_of_the_definition():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    other = rng.integers(0, 256, (50, 144)).astype(np.uint8)
    query = np.clip(other[rng.permutation(50)[:20]] + rng.normal(0, 9, (20, 144)), 0, 255)
    query = np.concatenate([query.astype(np.uint8), rng.integers(0, 256, (20, 144)).astype("u1")])
    distance = cdist(query.astype(float), other.astype(float), "correlation")
    limit = RATIO * np.sort(distance, axis=1)[:, NEAREST - 1]
    expected = sorted(map(tuple, np.argwhere(distance < limit[:, None]).tolist()))
    assert sorted(look_alikes(query, other)) == expected and len(expected) == 20
    assert look_alikes(query[:0], other) == look_alikes(query, other[:0]) == []
    # a picture of one colour is like nothing
    assert look_alikes(np.full((1, 144), 9, np.uint8), np.full((1, 144), 9, np.uint8)) == []
