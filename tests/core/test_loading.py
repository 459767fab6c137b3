"""What becomes of files that are damaged, foreign, hostile, or fit only nearly.

`test_attack_N` and `test_input_N` are about row N of the two lists of failures that the
course was tried with (issue 20). A file is either used, as the undamaged one would be,
or refused with a ValueError or FileNotFoundError that names it.
"""

import io
import pickle
import shutil
import struct
import subprocess
import sys
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import EpsImagePlugin, Image
from torch.nn.parallel import DataParallel, DistributedDataParallel

import diffusion_utilities as du

ROOT = Path(du.__file__).parent
SPRITES = np.zeros((6, 16, 16, 3), dtype=np.uint8)
LABELS = np.eye(5, dtype=np.uint8)[[0, 1, 2, 3, 4, 0]]


class Wide(torch.nn.Module):
    """A network with a number of each sort: weights, statistics, a counter, a mask."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        )
        self.register_buffer("mask", torch.tensor([True, False]))


def refused(load, path, *words) -> str:
    """The message with which `load(path)` refuses; it names the file and has the words.

    Nothing in what Python prints advises to load the file unsafely.
    """
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(path)
    error = caught.value
    said = str(error)
    assert Path(path).name in said
    for word in words:
        assert str(word) in said
    printed = "".join(traceback.format_exception(error))
    last_part = printed.split("direct cause of the following exception")[-1]
    assert "weights_only" not in said
    assert "allow_pickle" not in said
    assert "do those steps only if you trust" not in last_part
    return said


def as_bytes(save, *arguments, **options) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def copy_of(state: dict) -> dict:
    return {name: value.clone() for name, value in state.items()}


def same(one: dict, other: dict) -> bool:
    if one.keys() != other.keys():
        return False
    return all(torch.equal(one[name], other[name]) for name in one)


# ---- Weights: damaged ----------------------------------------------------------------


@pytest.fixture(scope="module")
def weights() -> bytes:
    """The content of a file of weights."""
    torch.manual_seed(3)
    state = Wide().state_dict()
    return as_bytes(lambda file: torch.save(state, file))


def checkpoint() -> dict:
    """What a training writes in order to resume."""
    torch.manual_seed(4)
    model = Wide()
    optimiser = torch.optim.Adam(model.parameters())
    model.body(torch.randn(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    return {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": {"epochs": [{"loss": 0.5}], "settings": {"name": "x", "add": None}},
    }


def test_attack_1_a_byte_flipped_in_a_tensor(weights, tmp_path):
    """torch does not check the archive's checksum; zipfile does."""
    path = tmp_path / "w.pth"
    path.write_bytes(weights)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(weights)
    content[weights.index(archive_data(path, largest.filename)) + 40] ^= 16
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == largest.filename
    torch.load(path, weights_only=True)  # torch alone sees nothing
    refused(du.load_state, path, "damaged", "checksum", "copy it again")


def archive_data(path, name) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


@pytest.mark.parametrize("load", [du.load_state, du.load_checkpoint])
def test_attack_1_a_byte_flipped_anywhere(load, weights, tmp_path):
    """Where it is loaded all the same (the byte was padding), nothing has changed."""
    path = tmp_path / "w.pth"
    path.write_bytes(weights)
    whole = load(path)
    rng = np.random.default_rng(0)
    refusals = 0
    for place in rng.integers(0, len(weights), 200):
        content = bytearray(weights)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            assert same(load(path), whole)
        except ValueError as error:
            assert str(path) in str(error)
            refusals += 1
    assert refusals > 50


def test_attack_1_a_part_that_is_marked_as_a_folder(weights, tmp_path):
    """torch then reads nothing of it, and the checksums are right."""
    path = tmp_path / "w.pth"
    content = bytearray(weights)
    last = weights.rindex(b"PK\x01\x02")
    content[last + 38] ^= 0x10
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    for load in (du.load_state, du.load_checkpoint):
        refused(load, path, "damaged", "marked as a folder")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("load", [du.load_state, du.load_checkpoint])
def test_attack_1_numbers_that_are_not_finite(load, value, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(3), "b": torch.tensor([0, value])}, path)
    refused(load, path, "b holds numbers that are not finite")


def test_attack_1_a_checkpoint_is_checked_in_all_its_parts(tmp_path):
    path = tmp_path / "resume.pth"
    content = checkpoint()
    torch.save(content, path)
    loaded = du.load_checkpoint(path)
    assert loaded["history"] == content["history"]
    assert same(loaded["model"], content["model"])
    average = content["optimiser"]["state"][0]["exp_avg"]
    assert torch.equal(loaded["optimiser"]["state"][0]["exp_avg"], average)
    average[0] = float("nan")
    torch.save(content, path)
    refused(du.load_checkpoint, path, "optimiser holds numbers that are not finite")


def test_attack_4_files_that_are_no_zip_archives(tmp_path):
    """The format of torch before 1.6, in which CVE-2025-32434 ran code."""
    path = tmp_path / "w.pth"
    state = Wide().state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    for load in (du.load_state, du.load_checkpoint):
        refused(load, path, "not a zip archive", "copy it again")


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def hostile(tmp_path) -> dict[str, bytes]:
    """Files that would run code, or ask for more memory than there is."""
    trace = Bomb(tmp_path / "ran")
    return {
        "a bomb": as_bytes(lambda file: torch.save({"a": trace}, file)),
        "a bomb of old": as_bytes(
            lambda file: torch.save(
                {"a": trace}, file, _use_new_zipfile_serialization=False
            )
        ),
        "a bare pickle": pickle.dumps(trace, protocol=2),
        "a large view": as_bytes(
            lambda file: torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, file)
        ),
        "a set": as_bytes(lambda file: torch.save({"a": {1, 2}}, file)),
        "no archive": b"PK\x03\x04" + bytes(60),
        "zeros": bytes(1000),
        "nothing": b"",
        "text": b"my weights",
        "an archive of other things": zipped({"hello.txt": b"hello"}),
        "an archive with a foreign pickle": zipped(
            {"a/data.pkl": pickle.dumps(trace), "a/version": b"3\n"}
        ),
    }


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_attack_6_hostile_files_of_weights(tmp_path):
    """None is run, none is used, and none brings torch's advice to load it anyway."""
    path = tmp_path / "w.pth"
    for name, content in hostile(tmp_path).items():
        path.write_bytes(content)
        for load in (du.load_state, du.load_checkpoint):
            assert refused(load, path), name
    assert not (tmp_path / "ran").exists()


def test_attack_6_a_list_in_itself_is_no_endless_loop(tmp_path):
    """Nor is one that holds another ten times, which holds another ten times, ..."""
    path = tmp_path / "w.pth"
    loop = []
    loop.append(loop)
    many = [1]
    for _ in range(40):
        many = [many] * 10
    torch.save({"loop": loop, "many": many, "a": torch.tensor([float("nan")])}, path)
    refused(du.load_checkpoint, path, "not finite")


@pytest.mark.parametrize("claimed", [3, 5, 1000, 50_000_000])
def test_attack_6_a_tensor_larger_than_its_data(claimed, tmp_path):
    """torch 2.6 reads on, and crashes or makes weights of whatever it finds."""
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(4)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in members if name.endswith("data.pkl")]
    four = b"K\x04"
    members[name] = members[name].replace(four, b"J" + struct.pack("<i", claimed))
    path.write_bytes(zipped(members))
    refused(du.load_state, path, "damaged")


@pytest.mark.parametrize("content", [[1], "text", torch.ones(2)])
def test_attack_6_a_checkpoint_that_is_no_dictionary(content, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    refused(du.load_checkpoint, path, "expected a dictionary")


def limit(monkeypatch, size):
    monkeypatch.setattr(du, "MAX_BYTES", size)


def test_attack_5_a_limit_of_bytes(tmp_path, monkeypatch, weights):
    """The limit is compared with the file, and with what it holds unpacked."""
    plain = tmp_path / "w.pth"
    plain.write_bytes(weights)
    packed = tmp_path / "packed.pth"
    packed.write_bytes(zipped({"a/data.pkl": bytes(100_000)}))
    array = tmp_path / "a.npy"
    np.save(array, np.zeros(10_000))
    picture = tmp_path / "a.bmp"
    Image.new("RGB", (64, 64)).save(picture)
    limit(monkeypatch, 1000)
    for load, path in [
        (du.load_state, plain),
        (du.load_checkpoint, packed),
        (du.load_array, array),
        (du.load_picture, picture),
    ]:
        refused(load, path, "at most 1,000", "MAX_BYTES")


# ---- Weights: of another network -----------------------------------------------------

ODD = {
    "sparse": lambda w: w.to_sparse(),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "without values": lambda w: w.to("meta"),
    "complex": lambda w: w * 1j,
    "whole numbers": lambda w: w.byte(),
    "eight bits": lambda w: w.to(torch.float8_e4m3fn),
    "too large": lambda w: torch.full_like(w, 1e300, dtype=torch.float64),
    "another shape": lambda w: w[:, :2],
}


@pytest.mark.parametrize("kind", ODD)
def test_attack_9_odd_tensors_are_refused_before_anything_is_loaded(kind, tmp_path):
    path = tmp_path / "w.pth"
    state = Wide().state_dict()
    state["body.0.weight"] = ODD[kind](state["body.0.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are deprecated
        torch.save(state, path)
    model = Wide()
    before = copy_of(model.state_dict())
    refused(lambda path: du.load_weights(model, path), path)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("name", ["mask", "body.1.num_batches_tracked"])
def test_attack_9_whole_numbers_where_there_are_others(name, tmp_path):
    path = tmp_path / "w.pth"
    state = Wide().state_dict()
    state[name] = state[name].float()
    torch.save(state, path)
    words = ("1 entries", name, "of another type")
    refused(lambda path: du.load_weights(Wide(), path), path, *words)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_any_width_is_loaded(dtype, tmp_path):
    path = tmp_path / "w.pth"
    model = Wide().to(dtype)
    torch.save(model.state_dict(), path)
    loaded = du.load_weights(Wide(), path).state_dict()
    for name, value in model.float().state_dict().items():
        assert torch.equal(loaded[name], value)


def test_nothing_is_written_of_weights_that_could_not_be_loaded(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(ValueError, match="a holds numbers that are not finite.*w.pth"):
        du.save_weights({"a": torch.tensor([float("nan")])}, path)
    with pytest.raises(ValueError, match="half=False writes numbers over 65504"):
        du.save_weights({"a": torch.tensor([1e6])}, path)
    assert list(tmp_path.iterdir()) == []
    du.save_weights({"a": torch.tensor([1e6])}, path, half=False)
    assert du.load_state(path)["a"] == 1e6


def test_weights_and_path_in_the_wrong_order(tmp_path):
    path = tmp_path / "w.pth"
    for function in (du.save_weights, du.load_weights):
        with pytest.raises(ValueError, match="expected a network, then a path.*w.pth"):
            function(path, Wide())
    with pytest.raises(ValueError, match="model is a OrderedDict.*state dict of"):
        du.save_weights({"model": Wide().state_dict()}, path)
    assert list(tmp_path.iterdir()) == []


# ---- Weights: of wrapped models ------------------------------------------------------


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone, as DistributedDataParallel wants it."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")  # no C++ compiler is needed


def compiled_inside(model):
    model.body = compiled(model.body)
    return model


def averaged_and_compiled(model):
    return du.average_weights(compiled(model))


WRAPPERS = [
    compiled,
    compiled_inside,
    du.average_weights,
    averaged_and_compiled,
    DataParallel,
    DistributedDataParallel,
]
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda w: w.__name__)


@every_wrapper
def test_input_10_a_wrapped_model_is_saved_as_the_network_alone(
    wrap, one_process, tmp_path
):
    model = Wide()
    state = copy_of(model.state_dict())
    du.save_weights(wrap(model), tmp_path / "w.pth", half=False)
    assert same(torch.load(tmp_path / "w.pth", weights_only=True), state)


@every_wrapper
def test_input_10_a_wrapped_model_s_own_state_dict_is_loaded(
    wrap, one_process, tmp_path
):
    model = Wide()
    state = copy_of(model.state_dict())
    wrapped = wrap(model)
    assert wrapped.state_dict().keys() != state.keys()
    torch.save(wrapped.state_dict(), tmp_path / "w.pth")
    loaded = du.load_weights(Wide(), tmp_path / "w.pth")
    assert same(loaded.state_dict(), state)


@every_wrapper
def test_input_10_weights_are_loaded_into_a_wrapped_model(wrap, one_process, tmp_path):
    model = Wide()
    du.save_weights(model, tmp_path / "w.pth", half=False)
    wrapped = wrap(Wide())
    assert du.load_weights(wrapped, tmp_path / "w.pth") is wrapped
    loaded = wrapped.state_dict()
    loaded.pop("n_averaged", None)
    for own, value in zip(model.state_dict().values(), loaded.values(), strict=True):
        assert torch.equal(own, value)


def test_input_10_a_network_whose_own_part_is_called_module(tmp_path):
    """Its names are its own, whether or not they look like a wrapper's."""
    model = torch.nn.Module()
    model.module = torch.nn.Linear(2, 2)
    du.save_weights(model, tmp_path / "w.pth", half=False)
    state = du.load_state(tmp_path / "w.pth")
    assert set(state) == {"module.weight", "module.bias"}
    assert same(state, model.state_dict())
    du.load_weights(model, tmp_path / "w.pth")


def test_input_10_two_names_that_would_become_one_are_no_prefix(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, path)
    network = torch.nn.Module()
    network.a = torch.nn.Parameter(torch.full((1,), 7.0))
    words = ("surplus", "module.a")
    refused(lambda path: du.load_weights(network, path), path, *words)
    assert network.a == 7


def test_input_11_a_whole_model_in_a_file(tmp_path):
    path = tmp_path / "w.pth"
    model = du.BasicUNet()
    torch.save(model, path)
    words = ("holds a whole model", "save model.state_dict()")
    refused(lambda path: du.load_weights(model, path), path, *words)


def test_input_11_a_whole_model_of_one_s_own(tmp_path):
    path = tmp_path / "w.pth"

    torch.save(OfOnesOwn(), path)
    words = ("whole model", "OfOnesOwn", "model.state_dict()")
    refused(du.load_state, path, *words)


class OfOnesOwn(torch.nn.Module):
    """A network that has no layer of torch's."""


# ---- Arrays --------------------------------------------------------------------------


def header(text: str, data: bytes = b"") -> bytes:
    """A .npy file with this text as its header."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


def of_shape(shape: str, data: bytes = b"") -> bytes:
    return header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}", data)


BROKEN = {
    "a header without its brace": of_shape("(6,)")[:-2] + b"\n",
    "a header that is no dictionary": header("[1, 2]"),
    "a header of calls": header("__import__('os').system('true')"),
    "brackets in brackets": of_shape("(" * 400 + ")" * 400),
    "a long sum": of_shape("+".join("1" * 4000)),
    "zeros after PK": b"PK\x03\x04" + bytes(60),
    "a shape that no memory holds": of_shape(f"({10**13},)"),
    "a shape that no number holds": of_shape(f"({10**30},)"),
    "a negative shape": of_shape("(-6,)"),
    "nothing in a huge shape": of_shape(f"(0, {10**12}, {10**12})"),
    "a hundred dimensions": of_shape("(" + "1, " * 100 + ")", b"a"),
    "too few bytes": of_shape("(6,)", b"abc"),
    "too many bytes": of_shape("(2,)", b"abcdef"),
    "no bytes": b"",
    "another version": b"\x93NUMPY\x09\x00" + bytes(200),
    "text": b"hello",
    "a picture": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_attack_6_broken_arrays(kind, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(BROKEN[kind])
    refused(du.load_array, path, "damaged", "opy it again")
    refused(lambda path: du.CustomDataset(path, path, None), path)


@pytest.mark.parametrize("letters", ["U0", "S0", "V0"])
def test_attack_6_a_header_that_ends_python_itself(letters, tmp_path):
    """NumPy divides by the size of nothing: np.load(path, mmap_mode="r") is killed."""
    path = tmp_path / "a.npy"
    line = f"{{'descr': '|{letters}', 'fortran_order': False, 'shape': (-1,)}}"
    path.write_bytes(header(line, b"a"))
    refused(du.load_array, path, "expected plain numbers")


FOREIGN = {
    "text": np.array(["a", "b"]),
    "empty text": np.zeros(3, "U0"),
    "complex": np.zeros(2, complex),
    "dates": np.zeros(2, "M8[s]"),
    "records": np.zeros(2, [("a", "i4")]),
    "bytes": np.zeros(2, "V3"),
    "objects": np.array([{}], dtype=object),
    "NaN": np.array([0, np.nan]),
    "infinity": np.array([np.inf], dtype=np.float16),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_attack_6_arrays_of_anything_but_finite_numbers(kind, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, FOREIGN[kind], allow_pickle=True)
    refused(du.load_array, path)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(4, dtype=">i4"),
        np.arange(4, dtype=">f8"),
        np.zeros((0, 5)),
        np.array(3),
        np.array([True, False]),
    ],
    ids=["Fortran order", "big-endian", "big-endian floats", "empty", "scalar", "bool"],
)
def test_arrays_in_another_order_are_the_same_numbers(array, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, array)
    loaded = du.load_array(path)
    assert np.array_equal(loaded, array)
    assert loaded.flags.c_contiguous
    assert type(loaded) is np.ndarray  # no window on the file, which may then change
    torch.from_numpy(loaded)


def test_sprites_in_fortran_order_with_big_endian_labels(tmp_path):
    rng = np.random.default_rng(0)
    sprites = rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    plain = dataset(tmp_path, sprites, LABELS)
    turned = dataset(tmp_path, np.asfortranarray(sprites), LABELS.astype(">i8"))
    for one, other in zip(plain, turned, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_arrays(save, tmp_path):
    path = tmp_path / "a.npz"
    save(path, images=np.arange(3), labels=np.array(["x"]))
    assert du.load_array(path, "images").tolist() == [0, 1, 2]
    refused(lambda path: du.load_array(path, "labels"), path, "plain numbers")
    refused(lambda path: du.load_array(path, "pictures"), path, "it has images, labels")
    refused(du.load_array, path, "several arrays")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_attack_6_a_byte_flipped_anywhere_in_an_archive(save, tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 9, (20, 20))
    whole = as_bytes(save, images=images)
    path = tmp_path / "a.npz"
    refusals = 0
    for place in rng.integers(0, len(whole), 200):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            assert np.array_equal(du.load_array(path, "images"), images)
        except ValueError as error:
            assert str(path) in str(error)
            refusals += 1
    assert refusals > 50


@pytest.mark.parametrize("load", [du.load_array, du.load_state, du.load_picture])
def test_paths_that_are_no_files(load, tmp_path):
    refused(load, tmp_path, "is a folder")
    missing = tmp_path / "none.x"
    for path in (missing, missing / "a.x", Path("a\0b"), Path("a" * 3000)):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load(path)


# ---- Labels --------------------------------------------------------------------------


def dataset(folder, sprites, labels) -> du.CustomDataset:
    """A dataset of these arrays, read from two files in the folder."""
    np.save(folder / "s.npy", sprites)
    np.save(folder / "l.npy", labels)
    return du.CustomDataset(folder / "s.npy", folder / "l.npy", None)


BAD_LABELS = {  # name: (the array, words)
    "NaN": (np.full((6, 5), np.nan), "not finite"),
    "negative": (LABELS.astype(int) * -7, "from -7 to 0"),
    "class numbers": (LABELS.argmax(1), "np.eye(classes)[numbers]"),
    "class numbers in a column": (LABELS.argmax(1)[:, None], "from 0 to 4"),
    "scores": (LABELS * 3.5, "from 0 to 1"),
    "text": (LABELS.astype(str), "plain numbers"),
    "too few": (LABELS[:4], "beside 6 sprites"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_attack_7_labels_are_checked_on_loading(kind, tmp_path):
    labels, word = BAD_LABELS[kind]
    with pytest.raises(ValueError) as error:
        dataset(tmp_path, SPRITES, labels)
    assert "l.npy" in str(error.value)
    assert word in str(error.value)


@pytest.mark.parametrize("dtype", ["u1", "?", "<i8", ">i4", "f2", "f4", "f8", "u2"])
def test_attack_7_one_hot_rows_of_any_type_of_number(dtype, tmp_path):
    labels = dataset(tmp_path, SPRITES, LABELS.astype(dtype))
    rows = torch.stack([label for _, label in labels])
    assert rows.dtype == torch.int64
    assert rows.tolist() == LABELS.tolist()


def test_attack_7_soft_rows_keep_their_numbers(tmp_path):
    soft = LABELS * 0.75 + 0.05
    labels = dataset(tmp_path, SPRITES, soft)
    assert labels[2][1].dtype == torch.float32
    assert labels[2][1].tolist() == pytest.approx(soft[2])
    labels.null_context = True
    assert not labels[2][1].any()


@pytest.mark.parametrize("part", du.PARTS)
@pytest.mark.parametrize("columns", [None, 3, 6])
def test_attack_7_the_course_s_labels_have_five_columns(columns, part, sprite_files):
    path = sprite_files / "sprite_labels_16x16.npy"
    labels = np.zeros(260, dtype=int) if columns is None else np.eye(260, columns)
    np.save(path, labels)
    load = loader_of_part(part)
    refused(load, path, labels.shape, "expected (260, 5), one-hot rows")
    with_nan = np.full((260, 5), np.nan)
    np.save(path, with_nan)
    refused(load, path, "not finite")


def loader_of_part(part):
    """A function that loads the part of the folder that a path is in."""
    return lambda path: du.load_sprites(part, Path(path).parent)


def test_an_array_of_no_sprites(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, SPRITES[:0])
    refused(lambda path: du.CustomDataset(path, path, None), path, "(0, 16, 16, 3)")


# ---- The table of factors, and sums --------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("train,food", "trbin,food", 1),
        lambda text: text.replace("part,", "pbrt,", 1),
        lambda text: text.replace("food,fruit7,", "food,fruit7", 1),
        lambda text: text.replace("food,fruit7,", "food,fruit7,,", 1),
        lambda text: text.replace("fruit7", 'fruit"7\n', 1).replace(",", ',"', 8),
        lambda text: text.replace("fruit7", "fruit\udcff", 1),
        lambda text: text[: len(text) // 2],
        lambda text: "",
    ],
    ids=["part", "column", "cell", "cells", "quote", "encoding", "half", "nothing"],
)
def test_attack_6_a_damaged_table(change, sprite_files):
    path = sprite_files / "sprite_factors_16x16.csv"
    text = change(path.read_text(encoding="utf8"))
    path.write_bytes(text.encode(errors="surrogateescape"))
    load = loader_of_part("train")
    with pytest.raises(ValueError, match="sprite_factors_16x16.csv|rows of factors"):
        load(path)


@pytest.mark.parametrize(
    "name", ["sprites_16x16.npy", "sprite_labels_16x16.npy", "sprite_factors_16x16.csv"]
)
def test_attack_6_a_changed_byte_in_the_shipped_sprites(name, tmp_path):
    """These formats have no checksum, so SHA256SUMS beside them has."""
    for file in ("SHA256SUMS", *shipped()):
        shutil.copy(du.DATA / file, tmp_path / file)
    before = du.load_sprites("test", tmp_path)
    assert np.array_equal(before.images, du.load_sprites("test").images)
    content = bytearray((tmp_path / name).read_bytes())
    content[-5] ^= 1
    (tmp_path / name).write_bytes(content)
    words = ("damaged or was changed", "SHA256SUMS")
    refused(loader_of_part("test"), tmp_path / name, *words)


def shipped() -> list[str]:
    """The names in the data's SHA256SUMS."""
    lines = (du.DATA / "SHA256SUMS").read_text(encoding="utf8").splitlines()
    return [line.split()[1] for line in lines]


# ---- Pictures ------------------------------------------------------------------------


def png_bytes(width: int, height: int, rows: bytes, bits: int = 1) -> bytes:
    """A grey PNG, written chunk by chunk."""

    def chunk(name: bytes, content: bytes) -> bytes:
        sum_of_both = zlib.crc32(name + content)
        size = struct.pack(">I", len(content))
        return size + name + content + struct.pack(">I", sum_of_both)

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [4001, 9472, 13344, 40_000])
def test_attack_5_a_decompression_bomb(side, tmp_path):
    """It is refused by its header, in silence but for the error."""
    path = tmp_path / "sheet.png"
    path.write_bytes(png_bytes(side, side, b"never unpacked"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (path, tmp_path):
            load = lambda _, given=given: du.load_sprite_pictures(given)  # noqa: E731
            refused(load, path, "16,000,000 pixels")


def test_a_picture_just_below_the_limit_is_read(tmp_path):
    path = tmp_path / "sheet.png"
    rows = (b"\0" + b"\xff" * 500) * 4000
    path.write_bytes(png_bytes(4000, 4000, rows))
    assert du.load_picture(path).size == (4000, 4000)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 16 16
%%EndComments
0 0 16 16 rectfill
%%EOF
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.parametrize("suffix", [".png", ".eps"])
def test_attack_3_pillow_starts_no_ghostscript(suffix, tmp_path, monkeypatch):
    trace = tmp_path / "ran"
    stand_in = tmp_path / "bin" / "gs"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\n: > {trace}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "pictures" / f"a{suffix}"
    path.parent.mkdir()
    path.write_bytes(EPS)
    refused(du.load_sprite_pictures, path, "not a picture that Pillow can read")
    assert not trace.exists()
    with pytest.raises(OSError):
        Image.open(path).load()
    assert trace.exists()  # the stand-in works: Pillow alone starts it


def test_a_byte_flipped_anywhere_in_a_png(tmp_path):
    """A PNG has checksums, which Pillow compares only when it is asked to."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 255, (16, 16, 4), dtype=np.uint8)
    whole = as_bytes(lambda file: Image.fromarray(pixels).save(file, "PNG"))
    path = tmp_path / "a.png"
    for place in range(8, len(whole), 4):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            assert np.array_equal(np.asarray(du.load_picture(path)), pixels)
        except ValueError as error:
            assert str(path) in str(error)


SUFFIXES = ["png", "gif", "bmp", "jpg", "webp", "tga"]
WRITABLE = [(suffix, mode) for suffix in SUFFIXES for mode in ("RGB", "L", "P")]
WRITABLE.remove(("jpg", "P"))
WRITABLE.append(("jpg", "CMYK"))


@pytest.mark.parametrize("suffix, mode", WRITABLE)
def test_the_formats_that_are_read(suffix, mode, tmp_path):
    path = tmp_path / f"a.{suffix}"
    picture = Image.new("RGB", (16, 16), (200, 30, 30))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    picture.save(path)
    tiles = du.load_sprite_pictures(path)
    expected = 81 if mode == "L" else (200, 30, 30)
    assert tiles.shape == (1, 16, 16, 3)
    assert np.abs(tiles.astype(int) - expected).max() <= 3


def test_half_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for suffix in SUFFIXES:
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refused(du.load_sprite_pictures, path)


# ---- Temporary files -----------------------------------------------------------------


def test_attack_10_temporary_files_are_named_so_and_ignored_by_git(tmp_path):
    with du.written_whole(tmp_path / "model.pth") as temporary:
        temporary.write_bytes(b"1")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith("model.pth.")
        assert temporary.suffix == ".tmp"
    for folder in ("weights", "weights/results", "data"):
        place = f"{folder}/{temporary.name}"
        command = ["git", "check-ignore", "-q", place]
        ignored = subprocess.run(command, cwd=ROOT, capture_output=True)
        if ignored.returncode == 128:
            pytest.skip("not a clone of the repository")
        assert ignored.returncode == 0, place


def test_attack_10_what_killed_programs_left_is_not_listed_and_is_swept(tmp_path):
    blocks = [du.written_whole(tmp_path / "model_4.pth") for _ in range(3)]
    for block in blocks:
        temporary = block.__enter__()  # and a kill: the block does not end
        temporary.write_bytes(b"half")
        with pytest.raises(FileNotFoundError, match="in that folder: none"):
            du.load_state(tmp_path / "model_5.pth")
    (tmp_path / "model_4.pth").write_bytes(b"whole")
    (tmp_path / "notes.tmp").write_text("somebody else's")
    assert du.sweep_temporary(tmp_path) == 3
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["model_4.pth", "notes.tmp"]
    assert du.sweep_temporary(tmp_path / "nowhere") == 0


# ---- Digits --------------------------------------------------------------------------


def test_input_14_a_download_that_failed_is_said(tmp_path, capsys):
    pictures, _ = du.load_digits("mnist", tmp_path, download=True)
    said = capsys.readouterr().out
    assert len(pictures) == 5000
    assert len(said.splitlines()) == 1
    assert "the download failed" in said
    assert "offline" in said  # the reason, from tests/offline
    du.load_digits("mnist", tmp_path)
    assert "not under root=" in capsys.readouterr().out


def full_set(root, pictures: np.ndarray, labels: np.ndarray) -> Path:
    """The files of the full set, as torchvision keeps them."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        counts = struct.pack(">IIII", 0x803, *pictures.shape)
        images_file = folder / f"{part}-images-idx3-ubyte"
        images_file.write_bytes(counts + pictures.tobytes())
        count = struct.pack(">II", 0x801, len(labels))
        labels_file = folder / f"{part}-labels-idx1-ubyte"
        labels_file.write_bytes(count + labels.tobytes())
    return folder


DIGITS = np.full((12, 28, 28), 51, dtype=np.uint8)
NUMBERS = np.arange(12, dtype=np.uint8) % 10


def test_input_14_a_full_set_is_read(tmp_path, capsys):
    full_set(tmp_path, DIGITS, NUMBERS)
    pictures, labels = du.load_digits("mnist", tmp_path)
    assert (pictures == 0.2).all()
    assert labels.tolist() == NUMBERS.tolist()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, kept",
    [
        ("train-images-idx3-ubyte", 0),
        ("train-images-idx3-ubyte", 10),
        ("train-images-idx3-ubyte", 5000),
        ("train-labels-idx1-ubyte", 12),
    ],
)
def test_input_14_a_full_set_that_is_damaged(name, kept, tmp_path):
    """It is no reason to take the 5,000 in silence."""
    folder = full_set(tmp_path, DIGITS, NUMBERS)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:kept])
    for download in (False, True):
        with pytest.raises(ValueError, match="MNIST is damaged.*download=True"):
            du.load_digits("mnist", tmp_path, download=download)


def test_input_14_labels_that_are_no_digits(tmp_path):
    full_set(tmp_path, DIGITS, NUMBERS + 1)
    with pytest.raises(ValueError, match="MNIST is damaged.*0 to 9"):
        du.load_digits("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_input_14_shipped_digits_that_are_damaged(name, tmp_path, monkeypatch):
    content = bytearray((du.DATA / f"{name}_5k.npz").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / f"{name}_5k.npz"
    path.write_bytes(content)
    monkeypatch.setattr(du, "DATA", tmp_path)
    refused(lambda _: du.load_digits(name, tmp_path), path, "damaged")


# ---- The rest ------------------------------------------------------------------------


def test_attack_13_every_torch_load_is_safe():
    """So are those in notebooks and tests, which people copy."""
    for folder in ("data", "notebooks", "tests", "weights", "diffusion_utilities.py"):
        place = ROOT / folder
        files = [place] if place.is_file() else place.rglob("*")
        for file in files:
            if file.suffix not in (".py", ".ipynb"):
                continue
            text = file.read_text(encoding="utf8")
            for call in text.split("torch.load(")[1:]:
                assert "weights_only=True" in call[:200], file


# ---- Paths ---------------------------------------------------------------------------


def test_messages_do_not_depend_on_how_long_a_path_is(tmp_path):
    """As in a Mac's temporary folders, or below one that is called Downloads."""
    folder = tmp_path / "Downloads" / ("a" * 120)
    folder.mkdir(parents=True)
    picture = folder / "text.png"
    picture.write_bytes(b"a shopping list")
    with pytest.raises(ValueError, match=r"\(cannot identify image file\)"):
        du.load_picture(picture)
    with pytest.raises(ValueError, match="expected a network, then a path.*w.pth"):
        du.save_weights(folder / "w.pth", Wide())
