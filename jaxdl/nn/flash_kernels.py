"""The kernels of flash attention: what one program does with its tiles. See `nn/flash.py`.

FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning. Dao 2023.
https://arxiv.org/abs/2307.08691. A program holds a tile of queries and goes through the keys, or,
for the gradient of the keys, the other way round.

Each takes references to its inputs and outputs, of one example and head, then:

    place: number of the program's tile.
    causal: a place sees itself and what is before it.
    tile: rows of queries and of keys that are multiplied at a time.
    scale: 1 / sqrt(h).

In shapes, q and k are the sides of a tile.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxdl.types import Array


class Tile(NamedTuple):
    """Block of the logits that one program holds at a time; powers of two."""

    queries: int
    keys: int


LOWEST = -1e30  # below every logit; finite, so that the difference of two is a number


def forward(*refs: Any, place: Any, causal: bool, tile: Tile, scale: float) -> None:
    """The output, and the log of the sum of exponentials by which a softmax is found again."""
    q_ref, k_ref, v_ref, hidden_ref, out_ref, lse_ref = refs
    row = place * tile.queries
    q = q_ref[...]

    def read(j, carry):
        out, largest, total = carry  # (q h), (q 1), (q 1)
        column = pl.multiple_of(j * tile.keys, tile.keys)
        keys = pl.ds(column, tile.keys)
        # S = Q K^T / sqrt(h)
        s = _product(q, k_ref[keys, :], 1, 1) * scale + hidden_ref[:, keys]
        s = _masked(s, row, column) if causal else s
        # m' = max(m, rowmax S);  P = exp(S - m');  l' = e^(m - m') l + rowsum P
        # O' = e^(m - m') O + P V
        new = jnp.maximum(largest, jnp.max(s, axis=1, keepdims=True))
        p = jnp.exp(s - new)
        shrink = jnp.exp(largest - new)
        total = total * shrink + jnp.sum(p, axis=1, keepdims=True)
        out = out * shrink + _product(p.astype(q.dtype), v_ref[keys, :], 1, 0)
        return out, new, total

    zero = jnp.zeros((tile.queries, 1), jnp.float32)
    start = jnp.zeros(q.shape, jnp.float32), zero + LOWEST, zero
    last = k_ref.shape[0]
    last = jnp.minimum(row + tile.queries, last) if causal else last
    out, largest, total = lax.fori_loop(0, pl.cdiv(last, tile.keys), read, start)
    total = jnp.where(total == 0, 1.0, total)
    # O / l, and L = m + log l, by which the backward pass finds P again
    out_ref[...] = (out / total).astype(out_ref.dtype)
    lse_ref[...] = (largest + jnp.log(total)).T


def query_gradient(*refs: Any, place: Any, causal: bool, tile: Tile, scale: float) -> None:
    """The gradient of a tile of queries."""
    q_ref, k_ref, v_ref, hidden_ref, dout_ref, lse_ref, delta_ref, dq_ref = refs
    row = place * tile.queries
    q, dout = q_ref[...], dout_ref[...]
    lse, delta = lse_ref[...].T, delta_ref[...].T

    def read(j, dq):
        column = pl.multiple_of(j * tile.keys, tile.keys)
        keys = pl.ds(column, tile.keys)
        k = k_ref[keys, :]
        # P = exp(S - L);  dP = dO V^T;  dS = P * (dP - D);  dQ = dS K / sqrt(h)
        s = _product(q, k, 1, 1) * scale + hidden_ref[:, keys]
        s = _masked(s, row, column) if causal else s
        dp = _product(dout, v_ref[keys, :], 1, 1)
        ds = jnp.exp(s - lse) * (dp - delta)
        return dq + _product(ds.astype(q.dtype), k, 1, 0)

    last = k_ref.shape[0]
    last = jnp.minimum(row + tile.queries, last) if causal else last
    start = jnp.zeros(q.shape, jnp.float32)
    dq = lax.fori_loop(0, pl.cdiv(last, tile.keys), read, start)
    dq_ref[...] = (dq * scale).astype(dq_ref.dtype)


def key_gradients(*refs: Any, place: Any, causal: bool, tile: Tile, scale: float) -> None:
    """The gradients of a tile of keys and of its values."""
    q_ref, k_ref, v_ref, hidden_ref, dout_ref, lse_ref, delta_ref, dk_ref, dv_ref = refs
    column = place * tile.keys
    k, v, hidden = k_ref[...], v_ref[...], hidden_ref[...]

    def read(i, carry):
        dk, dv = carry
        row = pl.multiple_of(i * tile.queries, tile.queries)
        queries = pl.ds(row, tile.queries)
        q, dout = q_ref[queries, :], dout_ref[queries, :]
        # All transposed, (k q), so that L and D are rows:  dV = P^T dO;  dK = dS^T Q / sqrt(h)
        s = _product(k, q, 1, 1) * scale + hidden
        s = _masked(s, row, column, transposed=True) if causal else s
        p = jnp.exp(s - lse_ref[:, queries])
        dp = _product(v, dout, 1, 1)
        ds = p * (dp - delta_ref[:, queries])
        dv = dv + _product(p.astype(k.dtype), dout, 1, 0)
        return dk + _product(ds.astype(k.dtype), q, 1, 0), dv

    start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    first = lax.div(column, tile.queries) if causal else 0
    dk, dv = lax.fori_loop(first, q_ref.shape[0] // tile.queries, read, start)
    dk_ref[...] = (dk * scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _product(left: Array, right: Array, contract_left: int, contract_right: int) -> Array:
    dimensions = (((contract_left,), (contract_right,)), ((), ()))
    return lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def _masked(s: Array, row: Array, column: Array, transposed: bool = False) -> Array:
    """-inf where a key comes after its query; `row` and `column` are the first of the tile."""
    query = row + lax.broadcasted_iota(jnp.int32, s.shape, 1 if transposed else 0)
    key = column + lax.broadcasted_iota(jnp.int32, s.shape, 0 if transposed else 1)
    return jnp.where(key <= query, s, -jnp.inf)
