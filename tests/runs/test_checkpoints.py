from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fragrecon import files
from fragrecon.config.schema import Config
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import RunError
from fragrecon.evaluation.setup import open_data
from fragrecon.run import compose
from fragrecon.runs.checkpoints import RESUMED, AtomicCheckpointIO, load_checkpoint
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.read import load_run
from fragrecon.runs.write import Record
from fragrecon.training.callbacks import training_callbacks
from fragrecon.training.learner import Learner
from tests.training.test_learner import quiet_trainer

FACTS = {"fragment_shape": (3, 16, 16), "grid": (4, 4), "num_classes": 10}
CONTENTS: dict[str, Any] = {
    "state_dict": {"weight": torch.arange(6.0).view(2, 3)},
    "facts": FACTS,
    **dict.fromkeys(RESUMED),
    "epoch": 3,
}
ROUNDS = 5


class Trap:
    """Runs code where it is unpickled: touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


@pytest.fixture
def io() -> AtomicCheckpointIO:
    return AtomicCheckpointIO()


def assert_holds(contents: dict[str, Any]) -> None:
    assert contents.keys() == CONTENTS.keys()
    assert torch.equal(contents["state_dict"]["weight"], torch.arange(6.0).view(2, 3))
    assert (contents["epoch"], contents["facts"]) == (3, FACTS)


def test_what_is_saved_is_loaded(io: AtomicCheckpointIO, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "last.ckpt"
    for epoch in (1, 3):
        io.save_checkpoint(CONTENTS | {"epoch": epoch}, path)
    for contents in (io.load_checkpoint(path), io.load_checkpoint(str(path)), load_checkpoint(path)):
        assert_holds(contents)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    for _ in range(2):  # one that is gone is no error
        io.remove_checkpoint(str(path))
    assert not path.exists()


@pytest.mark.parametrize("place", ["at the end", "after much"])
def test_a_failed_save_leaves_the_earlier_checkpoint_and_nothing_else(
    place: str, io: AtomicCheckpointIO, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(CONTENTS, path)
    before = path.read_bytes()
    extra = {"big": torch.zeros(2**20)} if place == "after much" else {}
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        io.save_checkpoint({**CONTENTS, **extra, "hook": lambda: None}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_save_leaves_the_earlier_checkpoint_and_nothing_else(
    io: AtomicCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(CONTENTS, path)

    def interrupted(contents: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint(CONTENTS, path)
    monkeypatch.undo()
    assert_holds(load_checkpoint(path))
    assert list(tmp_path.iterdir()) == [path]


KILLER = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from fragrecon.runs.checkpoints import AtomicCheckpointIO, load_checkpoint

    torch.set_num_threads(1)
    path, io, random, torn = Path(sys.argv[1]), AtomicCheckpointIO(), random.Random(0), 0
    rounds = 0
    facts = {"fragment_shape": (3, 16, 16), "grid": (4, 4), "num_classes": 10}
    while rounds < int(sys.argv[2]) or (not torn and rounds < 500):
        rounds += 1
        child = os.fork()
        if not child:
            number = 0
            while True:
                number += 1
                weights = {"weight": torch.full((1_000_000,), float(number))}
                io.save_checkpoint({"number": number, "state_dict": weights, "facts": facts}, path)
        while not path.exists():
            time.sleep(0.001)
        time.sleep(random.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        contents = load_checkpoint(path)
        weight = contents["state_dict"]["weight"]
        assert weight.shape == (1_000_000,)
        assert (weight == contents["number"]).all()
        torn += sum(1 for _ in path.parent.glob(".*.part"))
        for part in path.parent.glob(".*.part"):
            part.unlink()
    print(torn)
"""


@pytest.mark.slow
@pytest.mark.fault("writer of a checkpoint killed")
def test_a_checkpoint_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path / "last.ckpt"), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "no kill fell into the writing of a checkpoint, so nothing was tested"
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Interrupted(BytesIO):
    """A file in whose second write a Ctrl-C falls."""

    writes = 0

    def write(self, content: Any, /) -> int:
        self.writes += 1
        if self.writes == 2:
            raise KeyboardInterrupt
        return len(content)


@pytest.mark.fault("Ctrl-C while a checkpoint is written")
def test_a_ctrl_c_is_one_also_while_torch_writes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        torch.save(CONTENTS, Interrupted())
    with pytest.raises(KeyboardInterrupt), files.atomic_file(tmp_path / "last.ckpt"):
        torch.save(CONTENTS, Interrupted())
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("flipped bit in a checkpoint")
def test_no_flipped_bit_changes_what_is_loaded(io: AtomicCheckpointIO, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(CONTENTS, path)
    whole, refused = path.read_bytes(), 0
    weights = torch.arange(6.0).numpy().tobytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            assert_holds(load_checkpoint(path))  # a byte between the entries of the archive
        except RunError:
            refused += 1
    assert refused >= len(weights)
    path.write_bytes(whole)
    assert_holds(load_checkpoint(path))


@pytest.mark.parametrize("how", ["torch", "pickle"])
@pytest.mark.fault("checkpoint that holds code")
def test_a_checkpoint_with_code_is_refused_and_the_code_not_run(
    how: str, io: AtomicCheckpointIO, tmp_path: Path
) -> None:
    path, touched = tmp_path / "evil.ckpt", tmp_path / "touched"
    if how == "torch":
        torch.save({"state_dict": {}, "trap": Trap(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(touched), protocol=2))
    loads: list[Callable[[], Any]] = [
        lambda: load_checkpoint(path),
        lambda: io.load_checkpoint(path),
        lambda: io.load_checkpoint(path, weights_only=False),
    ]
    for load in loads:
        with pytest.raises(RunError, match=r"evil\.ckpt"):
            load()
    assert not touched.exists()


# What a training writes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return compose(
        [
            "data.reader.train_images=160",
            "data.reader.test_images=4",
            "data.image_size=[32,32]",
            "data.images_per_puzzle=3",
            "data.puzzles_per_batch=4",
            "data.batches_per_epoch=3",
            f"data.cache_dir={tmp_path_factory.mktemp('cache')}",
            "evaluation.validation_puzzles=4",
            "model=conv",
            "model.encoder_channels=[4]",
            "model.latent_dim=4",
            "scheduler=plateau",
        ]
    )


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training whose selection metric was 0.1, 0.3, 0.2 in three epochs."""
    folder = tmp_path_factory.mktemp("run")
    record = Record(folder)
    record.start(config, [])
    module = open_data(config)
    facts = Facts(config.data.fragment_shape, module.grid, 10)

    class Scripted(Learner):
        def _scores(self, batch: FragmentBatch) -> dict[str, torch.Tensor]:
            score = [0.1, 0.3, 0.2][self.current_epoch]
            return {name: torch.full((len(batch),), score) for name in super()._scores(batch)}

    learner = Scripted(config, module, *build_model(config, facts), facts)
    callbacks = training_callbacks(config, record)
    quiet_trainer(folder, callbacks, max_epochs=3).fit(learner, module)
    return folder


def test_a_training_keeps_its_best_and_its_last_checkpoint(run: Path) -> None:
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best-epoch=1-val_mean_clustering_score=0.3000.ckpt", "last.ckpt"]
    assert load_checkpoint(run / "checkpoints" / names[0])["epoch"] == 1
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 2
    assert load_run(run).checkpoint.name == names[0]


@pytest.mark.parametrize(
    ("monitor", "name"),
    [
        ("val_mean_clustering_score", "best-epoch=3-val_mean_clustering_score=0.1234.ckpt"),
        ("val/loss", "best-epoch=3-val_loss=0.1234.ckpt"),
    ],
)
def test_the_best_checkpoint_is_named_by_epoch_and_score(
    monitor: str, name: str, config: Config, tmp_path: Path
) -> None:
    own = compose([f"selection.monitor={monitor}"])
    (best,) = (c for c in training_callbacks(own, Record(tmp_path)) if isinstance(c, ModelCheckpoint))
    figures = {"epoch": torch.tensor(3), "step": torch.tensor(99), monitor: torch.tensor(0.12341)}
    assert Path(best.format_checkpoint_name(figures)).name == name


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool, torch.Tensor)


def test_checkpoints_hold_plain_containers_and_tensors_alone(run: Path) -> None:
    for path in (run / "checkpoints").glob("*.ckpt"):
        contents = torch.load(path, weights_only=True)
        for key, value in contents.items():
            assert plain(value), (path.name, key)
        assert contents["facts"] == {"fragment_shape": (3, 16, 16), "grid": (2, 2), "num_classes": 10}
    assert {"optimizer_states", "loops", "callbacks", "plateau"} <= contents.keys()


def test_every_epoch_has_its_row(run: Path, config: Config) -> None:
    rows = Record(run).epochs
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 3), (1, 6), (2, 9)]
    assert [row["val_mean_clustering_score"] for row in rows] == pytest.approx([0.1, 0.3, 0.2])
    assert all(row["train/loss"] > 0 for row in rows)
