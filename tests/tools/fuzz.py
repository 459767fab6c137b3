"""Try every loader with generated files: `python tests/tools/fuzz.py [--inputs 10000]`.

The files are damaged copies of good ones, or made to be odd, foreign or hostile. A
worker process loads them one after another, each in 5 seconds and 1 GB. Outcomes:

- same: it is used, and gives what the undamaged file gives.
- refused: ValueError or FileNotFoundError that names the file.
- valid: it is used and gives other numbers, which are valid, and its format has no
  checksum. (A picture of which a pixel has changed is a picture.)
- failed: other numbers in spite of a checksum, another error, an error that names no
  file, code that was run, a network loaded by half, a crash, or no end.

It prints a table of kinds and outcomes, and the failures; the exit status is 1 if there
are any. `--only N` repeats input N alone and keeps its files.
"""

import argparse
import contextlib
import csv
import functools
import hashlib
import io
import multiprocessing
import os
import pickle
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
OUTCOMES = ("same", "refused", "valid", "failed")
# A file that hostile inputs leave behind. The worker inherits its name.
CANARY = os.environ.setdefault(
    "FUZZ_CANARY", str(Path(tempfile.gettempdir()) / f"fuzz_ran_{os.getpid()}")
)
SECONDS = 5
BYTES = 2**30


@dataclass
class Case:
    """A generated input.

    files: {name: content}, written to a folder.
    target: the name of the file or folder in it that is loaded; "" for the folder.
    loader: the name of a function in `LOADERS`.
    original: the undamaged files, or None where there is no such thing.
    has_checksum: whether a difference can be found out.
    expected: "refused" or "used" where that is known.
    """

    files: dict[str, bytes]
    target: str
    loader: str
    original: dict[str, bytes] | None = None
    has_checksum: bool = False
    expected: str = ""


# ---- Good files ----------------------------------------------------------------------


def saved(save, *arguments, **options) -> bytes:
    """What a function writes to a file."""
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def random_sprites(n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)


def small_network():
    """A network with weights, statistics, a counter and a mask."""
    import torch

    torch.manual_seed(5)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    network.register_buffer("mask", torch.tensor([True, False]))
    return network


@functools.cache
def sprite_files() -> dict[str, bytes]:
    """The three files of twelve sprites, and their SHA256SUMS."""
    labels = np.eye(5, dtype=np.uint8)[np.arange(12) % 5]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["part", "class", "kind", "hair"])
    for i in range(12):
        part = ("train", "train", "test", "compositional")[i % 4]
        writer.writerow([part, "food", f"fruit {i}", ""])
    files = {
        "sprites_16x16.npy": saved(np.save, random_sprites(12)),
        "sprite_labels_16x16.npy": saved(np.save, labels),
        "sprite_factors_16x16.csv": table.getvalue().encode(),
    }
    lines = []
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f"{digest}  {name}\n")
    return files | {"SHA256SUMS": "".join(lines).encode()}


@functools.cache
def weights() -> bytes:
    import torch

    return saved(lambda file: torch.save(dict(small_network().state_dict()), file))


@functools.cache
def checkpoint() -> bytes:
    """What a training writes in order to resume."""
    import torch

    network = small_network()
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimiser.step()
    content = {
        "model": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": {"epochs": [{"epoch": 0, "loss": 0.5}], "add": None},
    }
    return saved(lambda file: torch.save(content, file))


@functools.cache
def pictures() -> dict[str, bytes]:
    """A sheet of two sprites in every format and mode that is read."""
    from PIL import Image

    sheet = Image.fromarray(np.hstack(random_sprites(2)))
    files = {}
    for mode in ("RGB", "RGBA", "L", "LA", "1", "P", "I;16"):
        one = sheet.quantize(16) if mode == "P" else sheet
        if mode == "I;16":
            one = Image.fromarray(np.asarray(sheet.convert("L")).astype(np.uint16) * 99)
        elif mode != "P":
            one = sheet.convert(mode)
        files[f"{mode.replace(';', '')}.png"] = saved(one.save, "PNG")
    for suffix, name in [("gif", "GIF"), ("bmp", "BMP"), ("jpg", "JPEG")]:
        files[f"a.{suffix}"] = saved(sheet.save, name)
    files["a.webp"] = saved(sheet.save, "WEBP", lossless=True)
    files["a.tga"] = saved(sheet.save, "TGA")
    files["rle.tga"] = saved(sheet.save, "TGA", compression="tga_rle")
    return files


@functools.cache
def digit_files() -> dict[str, bytes]:
    """The files in which torchvision keeps a set of twelve digits."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 255, (12, 28, 28), dtype=np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    files = {}
    for part in ("train", "t10k"):
        head = struct.pack(">IIII", 0x803, *images.shape)
        files[f"MNIST/raw/{part}-images-idx3-ubyte"] = head + images.tobytes()
        head = struct.pack(">II", 0x801, len(labels))
        files[f"MNIST/raw/{part}-labels-idx1-ubyte"] = head + labels.tobytes()
    return files


# ---- Damage --------------------------------------------------------------------------


def flipped(content: bytes, rng) -> bytes:
    """One to eight bits flipped."""
    changed = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwritten(content: bytes, rng) -> bytes:
    """A few bytes replaced by random ones, or by those of extreme numbers."""
    extreme = [b"\0", b"\xff", b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\xff" * 8, b"\x80"]
    patch = extreme[rng.integers(len(extreme))]
    if rng.random() < 0.3:
        patch = rng.bytes(int(rng.integers(1, 30)))
    place = int(rng.integers(len(content)))
    return content[:place] + patch + content[place + len(patch) :]


def cut_short(content: bytes, rng) -> bytes:
    return content[: int(rng.integers(len(content)))]


def lengthened(content: bytes, rng) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 200)))


def without_a_block(content: bytes, rng) -> bytes:
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:start] + content[end:]


def with_a_block_twice(content: bytes, rng) -> bytes:
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:end] + content[start:]


def with_a_block_of_zeros(content: bytes, rng) -> bytes:
    """As a copy that was interrupted on some file systems."""
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:start] + bytes(end - start) + content[end:]


def with_insertion(content: bytes, rng) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + rng.bytes(int(rng.integers(1, 9))) + content[place:]


def foreign(content: bytes, rng) -> bytes:
    """Another file under this name."""
    others = [b"", b"hello", bytes(500), b"PK\x03\x04" + bytes(60), checkpoint()]
    others += [sprite_files()["sprites_16x16.npy"], pictures()["RGB.png"][:300]]
    others += [pickle.dumps([1, 2]), rng.bytes(300), EPS, b"%PDF-1.4\n%%EOF\n"]
    return others[rng.integers(len(others))]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 16\n%%EndComments\n%%EOF\n"
DAMAGES = (
    flipped,
    flipped,
    flipped,
    overwritten,
    overwritten,
    cut_short,
    lengthened,
    without_a_block,
    with_a_block_twice,
    with_a_block_of_zeros,
    with_insertion,
    foreign,
)


def damaged(content: bytes, rng) -> bytes:
    """The content with one damage, or with two."""
    for _ in range(1 + (rng.random() < 0.2)):
        damage = DAMAGES[rng.integers(len(DAMAGES))]
        content = damage(content or b"\0", rng)
    return content


def damaged_case(files, target, loader, rng, **options) -> Case:
    """One of the files is damaged."""
    names = list(files)
    name = names[rng.integers(len(names))]
    changed = files | {name: damaged(files[name], rng)}
    return Case(changed, target, loader, files, **options)


# ---- Kinds: damaged files ------------------------------------------------------------


def npy(rng) -> Case:
    array = random_sprites(4)
    choices = (array, array.astype(">f8"), np.asfortranarray(array[0]), array[:, 0, 0])
    content = saved(np.save, choices[rng.integers(4)])
    return damaged_case({"a.npy": content}, "a.npy", "array", rng)


def npz(rng) -> Case:
    save = np.savez_compressed if rng.random() < 0.5 else np.savez
    content = saved(save, images=random_sprites(4), labels=np.arange(4))
    return damaged_case({"a.npz": content}, "a.npz", "archive", rng, has_checksum=True)


def sprites(rng) -> Case:
    return damaged_case(sprite_files(), "", "sprites", rng, has_checksum=True)


def sprites_without_sums(rng) -> Case:
    files = dict(sprite_files())
    del files["SHA256SUMS"]
    return damaged_case(files, "", "sprites", rng)


def state_dict(rng) -> Case:
    loader = ("state", "weights")[rng.integers(2)]
    files = {"w.pth": weights()}
    return damaged_case(files, "w.pth", loader, rng, has_checksum=True)


def resume_file(rng) -> Case:
    files = {"resume.pth": checkpoint()}
    return damaged_case(files, "resume.pth", "checkpoint", rng, has_checksum=True)


def png(rng) -> Case:
    names = [name for name in pictures() if name.endswith(".png")]
    name = names[rng.integers(len(names))]
    files = {name: pictures()[name]}
    return damaged_case(files, name, "picture", rng, has_checksum=True)


def other_pictures(rng) -> Case:
    names = [name for name in pictures() if not name.endswith(".png")]
    name = names[rng.integers(len(names))]
    return damaged_case({name: pictures()[name]}, name, "tiles", rng)


def folder_of_pictures(rng) -> Case:
    """A good picture beside a damaged one, which is used or left out with a line."""
    from PIL import Image

    one, other = random_sprites(2)
    files = {
        "damaged.png": saved(Image.fromarray(one).save, "PNG"),
        "good.png": saved(Image.fromarray(other).save, "PNG"),
    }
    content = damaged(files["damaged.png"], rng)
    changed = files | {"damaged.png": content}
    return Case(changed, "", "folder", files, has_checksum=True)


def digits(rng) -> Case:
    return damaged_case(digit_files(), "", "digits", rng)


# ---- Kinds: odd, foreign and hostile files -------------------------------------------


def header_and_body(text: str, body: bytes, version: bytes = b"\1\0") -> bytes:
    """The content of a .npy file."""
    line = text.encode() + b"\n"
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(line))
    return b"\x93NUMPY" + version + size + line + body


def plausible_array(rng) -> bytes:
    """A .npy file of numbers whose size is right, and which NumPy can read."""

    def one_of(*choices):
        return choices[rng.integers(len(choices))]

    shape = tuple(rng.integers(0, 5, rng.integers(0, 5)).tolist())
    code = one_of("<", ">") + one_of("u1", "i2", "u4", "i8", "f2", "f4", "f8", "f16")
    values = rng.integers(0, 100, shape).astype(code)
    text = f"{{'descr': '{code}', 'fortran_order': {one_of(True, False)}, "
    text += f"'shape': {shape}, }}" + " " * int(rng.integers(0, 20))
    version = one_of(b"\1\0", b"\2\0", b"\3\0")
    return header_and_body(text, values.tobytes(), version)


def odd_array(rng) -> bytes:
    """A .npy file whose header is put together from odd parts."""

    def one_of(*choices):
        return choices[rng.integers(len(choices))]

    numbers = (0, 1, 2, 3, 6, -1, 16, 2**31, 2**63, 2**64, 10**30, "True", "1.0", "a")
    dimensions = [one_of(*numbers) for _ in range(rng.integers(0, 5))]
    shape = "".join(f"{number}, " for number in dimensions)
    if rng.random() < 0.1:
        shape = "(" * int(rng.integers(1, 3000))
    code = one_of(
        "u1", "i1", "b1", "f2", "f4", "f8", "f16", "c8", "O", "S3", "U0", "V9"
    )
    order = one_of("|", "<", ">", "=", "?")
    fortran = one_of("True", "False", "None", "1")
    brace = one_of("}", "}", "}", "}", "", "}}", ", 'more': 1}", "\n}", "\0}")
    text = f"{{'descr': '{order}{code}', 'fortran_order': {fortran}, 'shape': ({shape})"
    version = one_of(b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0")
    body = bytes(one_of(0, 1, 2, 3, 6, 12, 36, 100))
    return header_and_body(f"{text}{brace}", body, version)


def odd_header(rng) -> Case:
    if rng.random() < 0.3:
        content = plausible_array(rng)
        return Case({"a.npy": content}, "a.npy", "array", expected="used")
    return Case({"a.npy": odd_array(rng)}, "a.npy", "array")


def odd_archive(rng) -> Case:
    """A whole .npz file with odd members."""
    content = plausible_array(rng)
    names = ["images.npy", "images.npy", "images", "labels.npy", "../images.npy", " "]
    members = {names[rng.integers(len(names))]: content}
    if rng.random() < 0.5:
        members["images.npy"] = odd_array(rng)
    if rng.random() < 0.2:
        members["images.npy"] = rng.bytes(100)
    return Case({"a.npz": zipped(members)}, "a.npz", "archive")


def odd_labels(rng) -> Case:
    """Labels of any type, shape and values, beside six sprites."""

    def one_of(*choices):
        return choices[rng.integers(len(choices))]

    shape = one_of((6,), (6, 1), (6, 3), (6, 5), (6, 5), (6, 5), (5, 5), (6, 5, 1), ())
    dtypes = ("u1", "?", "<i8", ">i4", "f2", ">f4", "f8", "f16", "U3", "c8", "M8[s]")
    values = np.zeros(shape)
    if values.ndim == 2:
        classes = rng.integers(0, shape[1], shape[0])
        values[np.arange(shape[0]), classes] = 1
    with np.errstate(all="ignore"):
        values = values * one_of(1, 1, 1, 1, 1, 0.5, 2, -1, np.nan, np.inf)
        labels = values.astype(one_of(*dtypes))
    valid = labels.dtype.kind in "biuf" and labels.shape in ((6, 1), (6, 3), (6, 5))
    if valid:
        wide = labels.astype(np.float64)
        valid = bool(np.all((wide >= 0) & (wide <= 1)))
    content = {
        "s.npy": saved(np.save, random_sprites(6)),
        "l.npy": saved(np.save, labels, allow_pickle=True),
    }
    return Case(content, "", "dataset", expected="used" if valid else "refused")


class Call:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile_call(rng) -> Call:
    """Something that leaves the file `CANARY` behind, or takes all memory."""
    command = f"echo ran > {CANARY}"
    calls = (
        Call(os.system, command),
        Call(open, CANARY, "w"),
        Call(exec, f"open({CANARY!r}, 'w')"),
        Call(eval, f"open({CANARY!r}, 'w')"),
        Call(__import__, "antigravity"),
        Call(os.open, CANARY, os.O_CREAT),
        Call(bytearray, 10**12),
        Call(Path, "x"),
    )
    return calls[rng.integers(len(calls))]


def hostile_weights(rng) -> Case:
    """A pickle that calls something, in one of four containers."""
    import torch

    value = hostile_call(rng)
    if rng.random() < 0.5:
        value = {"a": torch.ones(2), "b": [value]}
    content = pickle.dumps(value, protocol=int(rng.integers(0, 5)))
    container = rng.integers(4)
    if container == 1:
        content = saved(lambda file: torch.save(value, file))
    if container == 2:
        content = saved(
            lambda file: torch.save(value, file, _use_new_zipfile_serialization=False)
        )
    if container == 3:
        content = zipped({"a/data.pkl": content, "a/version": b"3\n"})
    loader = ("state", "checkpoint", "weights")[rng.integers(3)]
    return Case({"w.pth": content}, "w.pth", loader, expected="refused")


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def changed_archive(rng) -> Case:
    """Weights whose parts were changed, with checksums that are right again."""
    members = {}
    with zipfile.ZipFile(io.BytesIO(weights())) as archive:
        for name in archive.namelist():
            members[name] = archive.read(name)
    names = [*members, "archive/data.pkl", "archive/data.pkl"]
    name = names[rng.integers(len(names))]
    members[name] = damaged(members[name], rng)
    if rng.random() < 0.1:
        del members[name]
    loader = ("state", "weights", "checkpoint")[rng.integers(3)]
    return Case({"w.pth": zipped(members)}, "w.pth", loader, {"w.pth": weights()})


def odd_pickle(rng) -> Case:
    """A pickle of odd instructions in an archive that is whole."""
    deep = int(rng.integers(1, 50_000))
    choices = (
        b"]" * deep + b"a" * (deep - 1) + b".",
        b"}q\0X\1\0\0\0ah\0s.",  # a dictionary that holds itself
        b"]" + b"q\0]h\0h\0e" * 50 + b".",
        b"r\xff\xff\xff\xff.",
        b"X\xff\xff\xff\xff.",
        b"B\xff\xff\xff\x7f.",
        b"(" * deep + b".",
        b"J\xff\xff\xff\xff" * deep + b".",
        b"c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R.",
        b"ccollections\nOrderedDict\n)R" + b"0" * 5 + b".",
        b"ctorch\nSize\n(J\0\0\0\x7ft\x85R.",
        rng.bytes(100),
    )
    content = b"\x80\x02" + choices[rng.integers(len(choices))]
    files = {"w.pth": zipped({"a/data.pkl": content, "a/version": b"3\n"})}
    loader = ("state", "checkpoint")[rng.integers(2)]
    return Case(files, "w.pth", loader)


def lying_pickle(rng) -> Case:
    """A tensor that is said to have more numbers, or fewer, than are in the archive."""
    import torch

    whole = saved(lambda file: torch.save({"a": torch.ones(4)}, file))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    four = b"K\x04"
    numbers = (3, 5, 100, 10_000, 50_000_000, 2**31 - 1)
    claim = b"J" + struct.pack("<i", numbers[rng.integers(len(numbers))])
    patched = members["archive/data.pkl"].replace(four, claim)
    files = {"w.pth": zipped(members | {"archive/data.pkl": patched})}
    loader = ("state", "checkpoint")[rng.integers(2)]
    return Case(files, "w.pth", loader, expected="refused")


def odd_tensors(rng) -> Case:
    """A state dict in which one tensor is sparse, infinite, of another shape, ..."""
    import torch

    state = dict(small_network().state_dict())
    weight = state["0.weight"]
    changes = (
        weight.to_sparse(),
        weight.to("meta"),
        weight * 1j,
        weight.byte(),
        weight.long(),
        weight.to(torch.float8_e4m3fn),
        weight * float("nan"),
        weight.double() * 1e300,
        weight[:1].expand(4, 3, 3, 3)[:, :, :, :2],
        weight.flatten(),
        torch.ones(1).expand(10**5, 10**5),
        "text",
        None,
    )
    state["0.weight"] = changes[rng.integers(len(changes))]
    content = saved(lambda file: torch.save(state, file))
    return Case({"w.pth": content}, "w.pth", "weights", expected="refused")


def wrapped_weights(rng) -> Case:
    """A good state dict under the names that wrappers give, in any precision."""
    import torch

    prefixes = ("", "module.", "_orig_mod.", "module._orig_mod.", "module.module.")
    prefix = prefixes[rng.integers(len(prefixes))]
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    dtype = dtypes[rng.integers(len(dtypes))]
    state = {}
    for name, value in small_network().state_dict().items():
        state[prefix + name] = value.to(dtype) if value.is_floating_point() else value
    if prefix and rng.random() < 0.5:
        state["n_averaged"] = torch.tensor(3)
    content = saved(lambda file: torch.save(state, file))
    case = Case({"w.pth": content}, "w.pth", "weights", expected="used")
    if dtype in (torch.float32, torch.float64):  # these lose nothing
        case.original = {"w.pth": weights()}
        case.has_checksum = True
    return case


def picture_bomb(rng) -> Case:
    """A header that promises many pixels, in any format."""
    side = int(rng.choice([4100, 9472, 13344, 16000, 40_000, 65_535]))
    names = ["RGB.png", "1.png", "P.png", "a.gif", "a.bmp", "a.jpg", "a.webp", "a.tga"]
    name = names[rng.integers(len(names))]
    content = bytearray(pictures()[name])
    if name.endswith(".png"):
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    if name.endswith(".gif"):
        content[6:10] = struct.pack("<HH", side, side)
    if name.endswith(".bmp"):
        content[18:26] = struct.pack("<ii", side, side)
    if name.endswith(".tga"):
        content[12:16] = struct.pack("<HH", side, side)
    if name.endswith(".jpg"):
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", side, side)
    if name.endswith(".webp"):
        place = content.index(b"VP8L") + 9
        bits = (side - 1) % 2**14
        content[place : place + 4] = struct.pack("<I", bits | bits << 14)
    return Case({name: bytes(content)}, name, "tiles", expected="refused")


def foreign_picture(rng) -> Case:
    """A format that is not read, under the name of one that is."""
    from PIL import Image

    picture = Image.fromarray(np.hstack(random_sprites(2)))
    formats = ("PPM", "TIFF", "PCX", "ICNS", "JPEG2000", "SGI", "PDF", "EPS", "DDS")
    name = formats[rng.integers(len(formats))]
    content = EPS
    if name != "EPS":
        with contextlib.suppress(OSError):  # a build of Pillow may lack one
            content = saved(picture.save, name)
    suffix = ("png", "gif", "jpg", "eps")[rng.integers(4)]
    files = {f"a.{suffix}": content}
    return Case(files, f"a.{suffix}", "tiles", expected="refused")


KINDS: tuple[Callable, ...] = (
    npy,
    npz,
    sprites,
    sprites_without_sums,
    state_dict,
    resume_file,
    png,
    other_pictures,
    folder_of_pictures,
    digits,
    odd_header,
    odd_archive,
    odd_labels,
    hostile_weights,
    changed_archive,
    odd_pickle,
    lying_pickle,
    odd_tensors,
    wrapped_weights,
    picture_bomb,
    foreign_picture,
)


def generate(seed: int, number: int) -> tuple[str, Case]:
    """Input `number`: its kind, and the case. The kinds take turns."""
    kind = KINDS[number % len(KINDS)]
    return kind.__name__, kind(np.random.default_rng((seed, number)))


# ---- The worker ----------------------------------------------------------------------
# What follows runs in a process of its own. An AssertionError is a failure.


def load_array(path: Path):
    import diffusion_utilities as du

    array = du.load_array(path)
    assert np.isfinite(array).all()
    assert np.array_equal(array, np.load(path)), "not what NumPy reads"
    return array


def load_archive(path: Path):
    import diffusion_utilities as du

    array = du.load_array(path, "images")
    assert np.isfinite(array).all()
    with np.load(path) as stored:
        assert np.array_equal(array, stored["images"]), "not what NumPy reads"
    return array


def load_dataset(path: Path):
    import diffusion_utilities as du

    dataset = du.CustomDataset(path / "s.npy", path / "l.npy", None)
    raw = np.load(path / "l.npy").astype(np.float32)
    labels = np.stack([label.numpy() for _, label in dataset])
    assert np.array_equal(labels, raw), "other labels than in the file"
    return labels


def load_sprites(path: Path):
    import diffusion_utilities as du

    train = du.load_sprites("train", path)
    check_pictures(train.images)
    assert train.labels.shape == (len(train), 5)
    assert ((train.labels >= 0) & (train.labels <= 1)).all()
    assert len(train.factors) == len(train)
    return train.images, train.labels, train.factors


def check_pictures(array: np.ndarray) -> None:
    assert array.dtype == np.uint8
    assert array.ndim == 4
    assert array.shape[3] == 3


def load_state(path: Path):
    import diffusion_utilities as du

    return du.load_state(path)


def load_checkpoint(path: Path):
    import diffusion_utilities as du

    return du.load_checkpoint(path)


def load_weights(path: Path):
    """The state of a network that has loaded the file; unchanged where it has not."""
    import torch

    import diffusion_utilities as du

    network = small_network()
    before = digest(network.state_dict())
    with torch.no_grad():
        network[0].weight.mul_(2)
    doubled = digest(network.state_dict())
    assert doubled != before
    try:
        du.load_weights(network, path)
    except Exception:
        assert digest(network.state_dict()) == doubled, "half loaded"
        raise
    return network.state_dict()


def load_picture(path: Path):
    import diffusion_utilities as du

    picture = du.load_picture(path)
    if picture.mode.startswith("I"):
        return np.asarray(picture)
    return np.asarray(picture.convert("RGBA"))


def load_tiles(path: Path):
    import diffusion_utilities as du

    tiles = du.load_sprite_pictures(path)
    check_pictures(tiles)
    return tiles


def load_folder(path: Path):
    """The pictures of a folder. One that is left out has to be named in a line."""
    import diffusion_utilities as du

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tiles = du.load_sprite_pictures(path)
    check_pictures(tiles)
    if len(tiles) == 1:
        assert np.array_equal(tiles, random_sprites(2)[1:])
        raise ValueError(printed.getvalue())
    return tiles


def load_digits(path: Path):
    import diffusion_utilities as du

    images, labels = du.load_digits("mnist", path)
    assert images.shape[1:] == (1, 28, 28)
    assert 0 <= images.min() <= images.max() <= 1
    assert 0 <= labels.min() <= labels.max() <= 9
    assert len(labels) < 1000, "the 5,000 that ship, though there was a set"
    return images, labels


LOADERS = {
    "array": load_array,
    "archive": load_archive,
    "dataset": load_dataset,
    "sprites": load_sprites,
    "state": load_state,
    "checkpoint": load_checkpoint,
    "weights": load_weights,
    "picture": load_picture,
    "tiles": load_tiles,
    "folder": load_folder,
    "digits": load_digits,
}


def digest(value, depth: int = 0) -> str:
    """The same text for the same content: nested, of arrays, tensors and numbers.

    Below the twentieth level, which a list in itself has, nothing is said.
    """
    import torch

    if depth > 20:
        return "..."
    if isinstance(value, torch.Tensor):
        content = value.detach().contiguous().flatten().view(torch.uint8).numpy()
        return f"{value.dtype} {tuple(value.shape)} {digest(content)}"
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(value.tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {content}"
    if isinstance(value, dict):
        parts = [f"{key!r}: {digest(part, depth + 1)}" for key, part in value.items()]
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(digest(part, depth + 1) for part in value)}]"
    return repr(value)


@dataclass
class Watch:
    """An audit hook that notes whatever a loader must not do."""

    seen: list[str] = field(default_factory=list)
    is_on: bool = False

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.is_on:
            return
        runs_code = event.startswith(("os.system", "os.exec", "os.spawn", "os.posix"))
        if runs_code or event in ("subprocess.Popen", "socket.connect"):
            self.seen.append(event)
        if event == "open" and set(str(arguments[1])) & set("wax+"):
            self.seen.append(f"open {arguments[0]} for writing")


def limit_memory() -> None:
    """Let this process take 1 GB more than it has, where the system can do that."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    import resource

    pages = int(status.read_text().split()[0])
    most = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def set_up_worker() -> Watch:
    """Import everything, then watch and limit this process."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT))
    stand_in = Path(tempfile.mkdtemp()) / "gs"  # which an EPS picture would start
    stand_in.write_text(f"#!/bin/sh\n: > {CANARY}\n")
    stand_in.chmod(0o755)
    os.environ["PATH"] = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
    import torch
    from PIL import Image
    from torchvision import datasets  # noqa: F401  (its import takes long)

    import diffusion_utilities  # noqa: F401

    torch.set_num_threads(1)
    Image.init()
    watch = Watch()
    sys.addaudithook(watch)
    limit_memory()
    return watch


def work(connection) -> None:
    """Load what is asked for, (loader, path), until there is no more to do."""
    sys.stdout = io.StringIO()
    sys.stderr = io.StringIO()
    watch = set_up_worker()
    connection.send(("ready", ""))
    while True:
        request = connection.recv()
        if request is None:
            return
        loader, path = request
        watch.seen.clear()
        watch.is_on = True
        answer = answer_to(loader, Path(path))
        watch.is_on = False
        if watch.seen:
            answer = ("did", watch.seen[0])
        connection.send(answer)


def answer_to(loader: str, path: Path) -> tuple[str, str]:
    """("used", digest), ("refused", message) or ("raised", error)."""
    try:
        return "used", digest(LOADERS[loader](path))
    except AssertionError as error:
        return "raised", f"AssertionError: {error}"
    except (ValueError, FileNotFoundError) as error:
        return "refused", str(error)
    except BaseException as error:
        return "raised", f"{type(error).__name__}: {error}"


# ---- The judge -----------------------------------------------------------------------


class Worker:
    """A process that loads files, and is started again when it is lost."""

    def __init__(self):
        self.context = multiprocessing.get_context("spawn")
        self.start()

    def start(self) -> None:
        self.connection, other = self.context.Pipe()
        self.process = self.context.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.connection.recv()  # ready

    def load(self, loader: str, path: Path) -> tuple[str, str]:
        """The worker's answer, or ("lost", why)."""
        self.connection.send((loader, str(path)))
        try:
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            why = f"no answer in {SECONDS} seconds"
        except EOFError:
            self.process.join()
            why = f"the process ended with {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self.start()
        return "lost", why

    def stop(self) -> None:
        self.connection.send(None)
        self.process.join(SECONDS)
        self.process.kill()


def write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Judge:
    """Tries inputs, and compares them with the undamaged files."""

    def __init__(self, worker: Worker):
        self.worker = worker
        self.good = {}

    def try_files(self, files, case: Case, folder: Path) -> tuple[str, str]:
        folder.mkdir()
        write(files, folder)
        return self.worker.load(case.loader, folder / case.target)

    def wanted(self, case: Case, folder: Path) -> str:
        """The digest that the undamaged files give."""
        key = (case.loader, tuple(case.original.items()))
        if key not in self.good:
            answer, content = self.try_files(case.original, case, folder)
            assert answer == "used", (case.loader, answer, content)
            self.good[key] = content
        return self.good[key]

    def outcome(self, case: Case, folder: Path) -> tuple[str, str]:
        """(one of OUTCOMES, the reason of a failure)."""
        answer, content = self.try_files(case.files, case, folder / "given")
        if os.path.exists(CANARY):
            os.remove(CANARY)
            return "failed", "it ran code"
        if answer == "refused":
            return self.of_refused(case, content, folder / "given")
        if answer != "used":
            return "failed", f"{answer}: {content}"
        if case.expected == "refused":
            return "failed", "it was used"
        if case.original is None:
            return ("same" if case.expected else "valid"), ""
        if content == self.wanted(case, folder / "undamaged"):
            return "same", ""
        if case.has_checksum:
            return "failed", "other numbers, in silence"
        return "valid", ""

    def of_refused(self, case: Case, message: str, folder: Path) -> tuple[str, str]:
        names = [Path(name).name for name in case.files]
        if not any(name in message for name in (*names, str(folder))):
            return "failed", f"an error that names no file: {message}"
        if case.expected == "used" or case.files == case.original:
            return "failed", f"a good file was refused: {message}"
        return "refused", ""


def fuzz(seed: int, numbers: range, keep: Path | None = None):
    """Try these inputs: ({kind: Counter of outcomes}, the failures, a line each)."""
    counts = defaultdict(Counter)
    failures = []
    worker = Worker()
    judge = Judge(worker)
    for number in numbers:
        kind, case = generate(seed, number)
        with tempfile.TemporaryDirectory() as name:
            outcome, why = judge.outcome(case, Path(name))
        counts[kind][outcome] += 1
        if why:
            failures.append(f"input {number} ({kind}): {why}")
        if keep is not None:
            write(case.files, keep)
    worker.stop()
    return counts, failures


def table(counts: dict[str, Counter]) -> str:
    """The outcomes of each kind, and of all."""
    lines = [f"{'kind':22}{'inputs':>8}" + "".join(f"{o:>9}" for o in OUTCOMES)]
    total = Counter()
    for kind, outcomes in counts.items():
        lines.append(row(kind, outcomes))
        total += outcomes
    lines.append(row("all", total))
    return "\n".join(lines)


def row(name: str, outcomes: Counter) -> str:
    cells = "".join(f"{outcomes[outcome]:9}" for outcome in OUTCOMES)
    return f"{name:22}{outcomes.total():8}{cells}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", type=int, help="repeat this input, and keep its files"
    )
    options = parser.parse_args()
    numbers = range(options.inputs)
    keep = None
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
        keep = Path(tempfile.mkdtemp(prefix="fuzz_"))
        print(f"its files are in {keep}")
    counts, failures = fuzz(options.seed, numbers, keep)
    print(table(counts))
    for line in failures[:50]:
        print(line[:500])
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
