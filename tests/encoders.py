"""PNG and TIFF files written byte by byte, of kinds that Pillow reads but does not write."""

import struct
import zlib
from pathlib import Path

import numpy as np


def packed(samples: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Rows of whole numbers (h, n) as `bits` bits each, a row padded to whole bytes."""
    if bits >= 8 and bits % 8 == 0:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    digits = (samples[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(digits.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def png(
    file: Path, samples: np.ndarray, bits: int, transparent: tuple[int, ...] | None = None
) -> Path:
    """A PNG of (h, w) grey or (h, w, 2 to 4) samples; `transparent` is the tRNS colour.

    Portable Network Graphics, third edition. https://www.w3.org/TR/png-3/
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    colour_type = {1: 0, 3: 2, 2: 4, 4: 6}[channels]
    body = packed(samples.reshape(height, -1), bits)
    rows = len(body) // height
    lines = b"".join(b"\0" + body[i * rows : (i + 1) * rows] for i in range(height))
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)}
    if transparent is not None:
        chunks[b"tRNS"] = struct.pack(f">{len(transparent)}H", *transparent)
    chunks |= {b"IDAT": zlib.compress(lines), b"IEND": b""}
    check = lambda kind, data: struct.pack(">I", zlib.crc32(kind + data))
    parts = [struct.pack(">I", len(d)) + k + d + check(k, d) for k, d in chunks.items()]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


def tiff(
    file: Path,
    samples: np.ndarray,
    bits: int,
    *,
    white_is_zero: bool = False,
    sample_format: int = 1,
    order: str = "<",
) -> Path:
    """An uncompressed TIFF of one strip of (h, w) grey samples.

    TIFF revision 6.0, Adobe 1992.

    Args:
        sample_format: 1 for unsigned, 2 for signed whole numbers, 3 for floats.
        order: of bytes, '<' or '>'.
    """
    height, width = samples.shape
    if sample_format == 3:
        body = samples.astype(f"{order}f{bits // 8}").tobytes()
    else:
        body = packed(samples, bits, order)
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8,
        277: 1, 278: height, 279: len(body), 339: sample_format,
    }  # fmt: skip
    # The body stands at byte 8; the table of tags follows it, each a LONG.
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    body += b"\0" * (len(body) % 2)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(body))
    ends = struct.pack(f"{order}I", 0)
    file.write_bytes(head + body + struct.pack(f"{order}H", len(tags)) + table + ends)
    return file
