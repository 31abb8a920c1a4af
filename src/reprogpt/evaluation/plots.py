"""Numbers as pictures, in two formats that need no library: PNG and SVG."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

COLORS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2")


def grey(values: np.ndarray, size: int = 1) -> bytes:
    """A matrix (rows, columns) as a grey PNG: black is its 1st percentile, white its 99th.

    Each value becomes a square of ``size`` pixels.
    """
    low, high = np.percentile(values, [1, 99])
    levels = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1)
    pixels = (255 * levels).round().astype(np.uint8).repeat(size, 0).repeat(size, 1)
    height, width = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
            + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def curves(lines: Mapping[str, Sequence[float]], width: int = 720, height: int = 260) -> str:
    """Named series over their index, as an SVG drawing with a legend."""
    values = [v for line in lines.values() for v in line]
    low, high = min(values), max(values)
    longest = max(len(line) for line in lines.values())
    x = [10 + (width - 20) * i / max(1, longest - 1) for i in range(longest)]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 24}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height + 24}" fill="white"/>']
    for i, (name, line) in enumerate(lines.items()):
        color = COLORS[i % len(COLORS)]
        y = [height - 10 - (height - 20) * (v - low) / max(high - low, 1e-12) for v in line]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=False))
        parts += [f'<polyline points="{points}" fill="none" stroke="{color}"/>',
                  f'<text x="{10 + 110 * i}" y="{height + 15}" fill="{color}">{name}</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"


def bars(values: Mapping[str, float], marks: Mapping[str, float], caption: str,
         digits: int = 3) -> str:
    """A bar a name with its value in it, and a red tick where ``marks`` has a value, as SVG."""
    left, step, width = 150, 30, 720
    scale = (width - left - 70) / max([*values.values(), *marks.values()])
    height = step * len(values) + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             'font-family="sans-serif" font-size="13">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for row, (name, value) in enumerate(values.items()):
        y, end = step * row + 10, scale * value
        inside = end > 60
        parts += [f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{name}</text>',
                  f'<rect x="{left}" y="{y}" width="{end:.1f}" height="20" fill="{COLORS[0]}"/>',
                  f'<text x="{left + (6 if inside else end + 8):.1f}" y="{y + 15}" '
                  f'fill="{"white" if inside else "black"}">{value:,.{digits}f}</text>']
        if name in marks:
            parts.append(f'<path d="M{left + scale * marks[name]:.1f} {y - 3}v26" '
                         f'stroke="{COLORS[3]}" stroke-width="3"/>')
    parts += [f'<text x="{left}" y="{height - 12}">{caption}</text>', "</svg>"]
    return "\n".join(parts) + "\n"
