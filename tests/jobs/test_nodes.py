"""Two processes that are started as on two nodes train together and leave one record."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from tests.cli import SMALL, Cli, checkpoint, finish, names, rows, shared_cache

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package"),
]

LINE = (*SMALL, "trainer.strategy=ddp", "trainer.num_nodes=2", "trainer.limit_train_batches=2", "trainer.max_epochs=1")
SEEN = """
import torch
from lightning.pytorch import Callback


class Seen(Callback):
    def on_train_end(self, trainer, learner):
        torch.save(learner.model.state_dict(), f"rank-{trainer.global_rank}.pt")
"""


def variables(start: str, node: int, port: int) -> dict[str, str]:
    """Environment variables of the process on a node, as ``srun`` and ``torchrun`` set them."""
    rank, address = str(node), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    by_start = {
        "srun": {
            "SLURM_JOB_ID": "7001",
            "SLURM_JOB_NAME": "train",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NODELIST": "node[1-2]",
            "SLURM_NNODES": "2",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": rank,
        },
        "torchrun": {
            "TORCHELASTIC_RUN_ID": "none",
            "RANK": rank,
            "LOCAL_RANK": "0",
            "GROUP_RANK": rank,
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "1",
        },
    }
    return by_start[start] | address


@pytest.mark.parametrize("start", ["srun", "torchrun"])
def test_two_nodes_train_the_same_weights_and_leave_one_record(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, start: str
) -> None:
    cli = Cli(tmp_path / "home", shared_cache(tmp_path_factory))
    (cli.home / "seen.py").write_text(SEEN)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [*LINE, "evaluation.puzzles=0", "+trainer.callbacks.seen._target_=seen.Seen"]
    nodes = [cli.start(*line, TMPDIR=str(temporary), **variables(start, node, port)) for node in range(2)]
    for node in nodes:
        finish(node).ok()
    (status,) = cli.home.glob("outputs/*/*/status.json")
    assert names(cli.home, "run.log") == [str(status.parent.relative_to(cli.home) / "run.log")]
    assert not list(temporary.glob("fragrecon-*"))
    assert [row["step"] for row in rows(status.parent)] == ["2"]
    saved, trained = checkpoint(status.parent), [torch.load(cli.home / f"rank-{rank}.pt") for rank in range(2)]
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name])
        assert torch.equal(value, saved["state_dict"][f"model.{name}"])
