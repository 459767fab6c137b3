"""Training by several processes on this machine.

They average their gradients and write files once; a killed run continues.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import diffusion_utilities as du

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32",
        reason="torchrun needs a free-standing c10d store, and kill -9 a POSIX system",
    ),
]
ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {"ContextUnet": "Adam", "SpriteUnet": "Muon"}  # with their optimisers
TINY = {"channels": (8, 16, 16), "width": 16, "reader_width": 16}
SCHEDULE = du.NoiseSchedule.linear()


def network(name: str) -> torch.nn.Module:
    """A small network, always with the same weights."""
    torch.manual_seed(3)
    if name == "ContextUnet":
        return du.ContextUnet(3, 8, 5, 16)
    model = du.SpriteUnet(SCHEDULE, du.sprite_palette(), **TINY)
    torch.nn.init.normal_(model.out.weight)  # so that every layer has a gradient
    return model


def gradients(model: torch.nn.Module, rank: int):
    """(loss, its gradients) of this process's half of a batch of ten.

    Each process has its own noise.
    """
    sprites = du.load_sprites("test")
    x = sprites.x[:10][rank::2]
    c = sprites.c[:10][rank::2]
    generator = torch.Generator().manual_seed(rank)
    loss = du.diffusion_loss(model, x, SCHEDULE, c=c, generator=generator)
    loss.backward()
    found = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            found.append(parameter.grad.clone())
    return loss.detach(), found


def meet(rank: int, folder: Path) -> None:
    """Join the other of two processes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )


def one_process(rank: int, folder: Path) -> None:
    """Writes what this process has of each network that both share.

    {network}_{rank}.pt holds the loss and the gradients of a batch, and then the
    weights after an epoch of the program's own run.
    """
    sys.path.insert(0, str(ROOT / "weights"))
    import train

    meet(rank, folder)
    du.SpriteUnet = functools.partial(du.SpriteUnet, **TINY)
    for name, optimiser in NETWORKS.items():
        # a row does not use the layers that read captions
        shared = DistributedDataParallel(network(name), find_unused_parameters=True)
        loss, slopes = gradients(shared, rank)
        settings = train.Settings(
            True,
            network=name,
            optimiser=optimiser,
            n_feat=8,
            epochs=1,
            passes=4,
            batch=20,
            limit=60,
        )
        run = train.Run(settings, torch.device("cpu"), folder / "out")
        run.train()
        learnt = [parameter.detach() for parameter in run.model.parameters()]
        found = {"loss": loss, "gradients": slopes, "weights": learnt}
        torch.save(found, folder / f"{name}_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[dict]]:
    """{network: what each of two processes has written}."""
    folder = tmp_path_factory.mktemp("both")
    mp.spawn(one_process, (folder,), nprocs=2)
    return {name: [load(folder, name, rank) for rank in (0, 1)] for name in NETWORKS}


def load(folder: Path, name: str, rank: int) -> dict:
    return torch.load(folder / f"{name}_{rank}.pt", weights_only=True)


# ---- Gradients and weights ----------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_both_processes_have_the_gradient_of_the_joined_batch(name, found):
    """The joined batch's loss is the mean of its halves' losses.

    For batch norm each half is a batch of its own, in both computations.
    """
    halves = [gradients(network(name), rank) for rank in (0, 1)]
    joined = []
    for one, other in zip(halves[0][1], halves[1][1]):
        joined.append((one + other) / 2)
    for rank in (0, 1):
        own_loss, own_gradients = halves[rank]
        assert torch.allclose(found[name][rank]["loss"], own_loss)
        shared = found[name][rank]["gradients"]
        for gradient, right in zip(shared, joined, strict=True):
            atol = 1e-6 * float(right.abs().max() + 1)
            assert torch.allclose(gradient, right, rtol=1e-4, atol=atol)
        pairs = zip(shared, own_gradients)
        assert any(not torch.allclose(a, b, rtol=1e-2) for a, b in pairs)


@pytest.mark.parametrize("name", NETWORKS)
def test_after_an_epoch_both_processes_have_the_same_weights(name, found):
    """They saw other sprites and other noise: averaged gradients keep them together."""
    one, other = found[name]
    for a, b in zip(one["weights"], other["weights"], strict=True):
        assert torch.equal(a, b)


# ---- torchrun -----------------------------------------------------------------------


def start(out: Path, *options: str) -> subprocess.Popen:
    """`torchrun --nproc_per_node=2 weights/train.py` with small numbers."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = ["--nproc_per_node=2", str(ROOT / "weights" / "train.py")]
    small = ["--n-feat", "8", "--limit", "120", "--out", str(out)]
    return subprocess.Popen(
        [*torchrun, *program, *small, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def start_context(out: Path) -> subprocess.Popen:
    """Two epochs of the run with labels."""
    return start(out, "--only", "context", "--epochs", "2")


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """(exit status, what it printed)."""
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def kill_after_an_epoch(process: subprocess.Popen, checkpoint: Path) -> None:
    """Kill a run and all its processes as soon as its first checkpoint is there."""
    last = time.monotonic() + 200
    while not checkpoint.exists() and process.poll() is None:
        if time.monotonic() > last:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert checkpoint.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    """(the folder of a run by two processes, what it printed)."""
    out = tmp_path_factory.mktemp("whole") / "out"
    code, printed = finish(start_context(out))
    assert code == 0, printed
    return out, printed


def test_the_first_process_alone_writes_and_prints(whole):
    out, printed = whole
    for epoch in (0, 1):
        assert printed.count(f"context_model epoch {epoch}: loss") == 1
    names = {file.name for file in out.iterdir()}
    assert names == {
        "runs",
        "context_model_0.pth",
        "context_model_1.pth",
        "context_model_trained.pth",
        "context_model_history.json",
    }


def test_the_history_of_two_processes_says_so(whole):
    out, _ = whole
    history = json.loads((out / "context_model_history.json").read_text())
    assert history["machines"][0].endswith(", 2 processes")
    assert [len(row["losses"]) for row in history["epochs"]] == [2, 2]


def test_two_processes_resume_after_a_kill(whole, tmp_path):
    killed = start_context(tmp_path)
    kill_after_an_epoch(killed, tmp_path / "runs" / "context_model_from_0.pt")
    code, printed = finish(start_context(tmp_path))
    assert code == 0, printed
    out, _ = whole
    one = du.load_state(out / "context_model_trained.pth")
    other = du.load_state(tmp_path / "context_model_trained.pth")
    for name in one:
        assert torch.equal(one[name], other[name])
