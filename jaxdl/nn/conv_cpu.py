"""The dense convolution on CPU and its two gradients, written as XLA's quick kernels take them.

A convolution is linear in the map and in the kernel, and so is each of its gradients in what it is
made of: any of the three is a transpose of the other two. So they are three primitives, and
derivatives of any order and either mode stay among them.

What XLA makes of `lax.conv_general_dilated`'s own gradients (jax 0.10.2, one core, float32;
ResNet-20 at 32x32, batch 128, 694 ms a step by its trace) against what stands here:

    kernel's gradient: the transposed copy of the map that it wants is fused with
        the norms and sums that made the map, and computes them again           184 ms     40 ms
    3x3 of 16 channels: too narrow for the quick kernels                        171 ms    125 ms
    stride 2, input's gradient: a convolution of a map full of zeros             14 ms      9 ms
    1x1, kernel's gradient where channels shrink (8192 pixels, 256 to 64)       5.4 ms    3.3 ms
    kernel's gradient in the body of a scan, 3x3 on 32x16x16x32: a scalar loop  250 ms      4 ms
"""

import functools
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdl.nn.conv_window import Window, Windows, fitted, gather, pad

# XLA's quick kernels ask for more channels than this, coming in or going out.
NARROW = 16
# With a stride, the kernel's gradient is a product for each tap, up to 3x3; 7x7 takes 3 s to
# compile that way, and gains nothing.
FEW_TAPS = 9


def convolve(x: Array, kernel: Array, windows: Windows, precision: lax.PrecisionLike) -> Array:
    """A convolution that differentiates into convolutions of the same form.

    Args:
        x: (b, h, w, c).
        kernel: (kh, kw, c, o), as large as the windows say.
        windows: of height and width.
        precision: of the products.

    Returns:
        (b, h', w', o).
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        return canonical(x, kernel, windows, precision)  # shard_map checks only what it knows
    shape = (x.shape[0], *(w.out for w in windows), kernel.shape[-1])
    return _forward_p.bind(x, kernel, windows=windows, shape=shape, precision=precision)


def canonical(x: Array, kernel: Array, windows: Windows, precision: lax.PrecisionLike) -> Array:
    """The same, in the form that XLA has quick kernels for; its derivatives may be slow."""
    tall, wide = windows
    if _is_dot(windows):
        # y[b h w o] = sum_c x[b h w c] k[c o]
        return jnp.matmul(x, kernel[0, 0], precision=precision)
    if max(x.shape[3], kernel.shape[3]) <= NARROW and _pairs(wide):
        return _in_pairs(x, kernel, windows, precision)
    if any(min(w.low, w.high) < 0 or max(w.out, w.size) > w.extent for w in windows):
        x = pad(x, windows)
        tall, wide = (w._replace(low=0, high=0) for w in windows)
    return lax.conv_general_dilated(
        x,
        kernel,
        (tall.stride, wide.stride),
        ((tall.low, tall.high), (wide.low, wide.high)),
        rhs_dilation=(tall.rate, wide.rate),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _is_dot(windows: Windows) -> bool:
    return all(w == fitted(1, 1, 1, 0, w.extent, w.extent) for w in windows)


def _pairs(wide: Window) -> bool:
    # With two cores the slow kernel is the quicker one: it uses both (6.0 ms against 9.6).
    fits = wide.stride == wide.rate == 1 < wide.size and wide.out % 2 == 0
    return fits and _cores() == 1


def _cores() -> int:
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _in_pairs(x: Array, kernel: Array, windows: Windows, precision: lax.PrecisionLike) -> Array:
    """Two neighbouring pixels as one of twice the channels: a reshape, zeros in the kernel."""
    tall, wide = windows
    (b, h, _, c), (rows, _, _, o) = x.shape, kernel.shape
    taps = (wide.size + 2) // 2
    spare = 2 * taps - wide.size
    # Pixel s of an output pair reads taps s to s + size of the 2 * taps that the pair sees.
    shifted = [_pad_axis(kernel, 1, s, spare - s) for s in (0, 1)]
    kernel = jnp.stack(shifted, axis=3).reshape(rows, taps, 2 * c, 2 * o)
    x = _pad_axis(x, 2, wide.low, wide.high + spare - 1).reshape(b, h, -1, 2 * c)
    wide = fitted(taps, 1, 1, 0, x.shape[2], wide.out // 2)
    return canonical(x, kernel, (tall, wide), precision).reshape(b, tall.out, -1, o)


def _pad_axis(x: Array, axis: int, low: int, high: int) -> Array:
    pads = [(low, high, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _input_gradient(
    dy: Array, kernel: Array, windows: Windows, precision: lax.PrecisionLike
) -> Array:
    """For each phase of the stride, a convolution of dy with the taps that reach it, flipped."""
    if _is_dot(windows):
        # dx[b h w c] = sum_o dy[b h w o] k[c o]
        return jnp.einsum("bhwo,co->bhwc", dy, kernel[0, 0], precision=precision)
    kernel = jnp.swapaxes(kernel, 2, 3)
    tall, wide = windows

    def phase(rows: slice, tall: Window, columns: slice, wide: Window) -> Array:
        if not (tall.size and wide.size):
            return jnp.zeros((dy.shape[0], tall.out, wide.out, kernel.shape[3]), dy.dtype)
        return canonical(dy, kernel[rows, columns], (tall, wide), precision)

    rows = [
        _interleave([phase(*above, *beside) for beside in _phases(wide)], axis=2)
        for above in _phases(tall)
    ]
    return _interleave(rows, axis=1)[:, : tall.extent, : wide.extent]


def _phases(window: Window) -> list[tuple[slice, Window]]:
    """For each phase p: its taps, the last one first, and the window by which they read dy."""
    # x[s a + p] is read by y[o] at tap i where s a + p = o s + i r - low: o = a + (p + low - i r)/s
    s, r, phases = window.stride, window.rate, []
    out = -(-window.extent // s)
    for p in range(s):
        taps = [i for i in range(window.size) if (p + window.low - i * r) % s == 0]
        if not taps:
            phases.append((slice(0), Window(0, 1, 1, 0, 0, window.out, out)))
            continue
        step = taps[1] - taps[0] if len(taps) > 1 else s
        low = (taps[-1] * r - p - window.low) // s
        flipped = slice(taps[-1], taps[0] - 1 if taps[0] else None, -step)
        phases.append((flipped, fitted(len(taps), 1, step * r // s, low, window.out, out)))
    return phases


def _interleave(phases: list[Array], axis: int) -> Array:
    if len(phases) == 1:
        return phases[0]
    shape = list(phases[0].shape)
    shape[axis] *= len(phases)
    return jnp.stack(phases, axis + 1).reshape(shape)


_one_device = ContextVar("one_device", default=False)


def _apart(*static: str) -> Callable:
    """A function that XLA compiles by itself: what it is given is computed before, and once.

    Not where several devices share the work: the sum over them would be inside, and XLA on CPU
    keeps only the collectives of the program itself in order; two processes would add up what does
    not belong together.
    """

    def decorate(function: Callable) -> Callable:
        compiled = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def call(*args: Any, **settings: Any) -> Array:
            if not _one_device.get():
                return function(*args, **settings)
            with set_xla_metadata(inlineable="false"):
                return compiled(*args, **settings)

        return call

    return decorate


@_apart("windows", "precision")
def _kernel_gradient(
    x: Array, dy: Array, *, windows: Windows, precision: lax.PrecisionLike
) -> Array:
    """A convolution in which the batch takes the channels' place, or a product for each tap."""
    tall, wide = windows
    if _is_dot(windows):
        return _product(x, dy, precision)[None, None]
    if max(tall.stride, wide.stride) > 1 and tall.size * wide.size <= FEW_TAPS:
        taps = [_product(tap, dy, precision) for tap in gather(pad(x, windows), windows)]
        return jnp.stack(taps).reshape(tall.size, wide.size, *taps[0].shape)
    # dk[i j c o] = sum_bhw x[b h+i w+j c] dy[b h w o]: of x[c h w b] with the kernel dy[h w b o]
    x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
    swapped = tuple(
        w._replace(size=w.out, out=w.size, stride=w.rate, rate=w.stride) for w in windows
    )
    return canonical(x, dy, swapped, precision).transpose(1, 2, 0, 3)


def _product(x: Array, dy: Array, precision: lax.PrecisionLike) -> Array:
    # dk[c o] = sum_bhw x[b h w c] dy[b h w o]: twice as quick where the first factor is the smaller
    if x.shape[-1] <= dy.shape[-1]:
        return _dot(x, dy, precision=precision)
    return _dot(dy, x, precision=precision).T


@_apart("precision")
def _dot(a: Array, b: Array, *, precision: lax.PrecisionLike) -> Array:
    return jnp.einsum("bhwc,bhwo->co", a, b, precision=precision)


def _primitive(name: str, compute: Callable[..., Array]) -> Primitive:
    def run(a: Array, b: Array, *, windows: Windows, shape: tuple[int, ...], precision: Any):
        return compute(a, b, windows=windows, precision=precision)

    primitive = Primitive(name)
    primitive.def_impl(jax.jit(run, static_argnames=("windows", "shape", "precision")))
    primitive.def_abstract_eval(lambda a, b, *, shape, **_: a.update(shape=shape))
    mlir.register_lowering(primitive, functools.partial(_lowered, run))
    batching.primitive_batchers[primitive] = functools.partial(_batched, primitive)
    return primitive


def _lowered(
    run: Callable[..., Array], context: mlir.LoweringRuleContext, *args: Any, **params: Any
) -> Any:
    places = context.module_context.axis_context
    token = _one_device.set(getattr(places, "num_devices", None) == 1)
    try:
        return mlir.lower_fun(run, multiple_results=False)(context, *args, **params)
    finally:
        _one_device.reset(token)


def _batched(primitive: Primitive, args, dims, *, shape: tuple[int, ...], **params: Any):
    """More maps are a larger batch; kernels of their own take their turn, one after the other."""
    a, b = (x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True))
    if dims[1] is None and primitive is not _kernel_p:
        n = a.shape[0]
        y = primitive.bind(
            a.reshape(-1, *a.shape[2:]), b, shape=(n * shape[0], *shape[1:]), **params
        )
        return y.reshape(n, *shape), 0
    mapped = {i: x for i, (x, d) in enumerate(zip((a, b), dims, strict=True)) if d is not None}

    def one(given: dict[int, Array]) -> Array:
        return primitive.bind(given.get(0, a), given.get(1, b), shape=shape, **params)

    return lax.map(one, mapped), 0


# Named as lax's, so that who looks for the products of a program finds it.
_forward_p = _primitive("conv_general_dilated", canonical)
_input_p = _primitive("conv_input_gradient", _input_gradient)
_kernel_p = _primitive("conv_kernel_gradient", _kernel_gradient)


# Cotangents: of y = x * k, of dx = dy * flip(k), of dk = x * dy; the one asked for has only a type.
ad.defbilinear(
    _forward_p,
    lambda ct, x, k, **p: _input_p.bind(ct, k, **p | {"shape": x.aval.shape}),
    lambda ct, x, k, **p: _kernel_p.bind(x, ct, **p | {"shape": k.aval.shape}),
)
ad.defbilinear(
    _input_p,
    lambda ct, dy, k, **p: _forward_p.bind(ct, k, **p | {"shape": dy.aval.shape}),
    lambda ct, dy, k, **p: _kernel_p.bind(ct, dy, **p | {"shape": k.aval.shape}),
)
ad.defbilinear(
    _kernel_p,
    lambda ct, x, dy, **p: _input_p.bind(dy, ct, **p | {"shape": x.aval.shape}),
    lambda ct, x, dy, **p: _forward_p.bind(x, ct, **p | {"shape": dy.aval.shape}),
)
