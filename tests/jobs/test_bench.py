"""``mode=bench``: what is timed is what trains, and what is told of it follows from the times."""

from __future__ import annotations

import copy
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from fragrecon.config import schema
from fragrecon.errors import ConfigError, RunError
from fragrecon.evaluation.timing import Timing
from fragrecon.jobs import bench
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.report.figures.bench import PARTS
from fragrecon.run import compose
from fragrecon.runs.modules import Facts, build_model
from fragrecon.training import workload
from tests.cli import Cli, job, names, one_thread, read_json, status

pytestmark = pytest.mark.timeout(180)
QUICK = ("mode=bench", "bench.seconds=0.05", "bench.warmup=1", "trainer.precision=32-true")
# Neither do the images exist, nor do fragments of 16x16 pixels fit into one.
SMALL = (*QUICK, "model=conv", "model.encoder_channels=[4,8]", "model.latent_dim=16", "data.image_size=[20,36]")


def composed(*overrides: str) -> schema.Config:
    return compose([*SMALL, *overrides])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a finished bench of two sizes, measured in this process; only to be read."""
    folder = tmp_path_factory.mktemp("bench") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "in_new_process", lambda function, *arguments: function(*arguments))
        job(folder, cache, *SMALL, "data=imagenet64", "data.root=nowhere", "bench.batch_sizes=[64,4,64]")
    return folder


def test_it_leaves_a_record_with_a_table_and_a_plot(made: Path) -> None:
    files = ["bench.json", "config.yaml", "figures", "figures/bench.png", "overrides.yaml", "status.json"]
    assert names(made) == [".lock", *files]
    assert status(made)["status"] == "done"
    with Image.open(made / "figures" / "bench.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_figures_follow_from_the_time_of_a_batch(made: Path) -> None:
    rows = read_json(made / "bench.json")["rows"]
    assert [row["batch_size"] for row in rows] == [4, 64]
    for row in rows:
        for part in PARTS:
            found = row[part]
            low, high = found["quartiles"]
            assert 0 < low <= found["seconds"] <= high
            assert found["runs"] >= 1
            assert found["images_a_second"] * found["seconds"] == pytest.approx(row["batch_size"])
            assert found["ms_an_image"] * found["images_a_second"] == pytest.approx(1000)


def test_training_takes_more_than_the_forward_pass_and_many_images_more_than_few(made: Path) -> None:
    few, many = read_json(made / "bench.json")["rows"]
    for row in (few, many):
        assert row["training"]["seconds"] > row["forward"]["seconds"]
        assert row["process_memory_bytes"] > row["training"]["memory_bytes"] > row["forward"]["memory_bytes"]
    for part in PARTS:
        assert many[part]["seconds"] > few[part]["seconds"]
        assert many[part]["memory_bytes"] > few[part]["memory_bytes"]


def test_memory_holds_what_is_known_to_be_there(made: Path) -> None:
    result = read_json(made / "bench.json")
    weights = 4 * result["model"]["parameters"]
    for row in result["rows"]:
        images = 4 * row["batch_size"] * 3 * 20 * 36
        assert row["forward"]["memory_bytes"] > weights + images + images  # those decoded, too
        assert row["training"]["memory_bytes"] > 4 * weights + images  # with gradients and both moments of Adam


def test_the_model_is_described_as_it_is(made: Path) -> None:
    result = read_json(made / "bench.json")
    model = ConvAutoencoder((3, 20, 36), 16, [4, 8])
    assert result["model"]["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert result["model"]["image_shape"] == [3, 20, 36]
    assert result["model"]["latent_dim"] == 16
    forward = result["model"]["forward_gflop_an_image"] * 1e9
    assert forward == pytest.approx(multiplications(model) * 2)
    assert 2 * forward < result["model"]["training_gflop_an_image"] * 1e9 < 3 * forward
    assert result["machine"]["threads"] == 1
    assert result["settings"]["precision"] == "32-true"
    assert result["stopped"] is None


def multiplications(model: ConvAutoencoder) -> int:
    """Of weights and pixels in a pass of one image, layer by layer."""
    total = 0

    def count(layer: nn.Module, given: tuple[torch.Tensor], found: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += layer.in_features * layer.out_features
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * found.shape[-2] * found.shape[-1]
        if isinstance(layer, nn.ConvTranspose2d):
            total += layer.weight.numel() * given[0].shape[-2] * given[0].shape[-1]

    hooks = [layer.register_forward_hook(count) for layer in model.modules()]
    with torch.no_grad():
        model.eval().decode(model.encode(torch.zeros(1, 1, 3, 20, 36)))
    for hook in hooks:
        hook.remove()
    return total


# What is timed --------------------------------------------------------------------------------------------------------


def test_images_are_whole_and_of_all_values() -> None:
    batch = workload.random_batch((3, 20, 36), 50, seed=0)
    assert batch.fragments.shape == (50, 1, 3, 20, 36)
    assert batch.fragments.dtype == torch.float32
    levels = (batch.fragments * 255).round()
    torch.testing.assert_close(levels / 255, batch.fragments)
    assert set(levels.flatten().tolist()) == set(range(256))
    assert set(batch.labels.flatten().tolist()) == set(range(workload.CLASSES))
    assert len({image.numpy().tobytes() for image in batch.fragments}) == 50


def plain_steps(config: schema.Config, batches: int) -> nn.Module:
    """The model after two steps, by torch alone."""
    model, _ = build_model(config, Facts((3, 20, 36), (1, 1), workload.CLASSES))
    images = workload.random_batch((3, 20, 36), 6, config.seed).fragments
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optimizer["lr"])
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(batches):
            decoded = model.decode(model.encode(images))  # type: ignore[operator]
            ((decoded - images) ** 2).mean().div(batches).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    return model


@pytest.mark.parametrize("batches", [1, 3])
def test_a_training_step_is_that_of_training(batches: int) -> None:
    config = composed(
        "trainer.gradient_clip_val=0.01",
        f"trainer.accumulate_grad_batches={batches}",
        "optimizer.lr=0.01",
        "optimizer.weight_decay=0",
    )
    with one_thread():
        work = workload.Workload(config, 6)
        before = copy.deepcopy(work.model.state_dict())
        for _ in range(2):
            work.step()
        expected = plain_steps(config, batches).state_dict()
    for name, weight in work.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name)
    assert any(not torch.equal(weight, before[name]) for name, weight in work.model.state_dict().items())


def measured(*overrides: str, images: int = 8) -> dict[str, Any]:
    """In this process."""
    threads = torch.get_num_threads()
    try:
        return workload.measure(composed("bench.seconds=0.01", *overrides), images, 1)
    finally:
        torch.set_num_threads(threads)


def test_what_is_timed_is_in_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, bool, bool]] = set()

    class Watched(workload.Workload):
        def __init__(self, config: schema.Config, images: int) -> None:
            super().__init__(config, images)
            encode = self.model.encode

            def watched(fragments: torch.Tensor) -> torch.Tensor:
                seen.add((self.doing, self.model.training, torch.is_grad_enabled()))
                return encode(fragments)

            monkeypatch.setattr(self.model, "encode", watched)

        def forward(self) -> None:
            self.doing = "forward"
            super().forward()

        def step(self) -> None:
            self.doing = "step"
            super().step()

    monkeypatch.setattr(workload, "Workload", Watched)
    measured()
    assert seen == {("forward", False, False), ("step", True, True)}


def test_precision_is_that_of_the_trainer() -> None:
    """By the types of what is computed: how much memory that takes depends on the kernels that a CPU has."""
    seen = {}
    for name in ("32-true", "bf16-true", "bf16-mixed"):
        work = workload.Workload(composed(f"trainer.precision={name}"), 4)
        found: list[torch.dtype] = []
        convolution = next(part for part in work.model.modules() if isinstance(part, nn.Conv2d))
        convolution.register_forward_hook(lambda part, given, output, found=found: found.append(output.dtype))
        work.step()
        seen[name] = (convolution.weight.dtype, found[0])
    assert seen == {
        "32-true": (torch.float32, torch.float32),
        "bf16-true": (torch.bfloat16, torch.bfloat16),
        "bf16-mixed": (torch.float32, torch.bfloat16),
    }


def test_the_model_is_computed_as_in_training() -> None:
    kept, again = (measured(f"compute.gradient_checkpointing={flag}", images=64) for flag in ("false", "true"))
    assert again["training"]["memory_bytes"] < 0.9 * kept["training"]["memory_bytes"]
    assert again["forward"]["memory_bytes"] == kept["forward"]["memory_bytes"]


def test_of_a_step_of_several_batches_each_has_its_share() -> None:
    found = measured("trainer.accumulate_grad_batches=7")
    assert found["training"]["runs"] % 7 == 0
    low, high = workload._per_batch(Timing(6.0, (3.0, 9.0), 5), 3).quartiles
    assert (low, high) == (1.0, 3.0)
    assert workload._per_batch(Timing(6.0, (3.0, 9.0), 5), 3).seconds == 2.0


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=vae", "model.encoder_channels=[4]"],
        ["model=linear", "data.channels=1"],
        ["model=pca"],
        ["model=supervised"],
        ["model=resnet_vae", "model.width=2", "data.image_size=[16,24]"],
        ["model=mae", "model.latent_dim=18", "trainer.gradient_clip_val=1", "trainer.gradient_clip_algorithm=value"],
        ["model=energy_transformer", "model.latent_dim=16", "model.heads=2", "model.head_width=8", "model.steps=2"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_model_of_whole_images_is_served(overrides: list[str]) -> None:
    config = compose([*QUICK, "data.image_size=[20,36]", *overrides, "bench.seconds=0.01"])
    with one_thread():
        description = workload.describe(config, 3)
        found = workload.measure(config, 3, 1)
    assert description["parameters"] > 0
    assert 0 < description["forward_gflop_an_image"] < 3 * description["training_gflop_an_image"]
    for part in PARTS:
        assert found[part]["seconds"] > 0
        assert found[part]["memory_bytes"] > 0


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=mosaic"], "Mosaic is for puzzles"),
        (["model=siamese"], "Siamese is for puzzles: it is trained by Pairs"),
        (["model=simclr"], "SimCLR is for puzzles: it is trained by Contrastive"),
        (["model=mosaic", "objective=cross_entropy", "objective.hidden=[]"], "takes all fragments"),
        (["model=conv", "data.image_size=[201,201]"], "201x201 can be halved 0 times only"),
        (
            ["model=mae", "objective.mix=4", "bench.batch_sizes=[4,6]"],
            r"\[4, 6\] should be multiples of objective.mix=4",
        ),
        (
            ["model=resnet_ae", "model.width=2", "data.image_size=[8,8]", "bench.batch_sizes=[2,1]"],
            "cannot be trained in batches of 1: .* set bench.batch_sizes higher",
        ),
        (["bench.batch_sizes=[2,0]"], r"bench\.batch_sizes"),
        (["bench.batch_sizes=[]"], r"bench\.batch_sizes"),
        (["bench.warmup=-1"], "bench.warmup=-1"),
        (["bench.seconds=0"], "bench.seconds=0"),
        (["bench.seconds=1e999"], "bench.seconds=inf"),
        (["trainer=gpu"], "trainer.accelerator=gpu"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, cache: Path, overrides: list[str], words: str) -> None:
    if overrides == ["trainer=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=words):
        job(tmp_path / "run", cache, *QUICK, *overrides)
    assert status(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "bench.json").exists()


# Processes ------------------------------------------------------------------------------------------------------------


def starved(config: schema.Config, images: int, threads: int) -> dict[str, Any]:
    """`bench.measure` in a process that may take 600 MB more than it has."""
    size = int(re.findall(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + 600 * 10**6,) * 2)
    return workload.measure(config, images, threads)


def killed(config: schema.Config, images: int, threads: int) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def crashed(config: schema.Config, images: int, threads: int) -> dict[str, Any]:
    os.write(2, b"first\na library says why\n")  # as code in C does
    os._exit(3)


def aborted(config: schema.Config, images: int, threads: int) -> dict[str, Any]:
    os.abort()


def test_where_memory_ends_the_series_does(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apart = bench.in_new_process

    def large_apart(function: Any, config: schema.Config, images: int, threads: int) -> dict[str, Any]:
        """Only the large batch in a process of its own, to save time."""
        return apart(starved, config, images, threads) if images > 2 else function(config, images, threads)

    monkeypatch.setattr(bench, "in_new_process", large_apart)
    job(tmp_path / "run", cache, *SMALL, "bench.batch_sizes=[100000,2]")
    result = read_json(tmp_path / "run" / "bench.json")
    assert [row["batch_size"] for row in result["rows"]] == [2]
    assert result["stopped"].startswith("batches of 100000 need more memory than there is: can't allocate")
    assert status(tmp_path / "run")["status"] == "done"
    assert "stopped: batches of 100000" in capsys.readouterr().out


@pytest.mark.fault("a process of mode=bench killed for its memory")
def test_where_the_first_is_killed_there_is_nothing_to_tell(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure", killed)
    with pytest.raises(ConfigError, match=r"the process of batches of 2 was killed.*; set bench.batch_sizes lower"):
        job(tmp_path / "run", cache, *SMALL, "bench.batch_sizes=[2,4]")
    assert not (tmp_path / "run" / "bench.json").exists()


@pytest.mark.parametrize(("end", "words"), [(crashed, ["3", "a library says why"]), (aborted, ["SIGABRT"])])
@pytest.mark.fault("a crash in mode=bench")
def test_a_crash_is_named_by_its_exit_code_and_last_lines(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, end: Any, words: list[str]
) -> None:
    monkeypatch.setattr(bench, "measure", end)
    with pytest.raises(RunError) as stop:
        job(tmp_path / "run", cache, *SMALL, "bench.batch_sizes=[2,4]")
    assert all(word in str(stop.value) for word in words)
    assert "memory" not in str(stop.value)
    assert status(tmp_path / "run")["error"] == str(stop.value)


def test_a_sweep_compares_ways_to_compute(cli: Cli) -> None:
    """Of which the last is refused by the process that should take it."""
    given = "trainer.precision=bf16-mixed,17-mixed"
    result = cli.run(*SMALL[:3], *SMALL[4:], "-m", given, "bench.batch_sizes=[3]", "hydra.sweep.dir=sweep")
    assert result.stdout.count("ConvAutoencoder") == 1
    assert "Automatic Mixed Precision" not in result.stderr
    assert "USDT" not in result.stderr
    assert "Traceback" not in result.stderr
    assert "1 of the 2 jobs that ran failed" in result.stderr
    found = {path.parent.name: status(path.parent) for path in (cli.home / "sweep").glob("*/status.json")}
    (done,) = (name for name in found if found[name]["status"] == "done")
    (failed,) = (name for name in found if found[name]["status"] == "failed")
    assert read_json(cli.home / "sweep" / done / "bench.json")["settings"]["precision"] == "bf16-mixed"
    assert "trainer: " in found[failed]["error"]
    assert "17-mixed" in found[failed]["error"]
    assert "Traceback" not in found[failed]["error"]
