"""Damages files: bits, lengths and whole pieces anywhere, and the fields that a format's reader trusts."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import nibabel as nib

Mutation = Callable[[bytes, Random, Sequence[bytes]], bytes]

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-20, 1e20, 3.4e38, float("inf"), float("-inf"), float("nan"))
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"OV", b"SV", b"UV")
VRS = (*LONG_VRS, b"CS", b"DS", b"IS", b"LO", b"UI", b"US", b"SS", b"FD", b"DA", b"TM", b"PN", b"XX", b"\0\0")
TEXTS = (
    "",
    "\0",
    "../../escape",
    "/escape",
    "CON",
    "..",
    ".",
    "a" * 5000,
    "‮evil",
    "é",
    "1e999",
    "-1",
    "nan",
    "0",
    "\\",
)
ODD: tuple[Any, ...] = (
    *TEXTS,
    None,
    True,
    0,
    -1,
    2**31,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"a": None},
    "../escape.nii.gz",
    "a/../../escape",
    "file:///escape",
    "x\x1b]0;title\x07",
)
LITERALS = (
    '""', '"../escape"', '"\\u0000"', "[]", "{}", "-1", "0", "1e400", "nan", "inf", "true", "99999999999999999999999",
    "[[[1]]]", '"auto"', "1979-05-27", '"' + "a" * 3000 + '"', "0x_", '"CON"',
)  # fmt: skip


def anywhere(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """One to four small damages at random places, of the kinds that need no knowledge of a format."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, size = rng.randrange(len(found) + 1), rng.choice((1, 2, 4, 16, 256))
        match rng.randrange(8):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1:
                found[at : at + size] = rng.randbytes(size)
            case 2:
                del found[at:]
            case 3:
                del found[at : at + size]
            case 4:
                found[at:at] = found[at : at + size]
            case 5:
                width = rng.choice("BHIQ")
                value = rng.choice(EDGES) & ((1 << 8 * struct.calcsize(width)) - 1)
                found[at : at + struct.calcsize(width)] = struct.pack(rng.choice("<>") + width, value)
            case 6:
                other = rng.choice(others)
                found[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                found[at:at] = rng.choice((b"\0", b"\xff")) * size
    return bytes(found)


def nifti(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Fields of the header, or anything; of a gzip stream mostly what is inside."""
    packed = data[:2] == b"\x1f\x8b"
    if not packed or rng.random() < 0.2:
        return fields(data, rng, others) if not packed else anywhere(data, rng, others)
    inner = gzip.decompress(data)
    inside = [plain(other) for other in others]
    made = gzip.compress(fields(inner, rng, inside), 1, mtime=0)
    return made + gzip.compress(b"\0" * 100_000, 1, mtime=0) if rng.random() < 0.05 else made


def plain(data: bytes) -> bytes:
    """What a file holds when it is unpacked."""
    try:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error):
        return data


def fields(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """One to three fields of a NIfTI header with values at the edge of their type."""
    if rng.random() < 0.3 or len(data) < 600:
        return anywhere(data, rng, others)
    found = bytearray(data)
    order = "<" if found[0] or found[1] else ">"
    layout = nib.Nifti2Header if 540 in (found[0] + 256 * found[1], found[3] + 256 * found[2]) else nib.Nifti1Header
    names = layout.template_dtype.fields
    for _ in range(rng.randint(1, 3)):
        name = rng.choice([*names, "dim", "dim", "pixdim", "datatype", "vox_offset", "srow_x", "scl_slope"])
        kind, start = names[name]
        base = kind.base
        at = start + rng.randrange(max(kind.itemsize // base.itemsize, 1)) * base.itemsize
        match base.kind:
            case "f":
                value = struct.pack(order + {4: "f", 8: "d"}[base.itemsize], rng.choice(FLOATS))
            case "i" | "u":
                number = rng.choice((*EDGES, rng.getrandbits(8 * base.itemsize), rng.randrange(20)))
                value = (number & ((1 << 8 * base.itemsize) - 1)).to_bytes(
                    base.itemsize, "little" if order == "<" else "big"
                )
            case _:
                value = rng.randbytes(base.itemsize)
        found[at : at + len(value)] = value
    return bytes(found)


@dataclass(frozen=True)
class Element:
    """Where an element of an explicit little endian DICOM file lies."""

    start: int
    vr: bytes
    length_at: int
    value_at: int
    length: int


def elements(data: bytes) -> Iterator[Element]:
    """The elements of a file in their order, those of sequences among them; ends where the file makes no sense."""
    at = 132
    while at + 8 <= len(data):
        vr = data[at + 4 : at + 6]
        if data[at : at + 2] == b"\xfe\xff":
            (length,) = struct.unpack_from("<I", data, at + 4)
            yield Element(at, b"", at + 4, at + 8, 0)
            at += 8
        elif vr in LONG_VRS:
            if at + 12 > len(data):
                return
            (length,) = struct.unpack_from("<I", data, at + 8)
            yield Element(at, vr, at + 8, at + 12, length)
            at += 12 if vr == b"SQ" or length == 0xFFFFFFFF else 12 + length
        elif vr.isalpha() and vr.isupper():
            (length,) = struct.unpack_from("<H", data, at + 6)
            yield Element(at, vr, at + 6, at + 8, length)
            at += 8 + length
        else:
            return


def dicom(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """One to three elements with another length, type, tag or value, moved, doubled or gone; or anything."""
    if rng.random() < 0.25:
        return anywhere(data, rng, others)
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        listed = list(elements(bytes(found)))
        if not listed:
            break
        _element(found, rng.choice(listed), listed, rng)
    return bytes(found)


def _element(found: bytearray, one: Element, listed: Sequence[Element], rng: Random) -> None:
    end = one.value_at + one.length
    match rng.randrange(9):
        case 0:
            width = one.value_at - one.length_at
            number = rng.choice((*EDGES, one.length + rng.choice((-2, -1, 1, 2))))
            found[one.length_at : one.value_at] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        case 1 if one.vr:
            found[one.start + 4 : one.start + 6] = rng.choice(VRS)
        case 2:
            other = rng.choice(listed)
            found[one.start : one.start + 4] = found[other.start : other.start + 4]
        case 3:
            del found[one.start : end]
        case 4:
            found[one.start : one.start] = found[one.start : end]
        case 5:
            other = rng.choice(listed)
            found[other.start : other.start] = found[one.start : end]
        case 6 if one.vr in (b"US", b"SS", b"UL", b"SL", b"FD", b"FL"):
            value = struct.pack("<Q", rng.choice((*EDGES, 8, 12, 16, 32, 64)))
            if one.vr in (b"FD", b"FL"):
                value = struct.pack("<d" if one.vr == b"FD" else "<f", rng.choice(FLOATS)).ljust(8, b"\0")
            found[one.value_at : end] = value[: max(one.length, 0)].ljust(one.length, b"\0")
        case _ if one.value_at - one.length_at == 2 and one.vr:
            value = rng.choice(
                (*TEXTS, "\\".join(["1"] * rng.randrange(9)), "1\\0\\0\\0\\0\\0", "2147483648", "9" * 400)
            )
            raw = value.encode("latin-1", "replace")[:60000]
            raw += b" " * (len(raw) % 2)
            found[one.length_at : end] = struct.pack("<H", len(raw)) + raw
        case _:
            size = max(min(one.length, 64), 1)
            found[one.value_at : one.value_at + size] = rng.randbytes(size)


def tree(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """JSON with one to three values replaced, renamed, removed or doubled; or anything."""
    if rng.random() < 0.2:
        return anywhere(data, rng, others)
    if rng.random() < 0.02:
        return (b"[" if rng.random() < 0.5 else b'{"a":') * rng.choice((500, 100_000))
    found = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        found = bent(found, rng)
    return json.dumps(found, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")


def bent(found: Any, rng: Random) -> Any:
    """A tree of JSON with one value bent."""
    places = [place for place in nodes(found) if place[1] is not None]
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("x", *map(str, TEXTS)))] = holder.pop(key)
        case 2:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if _has(other, name) else None
        case 3:
            return rng.choice(ODD) if rng.random() < 0.1 else found
        case 4 if isinstance(holder, list):
            holder.append(holder[key])
        case _:
            holder[key] = rng.choice(ODD)
    return found


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def nodes(found: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree: what holds it, and its key or index there."""
    keys: Any = list(found) if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
    for key in keys:
        yield found, key
        yield from nodes(found[key])


def toml(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """TOML with lines doubled, removed, or given another value; or anything."""
    if rng.random() < 0.25:
        return anywhere(data, rng, others)
    if rng.random() < 0.02:
        return b"a = " + b"[" * rng.choice((500, 100_000))
    lines = data.decode().splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        match rng.randrange(5):
            case 0:
                lines[at:at] = [lines[at]]
            case 1 if len(lines) > 1:
                del lines[at]
            case 2 if equals:
                lines[at] = (
                    f"{rng.choice(('x', 'task', 'output', 'restore.noise', 'compute'))} ={lines[at].partition('=')[2]}"
                )
            case _ if equals:
                lines[at] = f"{key}= {rng.choice(LITERALS)}"
            case _:
                lines[at] = f"[{rng.choice(('restore', 'compute', 'x', 'restore.noise'))}]"
    return "\n".join(lines).encode()


def by_name(name: str) -> Mutation:
    """What damages files of this name best."""
    if name.endswith((".nii", ".nii.gz", ".hdr", ".img")):
        return nifti
    return {"json": tree, "toml": toml, "dcm": dicom}.get(name.rpartition(".")[2], anywhere)
