"""``mode=export``: the folder it writes, and what can be done with it."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.numpy import load_file

from fragrecon import load_run
from fragrecon.data.readers.synthetic import Synthetic
from fragrecon.errors import ConfigError, RunError
from fragrecon.jobs.export import generated_puzzle, portable
from fragrecon.models.base import Solver
from fragrecon.models.mosaic import Mosaic
from fragrecon.report.metrics import caveat
from fragrecon.run import compose, run_folder
from fragrecon.runs.onnx import to_onnx
from tests import layouts
from tests.cli import best, fingerprint, job, metrics, names, status
from tests.jobs.reassembled import TINY
from tests.jobs.test_reassemble import photographs

__all__ = ["photographs"]  # a fixture

pytestmark = pytest.mark.timeout(300)
WITHOUT = "export.onnx=false"
FILES = ["MODEL_CARD.md", "config.yaml", "metrics.json", "model.safetensors", "status.json"]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, cache: Path, mosaic: Path) -> Path:
    """An export of that run; only to be read."""
    folder = tmp_path_factory.mktemp("export")
    job(folder / "job", cache, "mode=export", f"run={mosaic}", f"output={folder / 'out'}", WITHOUT)
    return folder / "out"


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    return shutil.copytree(export, tmp_path / "copy")


# The files -----------------------------------------------------------------------------------------------------------


def test_an_export_holds_the_best_weights_as_float16(export: Path, mosaic: Path) -> None:
    assert names(export) == FILES
    weights = torch.load(best(mosaic), weights_only=True)["state_dict"]
    expected = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    found = load_file(export / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == np.float16
        np.testing.assert_array_equal(value, expected[name].numpy().astype(np.float16))


@pytest.mark.parametrize("checkpoint", ["last", "early.ckpt"])
def test_other_weights_than_the_best_are_exported_and_the_card_says_so(
    tmp_path: Path, cache: Path, mosaic: Path, checkpoint: str
) -> None:
    run, name = shutil.copytree(mosaic, tmp_path / "run"), "last.ckpt" if checkpoint == "last" else checkpoint
    contents = torch.load(best(mosaic), weights_only=True)
    contents["state_dict"] = {key: -value for key, value in contents["state_dict"].items()}
    torch.save(contents, run / "checkpoints" / name)
    line = ["mode=export", f"run={run}", f"output={tmp_path / 'out'}", WITHOUT]
    found = job(tmp_path / "job", cache, *line, f"checkpoint={checkpoint}")
    assert found is not None
    assert found["checkpoint"] == name
    for key, value in load_file(tmp_path / "out" / "model.safetensors").items():
        np.testing.assert_array_equal(value, contents["state_dict"][f"model.{key}"].numpy().astype(np.float16))
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert f"`{best(mosaic).name}`" in card
    assert f"`{name}`" in card
    with pytest.raises(RunError, match="checkpoint=other"):
        job(tmp_path / "none", cache, *line, "checkpoint=other")


def test_the_effect_of_float16_is_measured(export: Path, mosaic: Path) -> None:
    """By the embeddings of ten generated images, once by the run and once by the export."""
    images = next(iter(Synthetic(test_images=10).blocks("test"))).images
    before, after = (load_run(folder).embed(images) for folder in (mosaic, export))
    facts = metrics(export)["export"]
    assert facts["embedding_difference"] == pytest.approx(float(np.abs(after - before).max()), rel=0.1)
    assert facts["embedding_greatest"] == pytest.approx(float(np.abs(before).max()), rel=1e-3)
    assert 0 < facts["embedding_difference"] < 1e-2 < facts["embedding_greatest"]
    assert facts["fragments"] == 160


def test_an_export_has_the_scores_and_the_hash_of_its_weights(export: Path, mosaic: Path) -> None:
    found, own = metrics(export), metrics(mosaic)
    assert {key: value for key, value in found.items() if key != "export"} == own
    digest = hashlib.sha256((export / "model.safetensors").read_bytes()).hexdigest()
    assert found["export"]["sha256"] == digest
    assert digest in (export / "MODEL_CARD.md").read_text()
    kept = {key: value for key, value in status(mosaic).items() if key in status(export)}
    assert status(export) == kept
    assert kept.keys() == {"status", "started", "finished", "machine", "commits"}


def test_an_export_of_files_names_no_path_and_takes_the_data_from_the_command(tmp_path: Path, cache: Path) -> None:
    layouts.folder(tmp_path / "images", train=60, test=10)
    for path in (tmp_path / "images" / "val").rglob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    root = f"data.root={tmp_path / 'images'}"
    given = ["data=folder", root, "model=pca", "data.images_per_puzzle=2", "data.puzzles_per_batch=4", "data.epochs=1"]
    few = ["evaluation.puzzles=3", "evaluation.validation_puzzles=1", "evaluation.train_puzzles=0"]
    job(tmp_path / "run", cache, *given, *few, "trainer=auto")
    out = tmp_path / "out"
    job(tmp_path / "job", cache, "mode=export", f"run={tmp_path / 'run'}", f"output={out}", WITHOUT)
    texts = {path.name: path.read_text() for path in out.iterdir() if path.suffix != ".safetensors"}
    assert not [name for name, text in texts.items() if str(tmp_path) in text or str(cache) in text]
    own = metrics(tmp_path / "run")
    assert own["data"]["lossy"] == 10
    assert caveat(own) in texts["MODEL_CARD.md"]
    assert "data.root=FOLDER" in texts["MODEL_CARD.md"]
    evaluate = ["mode=evaluate", f"run={out}"]
    with pytest.raises(ConfigError, match=r"data\.root"):
        job(tmp_path / "nowhere", cache, *evaluate)
    found = job(tmp_path / "evaluate", cache, *evaluate, root)
    assert found is not None
    assert found["data"] == own["data"]


def test_an_exported_config_differs_in_paths_and_the_accelerator_alone(tmp_path: Path) -> None:
    given = ("data.root=images", "data.cache_dir=cache", f"init_from={tmp_path}", "trainer=gpu", "model=pca", "seed=3")
    config = compose(list(given))
    found, plain = portable(config), compose(["model=pca", "seed=3", "trainer=gpu", "trainer.accelerator=auto"])
    assert replace(found, sweep=plain.sweep) == plain
    assert portable(compose(["init_from=mosaic"])).init_from == "mosaic"


def test_the_card_states_what_was_recorded(export: Path, mosaic: Path) -> None:
    card = (export / "MODEL_CARD.md").read_text()
    own, run = metrics(mosaic), status(mosaic)
    mean = own["scores"]["model"]["kmeans_ari"]["mean"]
    for text in (
        "Mosaic",
        "synthetic",
        *TINY,
        run["machine"],
        run["started"],
        f"{mean:.4f} ±",
        own["versions"]["torch"],
    ):
        assert text in card, text
    assert card.index("## Limits") < card.index("## Terms of the data")
    assert "mode=reassemble" in card
    assert all(known in card for known in run["commits"].values() if known)


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("data.images_per_puzzle=1", "data.fragment_size=64", "evaluation=reconstruction"),
        ("data.image_size=[12,8]", "data.fragment_size=[6,8]", "data.channels=1"),
    ],
)
def test_the_generated_puzzle_fits_the_run(given: tuple[str, ...]) -> None:
    data = compose(list(given)).data
    puzzle = generated_puzzle(data)
    channels, height, width = data.image_shape
    h, w = data.fragment_shape[1:]
    cells = (height // h) * (width // w)
    assert puzzle.shape == (1, max(2, data.images_per_puzzle) * cells, channels, h, w)
    image = next(iter(Synthetic((max(height, 16), max(width, 16)), channels, test_images=2).blocks("test"))).images[0]
    np.testing.assert_array_equal(puzzle[0, 0].numpy(), (image[:, :h, :w] / 255).astype(np.float32))


# The user's part of the card -----------------------------------------------------------------------------------------


def test_the_users_sections_are_taken_from_a_file_and_kept_by_later_exports(
    tmp_path: Path, cache: Path, mosaic: Path
) -> None:
    out, notes = tmp_path / "out", tmp_path / "notes.md"
    line = ["mode=export", f"run={mosaic}", f"output={out}", WITHOUT]
    job(tmp_path / "plain", cache, *line)
    card = (out / "MODEL_CARD.md").read_text()
    own = "## Limits\n\nNot tested on paintings.\n\n## Terms of the data\n\nNone.\n"
    notes.write_text(own)
    job(tmp_path / "given", cache, *line, f"export.notes={notes}")
    given = (out / "MODEL_CARD.md").read_text()
    assert given == card.partition("## Limits")[0] + own
    (out / "MODEL_CARD.md").write_text(given.replace("paintings", "maps"))
    job(tmp_path / "again", cache, *line)
    assert (out / "MODEL_CARD.md").read_text() == given.replace("paintings", "maps")


@pytest.mark.parametrize("text", ["", "## Limits\n\nNone.\n", "Hello\n\n## Limits\n\n## Terms of the data\n", None])
def test_notes_without_both_sections_are_refused(tmp_path: Path, cache: Path, mosaic: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "notes.md").write_text(text)
    given = [f"output={tmp_path / 'out'}", f"export.notes={tmp_path / 'notes.md'}"]
    with pytest.raises(ConfigError, match=r"export\.notes"):
        job(tmp_path / "job", cache, "mode=export", f"run={mosaic}", *given)
    assert not (tmp_path / "out").exists()


# Where it may be written ---------------------------------------------------------------------------------------------


def test_other_files_are_never_overwritten(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.yaml").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for number, output in enumerate((tmp_path / "taken", tmp_path / "file", mosaic)):
        before = fingerprint(tmp_path / "taken")
        with pytest.raises(ConfigError, match=f"output={output}"):
            job(tmp_path / f"job{number}", cache, "mode=export", f"run={mosaic}", f"output={output}", WITHOUT)
        assert fingerprint(tmp_path / "taken") == before
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_package_and_an_earlier_export_are_overwritten(
    tmp_path: Path, cache: Path, mosaic: Path, finished: Path
) -> None:
    out = tmp_path / "package"
    out.mkdir()
    (out / "__init__.py").write_text('"""Weights."""\n')
    job(tmp_path / "first", cache, "mode=export", f"run={finished}", f"output={out}", WITHOUT)
    assert load_run(out).model_name == "conv"
    (out / "model.onnx").touch()
    (out / "status.json").unlink()  # as if the second was interrupted
    with pytest.raises(RunError, match=r"status\.json"):
        load_run(out)
    job(tmp_path / "second", cache, "mode=export", f"run={mosaic}", f"output={out}", WITHOUT)
    assert load_run(out).model_name == "mosaic"
    assert names(out) == sorted([*FILES, "__init__.py"])


def test_without_an_output_the_export_is_in_the_folder_of_the_job(tmp_path: Path, cache: Path, finished: Path) -> None:
    job(tmp_path / "job", cache, "mode=export", f"run={finished}", WITHOUT)
    assert names(tmp_path / "job" / "export") == FILES
    assert load_run(tmp_path / "job" / "export").metrics["scores"] == metrics(finished)["scores"]


def test_runs_without_scores_and_exports_are_refused(tmp_path: Path, cache: Path, export: Path, mosaic: Path) -> None:
    unscored = shutil.copytree(mosaic, tmp_path / "unscored")
    (unscored / "metrics.json").unlink()
    for run, error in ((unscored, RunError), (export, ConfigError)):
        with pytest.raises(error, match=str(run)):
            job(tmp_path / f"job-{run.name}", cache, "mode=export", f"run={run}", WITHOUT)
        assert not (tmp_path / f"job-{run.name}" / "export").exists()


# Reading an export ---------------------------------------------------------------------------------------------------


def test_an_export_opens_like_a_run(export: Path, mosaic: Path) -> None:
    run = load_run(export)
    assert isinstance(run.model, Solver)
    assert (run.model.fragment_shape, run.model.grid) == ((3, 16, 16), (4, 4))
    assert not run.model.training
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    assert (run.epochs, run.overrides) == ([], [])
    found, own = run.evaluate(), load_run(mosaic).evaluate()
    assert found.keys() == own.keys()
    assert found["placing_direct"]["mean"] == pytest.approx(own["placing_direct"]["mean"], abs=0.1)


def test_every_mode_writes_its_results_elsewhere(
    tmp_path: Path, cache: Path, export: Path, mosaic: Path, photographs: Path
) -> None:
    before = fingerprint(export)
    scores = job(tmp_path / "evaluate", cache, "mode=evaluate", f"run={export}")
    assert scores is not None
    assert scores["model"]["checkpoint"] == "model.safetensors"
    own = metrics(mosaic)
    for method in set(scores["scores"]) - {"model"}:
        assert scores["scores"][method] == own["scores"][method]
    assert scores["protocol"] == own["protocol"]
    found = job(tmp_path / "reassemble", cache, "mode=reassemble", f"run={export}", f"input={photographs}")
    assert found is not None
    assert found["images"] == 2
    pixels = layouts.pictures(10)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "images" / f"{number}.png")
    job(tmp_path / "embed", cache, "mode=embed", f"run={export}", f"input={tmp_path / 'images'}")
    embeddings = np.load(tmp_path / "embed" / "embeddings.npz")["embedding"]
    assert embeddings.shape == (160, 128)
    job(tmp_path / "draw", cache, "mode=draw", f"run={export}", f"input={photographs}")
    assert (tmp_path / "draw" / "figures" / "puzzle.png").is_file()
    assert fingerprint(export) == before
    assert {status(tmp_path / mode)["status"] for mode in ("evaluate", "reassemble", "embed", "draw")} == {"done"}


def test_a_run_starts_from_the_weights_of_an_export(tmp_path: Path, cache: Path, export: Path) -> None:
    still = ["optimizer.lr=0", "optimizer.weight_decay=0", "seed=5", "trainer.limit_train_batches=2"]
    job(tmp_path / "run", cache, *TINY, f"init_from={export}", *still)
    found = load_run(tmp_path / "run").model.state_dict()
    for name, value in load_file(export / "model.safetensors").items():
        np.testing.assert_array_equal(found[name].numpy(), value.astype(np.float32))
    with pytest.raises(RunError, match="do not fit"):
        job(tmp_path / "other", cache, *TINY, "model.width=16", f"init_from={export}")


def test_what_would_write_to_an_export_is_refused(tmp_path: Path, cache: Path, copy: Path) -> None:
    before = fingerprint(copy)
    with pytest.raises(ConfigError, match="export"):
        job(tmp_path / "report", cache, "mode=report", f"run={copy}")
    with pytest.raises(RunError, match="init_from"):
        run_folder(str(copy), "new", "train", "mosaic", None)
    assert fingerprint(copy) == before


def test_damaged_weights_are_refused_wherever_they_are_used(tmp_path: Path, cache: Path, copy: Path) -> None:
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for number, given in enumerate((["mode=evaluate", f"run={copy}"], [*TINY, f"init_from={copy}"])):
        with pytest.raises(RunError, match=rf"{path}.*SHA-256"):
            job(tmp_path / str(number), cache, *given)
    with pytest.raises(RunError, match="SHA-256"):
        _ = load_run(copy).model


def test_a_strangers_config_cannot_call_other_code(tmp_path: Path, copy: Path) -> None:
    values = OmegaConf.load(copy / "config.yaml")
    values.model = {"_target_": "os.system", "command": f"touch {tmp_path / 'touched'}"}
    (copy / "config.yaml").write_text(OmegaConf.to_yaml(values))
    with pytest.raises(ConfigError, match=r"os\.system.*refused"):
        _ = load_run(copy).model
    assert not (tmp_path / "touched").exists()


# ONNX ----------------------------------------------------------------------------------------------------------------


def test_a_model_as_onnx_computes_what_the_export_does(tmp_path: Path, cache: Path, finished: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "out"
    given = [f"run={finished}", f"output={out}", "export.onnx=true"]
    facts = job(tmp_path / "job", cache, "mode=export", *given)
    assert facts is not None
    assert facts["onnx"]["difference"] < 1e-4
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    model: Any = load_run(out).model
    for shape in ((1, 32), (3, 7)):
        fragments = torch.rand(*shape, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = model.encode(fragments).numpy()
        (found,) = session.run(None, {"fragments": fragments.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("rotations", [False, True])
def test_a_solver_as_onnx_has_all_of_its_solution(rotations: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = Mosaic((3, 8, 8), (2, 2), 4, width=16, depth=1, heads=2, window=4, rotations=rotations).eval()
    content, difference = to_onnx(model, torch.rand(1, 8, 3, 8, 8))
    assert difference is not None
    assert difference < 1e-4
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for shape in ((2, 5), (1, 12)):
        fragments = torch.rand(*shape, 3, 8, 8)
        with torch.inference_mode():
            solution = vars(model.solve(fragments))
        expected = {name: tensor for name, tensor in solution.items() if tensor is not None}
        assert [output.name for output in session.get_outputs()] == list(expected)
        for found, tensor in zip(session.run(None, {"fragments": fragments.numpy()}), expected.values(), strict=True):
            np.testing.assert_allclose(found, tensor.numpy(), atol=1e-4)


def test_onnx_that_cannot_be_written_is_left_out_or_if_required_refused(
    tmp_path: Path, cache: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it was not installed
    found = job(tmp_path / "auto", cache, "mode=export", f"run={finished}")
    assert found is not None
    assert found["onnx"] is None
    assert names(tmp_path / "auto" / "export") == FILES
    with pytest.raises(ConfigError, match=r"export\.onnx=true.*onnxscript"):
        job(tmp_path / "required", cache, "mode=export", f"run={finished}", "export.onnx=true")
    assert not (tmp_path / "required" / "export").exists()
