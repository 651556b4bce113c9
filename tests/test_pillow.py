"""Every operation on images against Pillow's, pixel for pixel, on awkward images too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

from jaxdl import registry
from jaxdl.augment import colour, intensity, operations
from jaxdl.augment.blur import gaussian_blur
from jaxdl.augment.resized_crop import resized, resized_nearest
from jaxdl.augment.warp import affine, to_fixed, warp
from jaxdl.config import part

RNG = np.random.default_rng(0)


def awkward(h, w, c):
    """Images (n, h, w, c) that divide by zero, overflow and round, besides random ones."""
    ramp = np.arange(h * w * c).reshape(h, w, c)
    images = [
        np.zeros((h, w, c)),
        np.full((h, w, c), 255),
        np.full((h, w, c), 77),
        RNG.choice([3, 250], (h, w, c)),
        RNG.choice([128, 127], (h, w, c)),
        ramp * 255 // max(ramp.max(), 1),
        np.repeat(ramp[..., :1] % 256, c, -1),
        *RNG.integers(0, 256, (6, h, w, c)),
        *RNG.integers(40, 140, (6, h, w, c)),
        *(RNG.integers(0, 256, (4, h, w, c)) // 51 * 51),
    ]
    return np.stack(images).astype(np.uint8)


SIZES = [(13, 17, 3), (5, 3, 3), (1, 1, 3), (2, 9, 1), (24, 24, 1), (32, 32, 3)]
SETS = {f"{h}x{w}x{c}": awkward(h, w, c) for h, w, c in SIZES}
each_set = pytest.mark.parametrize("images", SETS.values(), ids=SETS.keys())


def by_pillow(images, change):
    """What Pillow makes of each of (n, h, w, c)."""
    opened = [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in images]
    out = np.stack([np.asarray(change(x, i)) for i, x in enumerate(opened)])
    return out[..., None] if out.ndim == 3 else out


def filled(image, value):
    return value if image.mode == "L" else (value,) * 3


TABLES = {
    "invert": (intensity.inverted(), ImageOps.invert),
    **{
        f"posterize {n}": (intensity.posterized(n), lambda x, n=n: ImageOps.posterize(x, n))
        for n in range(1, 9)
    },
    **{
        f"solarize {t}": (intensity.solarized(t), lambda x, t=t: ImageOps.solarize(x, t))
        for t in (0, 28.3, 128, 170.0, 255, 256)
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_static_tables(name):
    table, change = TABLES[name]
    ramp = np.arange(256, dtype=np.uint8)[None, :, None]
    np.testing.assert_array_equal(table, by_pillow(ramp[None], lambda x, i: change(x)).ravel())


def test_solarized_sum_by_hand():
    table = intensity.solarized_sum(110)
    assert [table[i] for i in (0, 10, 127, 128, 255)] == [110, 120, 237, 128, 255]
    assert intensity.solarized_sum(200)[100] == 255


@each_set
def test_equalize_and_autocontrast(images):
    for table, change in (
        (intensity.equalize_table, ImageOps.equalize),
        (intensity.autocontrast_table, ImageOps.autocontrast),
    ):
        got = jax.jit(lambda x, t=table: intensity.look_up(x, t(x)))(images)
        np.testing.assert_array_equal(got, by_pillow(images, lambda x, i, c=change: c(x)))


def test_autocontrast_of_every_pair_of_extremes():
    low, high = np.triu_indices(256, 1)
    images = np.stack([low, high], -1)[:, None, :, None].astype(np.uint8)
    table = np.asarray(jax.jit(intensity.autocontrast_table)(images))[:, 0]
    scale = 255.0 / (high - low)
    # The lines of Pillow's autocontrast, in float64.
    said = (np.arange(256) * scale[:, None] + (-low * scale)[:, None]).astype(int)
    said = np.clip(said, 0, 255)
    within = (np.arange(256) >= low[:, None]) & (np.arange(256) <= high[:, None])
    np.testing.assert_array_equal(table[within], said[within])
    some = slice(None, None, 331)
    got = np.asarray(intensity.look_up(images[some], table[some, None]))
    want = by_pillow(images[some], lambda x, i: ImageOps.autocontrast(x))
    np.testing.assert_array_equal(got, want)


FACTORS = np.float32([0, 0.1, 0.37, 0.5, 0.7300001, 0.9, 1, 1.1, 1.27, 1.63, 1.9, 1.99, 3, 0.01])
ENHANCERS = {
    "brightness": (colour.brightened, ImageEnhance.Brightness),
    "contrast": (colour.contrasted, ImageEnhance.Contrast),
    "saturation": (colour.saturated, ImageEnhance.Color),
    "sharpness": (colour.sharpened, ImageEnhance.Sharpness),
}


@each_set
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements(images, name):
    change, enhancer = ENHANCERS[name]
    many = np.repeat(images, len(FACTORS), 0)
    factor = np.tile(FACTORS, len(images))
    got = jax.jit(change)(many, factor)
    want = by_pillow(many, lambda x, i: enhancer(x).enhance(float(factor[i])))
    np.testing.assert_array_equal(got, want)


@each_set
def test_grey_and_smooth(images):
    want = by_pillow(images, lambda x, i: x.filter(ImageFilter.SMOOTH))
    np.testing.assert_array_equal(jax.jit(colour.smooth)(images), want)
    want = [np.asarray(Image.fromarray(np.squeeze(x, -1) if x.shape[-1] == 1 else x).convert("L"))
            for x in images]  # fmt: skip
    np.testing.assert_array_equal(jax.jit(colour.grey)(images)[..., 0], want)


def test_hue_of_all_colours_on_a_grid():
    levels = np.unique([*range(0, 256, 6), 51, 53, 85, 128, 253, 254, 255]).astype(np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    image = image.reshape(1, len(levels), -1, 3)
    turns = np.float32([0, 0.125, -0.25, 0.5, -0.5, 0.09])
    got = jax.jit(colour.turned_hue)(np.repeat(image, len(turns), 0), turns)

    def turned(x, i):
        # torchvision's adjust_hue
        h, s, v = x.convert("HSV").split()
        moved = (np.asarray(h).astype(int) + int(turns[i] * 255)) % 256
        return Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), s, v)).convert("RGB")

    np.testing.assert_array_equal(got, by_pillow(np.repeat(image, len(turns), 0), turned))
    grey = SETS["24x24x1"]
    np.testing.assert_array_equal(colour.turned_hue(grey, jnp.full(len(grey), 0.3)), grey)


def test_gamma_is_at_most_a_level_from_torchvision_s_table():
    power = np.linspace(0.3, 3, 40).astype(np.float32)
    got = np.asarray(jax.jit(intensity.gamma_table)(power))[:, 0].astype(int)
    level = np.arange(256) / 255
    want = ((256 - 1e-3) * level[None] ** power[:, None].astype(np.float64)).astype(int)
    assert np.abs(got - want).max() <= 1 and np.mean(got != want) < 1e-3


# Geometry


MAPS = [
    (1, 0, 0, 0, 1, 0),
    (1, 0, 3, 0, 1, -2),
    (1, 0.2, 0, 0, 1, 0),
    (1, -0.3, 0, 0, 1, 0),
    (1, 0, 0, 0.1, 1, 0),
    (1, 0, 0, -0.99, 1, 0),
    (0.7, 0.1, 1.3, -0.2, 1.4, 0.77),
    (2.5, 0, -3, 0, 2.5, -3),
    (-1, 0, 13, 0, -1, 11),
    (0, 1, 0, 1, 0, 0),
    (1, 0, 500, 0, 1, 500),
]


@each_set
@pytest.mark.parametrize("fill", [0, 128])
def test_nearest_warps(images, fill):
    many = np.repeat(images, len(MAPS), 0)
    maps = np.tile(np.array(MAPS, np.float64), (len(images), 1))
    got = jax.jit(warp, static_argnums=(2, 3))(many, to_fixed(maps), "nearest", fill)

    def moved(x, i):
        return x.transform(
            x.size,
            Image.Transform.AFFINE,
            tuple(maps[i]),
            Image.Resampling.NEAREST,
            fillcolor=filled(x, fill),
        )

    np.testing.assert_array_equal(got, by_pillow(many, moved))


@each_set
def test_bilinear_warps_are_at_most_a_level_away(images):
    many = np.repeat(images, len(MAPS), 0)
    maps = np.tile(np.array(MAPS, np.float64), (len(images), 1))
    # Places on the very border are inside or outside by the rounding of float64: leave it alone.
    maps[:, [2, 5]] += 0.003
    got = jax.jit(warp, static_argnums=(2, 3))(many, to_fixed(maps), "bilinear", 9)

    def moved(x, i):
        return x.transform(
            x.size,
            Image.Transform.AFFINE,
            tuple(maps[i]),
            Image.Resampling.BILINEAR,
            fillcolor=filled(x, 9),
        )

    want = by_pillow(many, moved)
    assert np.abs(np.asarray(got).astype(int) - want).max() <= 1


@each_set
def test_rotations(images):
    h, w = images.shape[1:3]
    angles = np.tile([0.0, 1, -3, 9, 15, -30, 45, 77.7, 90, -90, 135, 180], len(images))
    many = np.repeat(images, 12, 0)
    matrix = to_fixed(affine(angles, (0, 0), 1, (0, 0), (h, w)))
    got = np.asarray(jax.jit(warp)(many, matrix))
    np.testing.assert_array_equal(got, by_pillow(many, lambda x, i: x.rotate(angles[i])))


def test_an_affine_map_is_the_inverse_of_what_it_says():
    degrees, (right, low), scale, (across, down), (h, w) = 20, (3, -2), 1.3, (0.2, -0.1), (20, 30)
    place = lambda x, y: np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # y points down
    slant = np.array([[1, across, 0], [0, 1, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [down, 1, 0], [0, 0, 1]])
    there = place(w / 2 + right, h / 2 + low) @ turn @ slant @ tilt
    there = there @ np.diag([scale, scale, 1]) @ place(-w / 2, -h / 2)
    got = affine(degrees, (right, low), scale, (across, down), (h, w))
    np.testing.assert_allclose(got, np.linalg.inv(there)[:2].ravel(), atol=1e-12)
    traced = affine(jnp.float32(degrees), (right, low), scale, (across, down), (h, w))
    np.testing.assert_allclose(traced, got, atol=1e-5)


@pytest.mark.parametrize(
    ("h", "w", "out"), [(32, 32, (32, 32)), (40, 24, (16, 16)), (9, 7, (20, 31))]
)
def test_resized_boxes(h, w, out):
    images = awkward(h, w, 3)
    n = len(images)
    height, width = RNG.integers(1, h + 1, n), RNG.integers(1, w + 1, n)
    height[0], width[0] = h, w
    top, left = RNG.integers(0, h - height + 1), RNG.integers(0, w - width + 1)
    boxes = np.stack([top, height, left, width]).astype(np.int32)

    def both(method):
        ours = resized if method == Image.Resampling.BILINEAR else resized_nearest
        box = lambda i: tuple(map(int, (left[i], top[i], left[i] + width[i], top[i] + height[i])))
        want = by_pillow(images, lambda x, i: x.crop(box(i)).resize(out[::-1], method))
        got = jax.jit(lambda x, n: ours(x, (n[0], n[1]), (n[2], n[3]), out))(images, boxes)
        return np.asarray(got).astype(int), want

    got, want = both(Image.Resampling.BILINEAR)
    assert np.abs(got - want).max() <= 1 and np.mean(got != want) < 0.1
    got, want = both(Image.Resampling.NEAREST)
    # Of a centre on the border of two pixels, Pillow's sum of steps may find either.
    between = lambda length, n: (2 * np.arange(n) + 1) * length[:, None] % (2 * n) == 0
    clear = ~between(height, out[0])[:, :, None] & ~between(width, out[1])[:, None]
    np.testing.assert_array_equal(got[clear], want[clear])


def test_blur_is_scipy_s_gaussian():
    images = RNG.normal(size=(4, 12, 15, 3)).astype(np.float32)
    sigma = np.float32([0.1, 0.7, 1.3, 2.0])
    got = np.asarray(jax.jit(gaussian_blur, static_argnums=2)(images, sigma, 4))
    for x, s, y in zip(images, sigma, got, strict=True):
        want = ndimage.gaussian_filter(x, s, mode="mirror", radius=4, axes=(0, 1))
        np.testing.assert_allclose(y, want, atol=1e-5)
    images = RNG.integers(0, 256, (4, 12, 15, 1)).astype(np.uint8)
    got = np.asarray(jax.jit(gaussian_blur, static_argnums=2)(images, sigma, 2)).astype(int)
    for x, s, y in zip(images, sigma, got, strict=True):
        want = ndimage.gaussian_filter(x.astype(float), s, mode="mirror", radius=2, axes=(0, 1))
        assert np.abs(y - want).max() < 0.501


# The operations of the policies


def pillow_operation(image, name, magnitude):
    """An operation as the authors of AutoAugment did it."""
    size, shift = image.size, lambda *m: image.transform(image.size, Image.Transform.AFFINE, m)
    return {
        "Identity": lambda: image,
        "ShearX": lambda: shift(1, magnitude, 0, 0, 1, 0),
        "ShearY": lambda: shift(1, 0, 0, magnitude, 1, 0),
        "TranslateX": lambda: shift(1, 0, -int(magnitude), 0, 1, 0),
        "TranslateY": lambda: shift(1, 0, 0, 0, 1, -int(magnitude)),
        "Rotate": lambda: image.rotate(magnitude) if size else None,
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(1 + magnitude),
        "Color": lambda: ImageEnhance.Color(image).enhance(1 + magnitude),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(1 + magnitude),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1 + magnitude),
        "Posterize": lambda: ImageOps.posterize(image, int(magnitude)),
        "Solarize": lambda: ImageOps.solarize(image, magnitude),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
    }[name]()


def spaces(size):
    from jaxdl.augment import augmix, autoaugment, randaugment, trivialaugment

    return {
        "auto_augment": autoaugment.space(autoaugment.LEVELS, size),
        "rand_augment": autoaugment.space(randaugment.BINS, size),
        "trivial_augment": trivialaugment.SPACE,
        "aug_mix": augmix.space(3.0, size, all_operations=True),
    }


@pytest.mark.parametrize("space", spaces((1, 1)))
@pytest.mark.parametrize("size", [(32, 32, 3), (13, 17, 3), (24, 24, 1)])
def test_every_operation_at_every_magnitude(space, size):
    known = spaces(size[:2])[space]
    table, index = operations.rows(known, size[:2])
    cases = [
        (name, sign * float(magnitude), index[i, j, s])
        for i, (name, (magnitudes, signed)) in enumerate(known.items())
        for j, magnitude in enumerate(magnitudes)
        for s, sign in enumerate((1, -1 if signed else 1))
    ]
    source = SETS["x".join(map(str, size))]
    images = source[np.arange(len(cases)) * 7 % len(source)]
    run = lambda x, rows: operations.applied({"image": x}, table, rows, name="t")["image"]
    got = np.asarray(jax.jit(run)(images, np.array([[c[2] for c in cases]])))
    want = by_pillow(images, lambda x, i: pillow_operation(x, *cases[i][:2]))
    wrong = sorted({cases[i][:2] for i in np.nonzero(np.any(got != want, (1, 2, 3)))[0]})
    assert not wrong


# Alpha

COLOURS = [
    "random_brightness", "random_contrast", "random_saturation", "random_sharpness", "random_hue",
    "random_grayscale", "color_jitter", "random_invert", "random_solarize", "random_solarize_add",
    "random_posterize", "random_autocontrast", "random_equalize", "random_gamma",
]  # fmt: skip


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("name", COLOURS)
def test_alpha_stays_and_colour_is_changed_as_without_it(name, channels):
    image = jnp.asarray(RNG.integers(0, 256, (8, 9, 7, channels), np.uint8))
    change = jax.jit(registry.bind("augmentations", part(name)))
    changed = change(jax.random.key(3), {"image": image})["image"]
    opaque = change(jax.random.key(3), {"image": image[..., :-1]})["image"]
    np.testing.assert_array_equal(changed[..., -1], image[..., -1])
    np.testing.assert_array_equal(changed[..., :-1], opaque)


@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements_of_colour_with_alpha(name):
    change, enhancer = ENHANCERS[name]
    images = awkward(11, 6, 4)
    factor = np.resize(FACTORS, len(images))
    want = by_pillow(images, lambda x, i: enhancer(x).enhance(float(factor[i])))
    np.testing.assert_array_equal(jax.jit(change)(images, factor), want)


def test_an_opaque_green_stays_opaque():
    green = jnp.asarray([0, 255, 0, 255], jnp.uint8).reshape(1, 1, 1, 4)
    grey = colour.saturated(green, jnp.zeros(1))
    assert grey.ravel().tolist() == [150, 150, 150, 255]
