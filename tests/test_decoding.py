"""Image files and arrays of every kind: the pixels of a formula, or one line of refusal."""

import itertools
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdl.data.arrays import npz
from jaxdl.data.folder import folder
from jaxdl.data.images import image_files, load, unreadable
from jaxdl.data.source import Source
from jaxdl.data.split import open_split
from jaxdl.errors import UserError
from tests.encoders import png, tiff

RNG = np.random.default_rng(0)
H, W = 5, 7
GREY = RNG.integers(0, 256, (H, W), np.uint8)
COLOUR = RNG.integers(0, 256, (H, W, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), np.uint8)
DEEP = RNG.integers(0, 2**16, (H, W), np.uint16)
UNIT = RNG.random((H, W), np.float32)
ROOM = 2**30


def on_white(colour, alpha):
    """C a + 255 (1 - a), a = alpha / 255."""
    a = alpha[..., None] / 255
    return colour * a + 255 * (1 - a)


def luma(colour):
    """ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    return np.round(colour @ [0.299, 0.587, 0.114])[..., None]


def three(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def palette():
    picture = Image.fromarray((GREY % 4).astype(np.uint8), "P")
    table = COLOUR.reshape(-1, 3)[:4]
    picture.putpalette(table.ravel().tolist())
    return picture, table[GREY % 4]


# Name: the picture, its colour (h, w, 3) as a formula gives it, its alpha or None, its formats.
PICTURES = {
    "bilevel": (Image.fromarray(GREY > 99), three(255 * (GREY > 99)), None, "PNG TIFF BMP PPM"),
    "grey": (Image.fromarray(GREY), three(GREY), None, "PNG TIFF BMP WEBP PPM GIF"),
    "grey and alpha": (
        Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), three(GREY), ALPHA,
        "PNG TIFF",
    ),
    "palette": (*palette(), None, "PNG BMP GIF TIFF"),
    "colour": (Image.fromarray(COLOUR), COLOUR, None, "PNG TIFF BMP WEBP PPM"),
    "colour and alpha": (
        Image.fromarray(np.dstack([COLOUR, ALPHA])), COLOUR, ALPHA, "PNG TIFF WEBP",
    ),
    "16 bits": (Image.fromarray(DEEP), three(DEEP // 256), None, "PNG TIFF PPM"),
    "floats": (Image.fromarray(UNIT), three(np.round(255 * UNIT)), None, "TIFF"),
}  # fmt: skip
FILES = [(name, kind) for name, row in PICTURES.items() for kind in row[3].split()]
TURNS = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: np.rot90(x),
}  # fmt: skip
"""EXIF's eight orientations: the picture as it is shown, of the rows as they are stored."""


def expected(colour, alpha, channels):
    if channels == 4:
        return np.dstack([colour, np.full((H, W), 255) if alpha is None else alpha])
    shown = colour.astype(float) if alpha is None else on_white(colour, alpha)
    return shown if channels == 3 else luma(shown)


def saved(picture, file, kind, **settings):
    lossless = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    picture.save(file, kind, **lossless, **settings)
    return file


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("name", "kind"), FILES)
def test_a_file_has_the_pixels_of_the_formula(name, kind, channels, tmp_path):
    picture, colour, alpha, _ = PICTURES[name]
    file = saved(picture, tmp_path / f"x.{kind.lower()}", kind)
    pixels = load(file, channels)
    assert pixels.dtype == np.uint8 and pixels.shape == (H, W, channels)
    # Pillow rounds each of the two products and sums.
    atol = 0 if alpha is None and channels > 1 else 1.01
    np.testing.assert_allclose(pixels, expected(colour, alpha, channels), atol=atol)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_file_is_turned_as_its_exif_says(turn, kind, channels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    file = saved(Image.fromarray(COLOUR), tmp_path / "x", kind, exif=exif)
    shown = TURNS[turn](expected(COLOUR, None, channels))
    np.testing.assert_allclose(load(file, channels), shown, atol=1 if channels == 1 else 0)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (UNIT + 0.5, "its pixels are .*expected 0 to 1"),
        (255 * UNIT, "expected 0 to 1"),
        (UNIT - 2, "expected 0 to 1"),
        (np.full((H, W), np.nan, np.float32), "expected 0 to 1"),
        (np.full((H, W), 2**16, np.int32), "its pixels are 65536 to 65536: expected 0 to 65535"),
        (np.full((H, W), -1, np.int32), "expected 0 to 65535"),
    ],
)
def test_pixels_out_of_range_are_refused(pixels, says, tmp_path):
    with pytest.raises(UserError, match=says):
        load(saved(Image.fromarray(pixels), tmp_path / "x.tif", "TIFF"), 3)


# Files of kinds that Pillow does not write


def eight(samples, bits):
    """Samples of any number of bits as a viewer with 8 shows them."""
    return samples >> (bits - 8) if bits >= 8 else np.round(samples * 255 / (2**bits - 1))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_png_of_any_depth_has_its_transparent_grey(bits, transparent, channels, tmp_path):
    samples = RNG.integers(0, 2**bits, (H, W))
    place = samples == samples[2, 3]
    file = png(tmp_path / "x", samples, bits, (samples[2, 3],) if transparent else None)
    alpha = np.where(place, 0, 255) if transparent else None
    pixels = load(file, channels)
    shown = expected(three(eight(samples, bits)), alpha, channels)
    np.testing.assert_allclose(pixels, shown, atol=0 if channels > 1 else 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("samples_of_one", [2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_png_of_any_depth(bits, samples_of_one, channels, tmp_path):
    samples = RNG.integers(0, 2**bits, (H, W, samples_of_one))
    seen = eight(samples, bits)
    alpha = seen[..., -1] if samples_of_one != 3 else None
    colour = three(seen[..., 0]) if samples_of_one == 2 else seen[..., :3]
    pixels = load(png(tmp_path / "x", samples, bits), channels)
    atol = 0 if alpha is None and channels > 1 else 1.01
    np.testing.assert_allclose(pixels, expected(colour, alpha, channels), atol=atol)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_png_with_a_transparent_colour(bits, tmp_path):
    samples = RNG.integers(0, 2**bits, (H, W, 3))
    file = png(tmp_path / "x", samples, bits, tuple(samples[2, 3]))
    if bits == 16:
        with pytest.raises(UserError, match="a transparent colour of 16 bits is not read"):
            load(file, 3)
        return
    shown = samples.copy()
    shown[2, 3] = 255
    np.testing.assert_array_equal(load(file, 3), shown)


# (bits, white is zero, sample format, byte order) to the words of a refusal, or None.
TIFFS = {
    **dict.fromkeys(itertools.product([1, 2, 4, 8], [False, True], [1], "<>")),
    **dict.fromkeys(itertools.product([32], [False, True], [3], "<>")),
    **dict.fromkeys([(12, False, 1, "<"), (16, True, 1, "<"), (32, False, 1, "<")]),
    **dict.fromkeys(itertools.product([16], [False], [1], "<>")),
    **dict.fromkeys(itertools.product([32], [False], [2], "<>")),
    **{(8, False, 2, order): "signed numbers of 8 bits" for order in "<>"},
    **{(16, False, 2, order): "signed numbers of 16 bits" for order in "<>"},
    **{(bits, True, 1, ">"): "cannot identify" for bits in (12, 16, 32)},
}


@pytest.mark.parametrize("case", TIFFS, ids=lambda case: "-".join(map(str, case)))
def test_a_grey_tiff_of_any_samples(case, tmp_path):
    bits, white_is_zero, sample_format, order = case
    if sample_format == 3:
        samples, shown = UNIT, np.round(255 * UNIT)
    else:
        used = min(bits, 16)
        samples = RNG.integers(0, 2**used // sample_format, (H, W))
        shown = eight(samples, used)
    kind = {"white_is_zero": white_is_zero, "sample_format": sample_format, "order": order}
    file = tiff(tmp_path / "x", samples, bits, **kind)
    if says := TIFFS[case]:
        with pytest.raises(UserError, match=says):
            load(file, 3)
        return
    shown = 255 - shown if white_is_zero else shown
    np.testing.assert_allclose(load(file, 3), three(shown), atol=1 if sample_format == 3 else 0)


# Arrays

ARRAYS = list(
    itertools.product(
        ["bool", "uint8", "int8", "uint16", "int16", "int32", "float16", "float32", "float64"],
        ["[0, 1]", "[0, 255]", "[-2, 2]"],
        ["h w c", "c h w", "h w"],
        [1, 2, 3, 4],
    )
)


def array_of(dtype, interval, layout, channels):
    low, high = {"[0, 1]": (0, 1), "[0, 255]": (0, 255), "[-2, 2]": (-2, 2)}[interval]
    image = np.linspace(low, high, 6 * 8 * 9 * channels).reshape(6, 8, 9, channels)
    image = np.moveaxis(image, -1, 1) if layout == "c h w" else image
    image = image[..., 0] if layout == "h w" else image
    integer = np.dtype(dtype).kind in "iub"
    return (np.round(image) if integer else image).astype(dtype)


def refusal(dtype, interval, layout, channels):
    """The words of the refusal that is due, or None."""
    if layout == "c h w" and channels in (1, 3, 4):
        return "the channels first"
    if dtype != "uint8" and np.dtype(dtype).kind in "iub":
        return f"'image' is {dtype}; it must be uint8"
    if dtype.startswith("float") and interval == "[0, 255]":
        return "floats are to be in"
    return None


@pytest.mark.parametrize("case", ARRAYS, ids=lambda case: "-".join(map(str, case)))
def test_an_array_is_taken_as_it_is_or_refused(case, tmp_path):
    image, says = array_of(*case), refusal(*case)
    np.savez(tmp_path / "x.npz", image=image, label=np.arange(6) % 2)
    build = lambda split: npz(split, path=str(tmp_path / "x.npz"))
    if says:
        with pytest.raises(UserError, match=says):
            open_split(build, "all", memory=ROOM)
        return
    split = open_split(build, "all", memory=ROOM)
    shown = image[..., None] if image.ndim == 3 else image
    np.testing.assert_array_equal(split.arrays["image"], shown.astype(split.arrays["image"].dtype))


KERAS = {"x_train": "image", "y_train": "label", "x_test": "image", "y_test": "label"}
MEDMNIST = {
    "train_images": "image", "train_labels": "label", "val_images": "image",
    "val_labels": "label", "test_images": "image", "test_labels": "label",
}  # fmt: skip


@pytest.mark.parametrize("keys", [KERAS, MEDMNIST], ids=["keras", "medmnist"])
def test_other_conventions_of_npz_are_read(keys, tmp_path):
    image, label = RNG.integers(0, 256, (6, 4, 4), np.uint8), np.arange(6)[:, None] % 3
    np.savez(tmp_path / "x.npz", **{k: image if f == "image" else label for k, f in keys.items()})
    splits = ["train", "test"] + ["validation"] * (keys is MEDMNIST)
    for name in splits:
        split = open_split(lambda s: npz(s, path=str(tmp_path / "x.npz")), name, memory=ROOM)
        np.testing.assert_array_equal(split.arrays["image"][..., 0], image)
        np.testing.assert_array_equal(split.arrays["label"], label[:, 0])
    np.savez(tmp_path / "y.npz", images=image, labels=label)
    split = open_split(lambda s: npz(s, path=str(tmp_path / "y.npz")), "all", memory=ROOM)
    assert set(split.arrays) == {"image", "label"} and split.num_classes == 3


def test_a_split_of_ones_own_keeps_its_name(tmp_path):
    (tmp_path / "files").mkdir()
    arrays = {"image": GREY[None], "label": np.zeros(1, int)}
    np.savez(tmp_path / "files" / "val.npz", **arrays)
    assert len(npz("val", path=str(tmp_path / "files"))) == 1
    prefixed = {f"{split}_{k}": x for split in ("train", "val") for k, x in arrays.items()}
    np.savez(tmp_path / "x.npz", **prefixed)
    assert len(npz("val", path=str(tmp_path / "x.npz"))) == 1


def test_an_array_with_a_damaged_header_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", image=GREY[None], label=[0])
    with zipfile.ZipFile(tmp_path / "x.npz") as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    damaged = members["image.npy"].replace(b"(1, 5, 7)", b"(1, 5, 7(")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as stored:
        for name, member in (members | {"image.npy": damaged}).items():
            stored.writestr(name, member)
    with pytest.raises(UserError, match=r"x\.npz: cannot read the array 'image'"):
        npz("all", path=str(tmp_path / "x.npz"))


def test_one_nan_does_not_hide_the_range_of_the_others(tmp_path):
    image = np.full((2, 4, 4, 1), 200, np.float32)
    image[0, 0, 0] = np.nan
    with pytest.raises(UserError, match="from 200 to 200"):
        open_split(lambda _: {"image": image, "label": np.zeros(2, int)}, "all", memory=ROOM)


@pytest.mark.parametrize("memory", [ROOM, 0])
def test_floats_of_bytes_are_refused_though_one_is_negative_and_the_first_are_dark(memory):
    image = np.linspace(-1, 255, 20 * 48, dtype=np.float32).reshape(20, 4, 4, 3)
    records = [{"image": x, "label": i % 2} for i, x in enumerate(image)]
    with pytest.raises(UserError, match="from -1 to 25[0-9.]+; floats are to be in"):
        open_split(lambda _: Source(records, num_classes=2), "all", memory=memory)
    standardised = Source([r | {"image": r["image"] / 50 - 2.5} for r in records], num_classes=2)
    assert len(open_split(lambda _: standardised, "all", memory=memory)) == 20


@pytest.mark.parametrize("names", [np.array("cat"), np.array([["a"], ["b"]]), np.array([])])
def test_class_names_that_are_not_a_list_are_refused(names, tmp_path):
    np.savez(tmp_path / "x.npz", image=GREY[None], label=[0], class_names=names)
    with pytest.raises(UserError, match="'class_names' has shape"):
        npz("all", path=str(tmp_path / "x.npz"))


def test_files_that_name_their_classes_in_another_order_are_refused(tmp_path):
    for name, classes in {"train": ["a", "b"], "test": ["b", "a"]}.items():
        np.savez(tmp_path / f"{name}.npz", image=GREY[None], label=[0], class_names=classes)
    with pytest.raises(UserError, match="its classes are a, b; those of .*test.npz are b, a"):
        npz("train", path=str(tmp_path))


# Folders


@pytest.fixture
def photos(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "all" / kind).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(COLOUR).save(tmp_path / "all" / kind / f"{i}.png")
    return tmp_path / "all"


def test_hidden_files_are_no_examples_and_linked_folders_are(photos, tmp_path):
    (photos / "cat" / "._0.png").write_bytes(b"\0\5\26\7")  # beside every file that macOS copies
    (photos / "cat" / ".thumbnails").mkdir()
    Image.fromarray(GREY).save(photos / "cat" / ".thumbnails" / "0.png")
    assert len(folder("all", path=str(photos))) == 6
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(COLOUR).save(tmp_path / "elsewhere" / "9.jfif", "JPEG")
    (photos / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    (photos / "dog" / "round").symlink_to(photos)
    assert len(folder("all", path=str(photos))) == 7
    assert len(image_files([photos / "dog"])) == 4


@pytest.mark.parametrize("memory", [ROOM, 0])
def test_every_unreadable_file_is_in_one_list(photos, memory):
    broken = [photos / "cat" / "1.png", photos / "dog" / "0.png"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:60])
    build = lambda split: folder(split, path=str(photos))
    with pytest.raises(UserError, match="2 of 6 images cannot be read: ") as refused:
        open_split(build, "all", memory=memory).examples(np.arange(6))
    assert all(str(file) in str(refused.value) for file in broken)
    assert set(unreadable(sorted(photos.rglob("*.png")), 3)) == set(broken)
    skipping = folder("all", path=str(photos), on_error="skip")
    assert len(skipping) == 4 and skipping.remarks()[0].startswith("2 left out: ")
    assert set(skipping.left_out) == set(map(str, broken))
    split = open_split(lambda _: skipping, "all", memory=memory)
    assert split.examples(np.arange(4))["image"].shape == (4, H, W, 3)
