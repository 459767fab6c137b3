"""500 of the inputs of tests/tools/fuzz.py, and what its judge makes of bad answers."""

import io
from pathlib import Path

import numpy as np
import pytest

import diffusion_utilities as du

TOOLS = str(Path(du.__file__).parent / "tests" / "tools")


@pytest.fixture
def fuzz(monkeypatch):
    """The program as a module, which its worker can import, too."""
    monkeypatch.syspath_prepend(TOOLS)
    import fuzz

    return fuzz


@pytest.mark.slow
def test_every_generated_input_is_used_or_refused(fuzz):
    counts, failures = fuzz.fuzz(seed=0, numbers=range(500))
    assert failures == []
    assert len(counts) == len(fuzz.KINDS)
    for kind, outcomes in counts.items():
        assert outcomes.total() >= 500 // len(fuzz.KINDS), kind


def test_the_inputs_depend_on_the_seed_and_the_number_alone(fuzz):
    for number in range(len(fuzz.KINDS)):
        assert fuzz.generate(3, number) == fuzz.generate(3, number)
    _, one = fuzz.generate(3, 0)
    _, other = fuzz.generate(4, 0)
    assert one.files != other.files


class FakeWorker:
    """It answers the undamaged file with "good", all others with one answer."""

    def __init__(self, answer):
        self.answer = answer

    def load(self, loader, path):
        if path.parent.name == "undamaged":
            return "used", "good"
        return self.answer


BAD_ANSWERS = [
    ("used", "other numbers"),
    ("refused", "something is wrong"),  # with what file?
    ("raised", "KeyError: 'a'"),
    ("did", "os.system"),
    ("lost", "no answer in 5 seconds"),
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_the_judge_finds_a_fault(answer, fuzz, tmp_path):
    judge = fuzz.Judge(FakeWorker(answer))
    original = {"a.npz": b"1"}
    case = fuzz.Case({"a.npz": b"2"}, "a.npz", "archive", original, has_checksum=True)
    outcome, why = judge.outcome(case, tmp_path)
    assert outcome == "failed"
    assert why


def test_the_judge_finds_that_a_good_file_was_refused(fuzz, tmp_path):
    judge = fuzz.Judge(FakeWorker(("refused", "a.npz is damaged")))
    original = {"a.npz": b"1"}
    case = fuzz.Case(original, "a.npz", "archive", original)
    assert judge.outcome(case, tmp_path)[0] == "failed"


@pytest.mark.parametrize(
    "answer, has_checksum, outcome",
    [
        (("used", "good"), True, "same"),
        (("used", "other numbers"), False, "valid"),
        (("refused", "a.npz is damaged"), True, "refused"),
    ],
)
def test_the_judge_accepts(answer, has_checksum, outcome, fuzz, tmp_path):
    judge = fuzz.Judge(FakeWorker(answer))
    files = {"a.npz": b"2"}
    case = fuzz.Case(files, "a.npz", "archive", {"a.npz": b"1"}, has_checksum)
    assert judge.outcome(case, tmp_path) == (outcome, "")


def test_the_judge_finds_what_a_hostile_file_left_behind(fuzz, tmp_path, monkeypatch):
    trace = tmp_path / "ran"
    trace.touch()
    monkeypatch.setattr(fuzz, "CANARY", str(trace))
    judge = fuzz.Judge(FakeWorker(("refused", "w.pth is damaged")))
    case = fuzz.Case({"w.pth": b"2"}, "w.pth", "state")
    assert judge.outcome(case, tmp_path) == ("failed", "it ran code")
    assert not trace.exists()


def test_the_watch_sees_what_a_loader_must_not_do(fuzz):
    watch = fuzz.Watch()
    watch("os.system", ("ls",))
    assert watch.seen == []
    watch.is_on = True
    watch("open", ("a", "r", 0))
    watch("os.listdir", ("a",))
    assert watch.seen == []
    watch("open", ("a", "wb", 0))
    watch("subprocess.Popen", ("gs", [], None, None))
    assert watch.seen == ["open a for writing", "subprocess.Popen"]


@pytest.mark.parametrize("error", [KeyError, MemoryError, SystemExit, RecursionError])
def test_other_errors_are_no_refusal(error, fuzz, monkeypatch):
    def load(path):
        raise error

    monkeypatch.setitem(fuzz.LOADERS, "state", load)
    kind, content = fuzz.answer_to("state", Path("w.pth"))
    assert kind == "raised"
    assert error.__name__ in content


def test_half_loaded_weights_are_found(fuzz, monkeypatch, tmp_path):
    def load(network, path):
        network[0].bias.data.zero_()
        raise ValueError("w.pth is damaged")

    monkeypatch.setattr(du, "load_weights", load)
    assert fuzz.answer_to("weights", tmp_path) == (
        "raised",
        "AssertionError: half loaded",
    )


def test_an_array_that_is_not_what_numpy_reads_is_found(fuzz, monkeypatch, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3))
    assert fuzz.answer_to("array", path)[0] == "used"
    monkeypatch.setattr(du, "load_array", lambda path: np.arange(4))
    assert fuzz.answer_to("array", path)[0] == "raised"


def test_every_damage_changes_something(fuzz):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    np.save(buffer, rng.integers(0, 255, 100))
    whole = buffer.getvalue()
    for damage in set(fuzz.DAMAGES):
        changed = [damage(whole, rng) != whole for _ in range(20)]
        assert sum(changed) > 10, damage
