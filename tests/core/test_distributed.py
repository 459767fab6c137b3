"""Training by several processes: shared batches, averaged gradients, files written once, a killed run that goes on. Two processes on this machine."""

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

import diffusion_utilities as du

pytestmark = pytest.mark.skipif(
    sys.platform == "win32",
    reason="torchrun needs a free-standing c10d store, and kill -9 a POSIX system",
)
ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = du.NoiseSchedule.linear()


def network(name):
    torch.manual_seed(3)
    if name == "ContextUnet":
        return du.ContextUnet(3, 8, 5, 16)
    return du.PaletteNet(du.load_sprites("test").images, SCHEDULE, width=16, depth=1)


def gradients(name, rank, model=None):
    """Of the loss of this process's half of a batch of ten, with its own noise."""
    sprites = du.load_sprites("test")
    model = model or network(name)
    x, c = sprites.x[:10][rank::2], sprites.c[:10][rank::2]
    loss = du.diffusion_loss(
        model, x, SCHEDULE, c=c, generator=torch.Generator().manual_seed(rank)
    )
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def meet(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )


def one_run(rank, name, folder):
    """An epoch of the program's own run; what each process has learnt goes into a file of its own."""
    sys.path.insert(0, str(ROOT / "weights"))
    import train

    meet(rank, folder)
    settings = train.Settings(
        True, network=name, n_feat=8, epochs=1, passes=1, batch=20, limit=100
    )
    run = train.Run(settings, torch.device("cpu"), folder / "out")
    run.train()
    torch.save([p.detach() for p in run.model.parameters()], folder / f"{rank}.pt")
    dist.destroy_process_group()


def one_process(rank, name, folder):
    meet(rank, folder)
    torch.save(
        gradients(name, rank, torch.nn.parallel.DistributedDataParallel(network(name))),
        folder / f"{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["ContextUnet", "PaletteNet"])
def test_both_processes_have_the_gradient_of_the_joined_batch(name, tmp_path):
    """The joined batch's loss is the mean of its halves' (for batch norm each half is a batch of its own, in both computations)."""
    mp.spawn(one_process, (name, tmp_path), nprocs=2)
    halves = [gradients(name, rank) for rank in (0, 1)]
    joined = [(one + other) / 2 for one, other in zip(halves[0][1], halves[1][1])]
    for rank in (0, 1):
        loss, theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(loss, halves[rank][0])
        for ours, right in zip(theirs, joined, strict=True):
            assert torch.allclose(
                ours, right, rtol=1e-4, atol=1e-6 * float(right.abs().max() + 1)
            )
        assert any(
            not torch.allclose(ours, alone, rtol=1e-2)
            for ours, alone in zip(theirs, halves[rank][1])
        )


@pytest.mark.parametrize("name", ["ContextUnet", "PaletteNet"])
def test_after_an_epoch_both_processes_have_the_same_weights(name, tmp_path):
    """They saw other sprites and other noise: only averaged gradients keep them together."""
    mp.spawn(one_run, (name, tmp_path), nprocs=2)
    one, other = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_are_shared_out_whole_and_evenly(program):
    train = program("train")
    whole = [
        (torch.arange(7), torch.arange(7) + 10),
        (torch.arange(1), torch.arange(1)),
    ]
    assert [x.tolist() for x, _ in train.share(iter(whole), 0, 1)] == [[*range(7)], [0]]
    parts = [list(train.share(iter(whole), rank, 3)) for rank in range(3)]
    assert [[x.tolist() for x, _ in part] for part in parts] == [
        [[0, 3]],
        [[1, 4]],
        [[2, 5]],
    ]
    assert all((c - x == 10).all() for part in parts for x, c in part)


def start(out, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "weights" / "train.py"),
               "--n-feat", "8", "--limit", "200", "--out", str(out), *options]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def test_two_processes_train_write_once_and_resume_after_a_kill(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, printed = finish(start(whole, "--only", "context", "--epochs", "2"))
    assert code == 0, printed
    assert (
        printed.count("context_model epoch 0: loss")
        == printed.count("context_model epoch 1: loss")
        == 1
    )  # the first process alone
    files = {
        f"context_model_{end}"
        for end in ("0.pth", "1.pth", "trained.pth", "history.json")
    }
    assert {file.name for file in whole.iterdir()} == {"runs", *files}
    history = json.loads((whole / "context_model_history.json").read_text())
    assert history["machines"][0].endswith(", 2 processes") and [
        len(row["losses"]) for row in history["epochs"]
    ] == [2, 2]

    killed = start(parts, "--only", "context", "--epochs", "2")
    checkpoint, waited = (
        parts / "runs" / "context_model_from_0.pt",
        time.monotonic() + 200,
    )
    while (
        not checkpoint.exists() and killed.poll() is None and time.monotonic() < waited
    ):
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert checkpoint.exists()
    code, printed = finish(start(parts, "--only", "context", "--epochs", "2"))
    assert code == 0, printed
    one, other = (
        du.load_state(folder / "context_model_trained.pth") for folder in (whole, parts)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_trains_alone_says_so(tmp_path):
    code, printed = finish(start(tmp_path, "--epochs", "1"))
    assert (
        code != 0
        and "under torchrun add --only, one of model, context, best" in printed
    )
