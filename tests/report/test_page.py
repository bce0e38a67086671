"""The pages of a sweep and of a run, opened in Chromium and looked at by what it shows."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, expect
from torch import Tensor

from fragrecon import files
from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.evaluation.statistics import summary
from fragrecon.report.leaderboard import Failure, Leaderboard, Row, Spread
from fragrecon.report.page import bokeh_figure, curves, write_jigsaw_page, write_run_page, write_sweep_page
from fragrecon.report.page.viewer import gallery
from fragrecon.run import compose
from fragrecon.runs.read import Run, load_run
from fragrecon.runs.write import Record
from tests.cli import wait_until
from tests.report.browser import VARIABLE, Opened, executable, opened

Examples = dict[str, npt.NDArray[Any]]

EVIL = '</script><script>window.hit=1</script><img src=x onerror="window.hit=1">'
IMAGES, GRID, SIDE = 4, (2, 3), (16, 30)
CELLS = GRID[0] * GRID[1]
PUZZLES = 2
METRICS = ("kmeans_ari", "kmeans_nmi", "mean_clustering_score", "kmedoids_nmi")


# What the pages are made of ------------------------------------------------------------------------------------------


def pictures(seed: int = 0, channels: int = 3) -> Tensor:
    """The images of the puzzles: noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (PUZZLES, IMAGES, channels, *SIDE), generator=generator).to(torch.uint8)


def puzzles(seed: int = 0, channels: int = 3) -> FragmentBatch:
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(IMAGES * CELLS, generator=generator) for _ in range(PUZZLES)])
    ids = torch.arange(IMAGES).expand(PUZZLES, IMAGES)
    size = SIDE[0] // GRID[0], SIDE[1] // GRID[1]
    return make_batch(pictures(seed, channels), torch.zeros_like(ids), ids, orders, size)


def examples(seed: int = 0, *, wrong: int = 0, solver: bool = False, channels: int = 3) -> Examples:
    """What a model makes of `puzzles`: groups and images in an order of its own, ``wrong`` fragments among others."""
    batch = puzzles(seed, channels)
    turned = torch.tensor([2, 0, 3, 1])  # the group that an image becomes
    groups = turned[batch.source_ids]
    groups[:, :wrong] = (groups[:, :wrong] + 1) % IMAGES
    found = {
        "images": pictures(seed, channels).numpy(),
        "grid": np.array(GRID),
        "source_ids": batch.source_ids.numpy(),
        "positions": batch.positions.numpy(),
        "groups": groups.numpy(),
    }
    if solver:
        cells = batch.positions.clone()
        one, other = (int(torch.nonzero((batch.source_ids[1] == 0) & (cells[1] == cell))) for cell in (0, 1))
        cells[1, one], cells[1, other] = 1, 0  # the second puzzle has two fragments in each other's place
        found |= {"rebuilt_images": turned[batch.source_ids].numpy(), "rebuilt_cells": cells.numpy()}
        found["rebuilt_rotations"] = np.zeros_like(found["rebuilt_cells"])
    return found


composed = cache(lambda *overrides: compose(list(overrides)))
"""The config of some overrides, which takes a second to compose."""


def make_run(folder: Path, found: Examples | None, shift: float = 0.0, overrides: tuple[str, ...] = ()) -> Run:
    """A finished run."""
    record = Record(folder)
    record.start(composed(*overrides), [*overrides, "model.note=" + EVIL])
    for epoch in range(3):
        record.add_epoch({"epoch": epoch, "step": epoch, "train/loss": 3.0 - epoch, "val/loss": 4.0 - epoch})
    random = np.random.default_rng(0)
    scores = {
        method: {metric: base + 0.05 * random.random(PUZZLES + 3) for metric in METRICS}
        for method, base in (("raw_pixels", 0.1), ("model", 0.4 + shift))
    }
    record.write_metrics(
        scores,
        protocol={"puzzles": 5, "images_per_puzzle": IMAGES, "fragments_per_image": CELLS},
        data={"name": "noise"},
        model={"name": "Conv", "parameters": 7},
        seconds={"training": 12.0, "evaluation": 1.0},
    )
    if found:
        record.write_examples(found)
    record.finish()
    return load_run(folder)


DIMS = ("8", "64", "512")


def spread(mean: float) -> Spread:
    return Spread(mean, mean / 10, 2)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep of two models with three dimensions each, two seeds; one more failed, one has one seed."""
    folder = tmp_path_factory.mktemp("sweep")
    rows, runs = [], {}
    for model, dim in itertools.product(("conv", "mosaic"), DIMS):
        jobs = [f"{model},{dim},seed={seed}" for seed in ((0,) if (model, dim) == ("mosaic", "512") else (0, 1))]
        for job in jobs:
            found = examples(wrong=0 if model == "mosaic" else 5, solver=model == "mosaic")
            runs[job] = make_run(folder / job, found if dim != "8" else None)
            if dim == "64":
                write_run_page(runs[job].folder / "report.html", runs[job])
        mean = {"8": 0.2, "64": 0.4, "512": 0.3}[dim] + 0.05 * (model == "mosaic")
        many = len(jobs) > 1
        scores = {
            metric: Spread(mean * (number + 1), mean / 10 if many else None, len(jobs))
            for number, metric in enumerate(METRICS)
        }
        rows.append(
            Row(
                values={"model": model, "model.latent_dim": dim},
                jobs=jobs,
                seeds=list(range(len(jobs))),
                selection=Spread(mean, 0.01 if many else None, len(jobs)),
                scores=scores,
                difference={"mean_clustering_score": summary(np.array([-0.2, -0.1, -0.3]))},
                parameters=1000 * int(dim) + (model == "conv"),
                seconds=10.0 * int(dim),
            )
        )
    rows.sort(key=lambda row: -row.scores["kmeans_ari"].mean)
    failed = Row(
        {"model": EVIL, "model.latent_dim": "-1"}, failures=[Failure(f"job {EVIL}", f"must be positive {EVIL}")]
    )
    raw = {metric: summary(np.array([0.31, 0.33])) for metric in METRICS}
    board = Leaderboard(
        f"latent {EVIL}", ["model", "model.latent_dim"], [*rows, failed], "val_score", {"raw_pixels": raw}
    )
    write_sweep_page(folder / "report.html", board, runs)
    return folder / "report.html"


@pytest.fixture(scope="module")
def shown(browser: Browser, sweep: Path) -> Iterator[Opened]:
    """The page of the sweep, opened once; tests choose what they look at."""
    with opened(browser, sweep) as found:
        yield found


# Leaderboard ---------------------------------------------------------------------------------------------------------


def column(shown: Opened, title: str) -> list[str]:
    """Texts of a visible column, as they stand."""
    titles = shown.page.locator("table thead th:visible").all_inner_texts()
    place = [found.strip() for found in titles].index(title)
    return [row.locator("td:visible").nth(place).inner_text() for row in shown.page.locator("table tbody tr").all()]


def head(shown: Opened, title: str) -> Locator:
    exactly = re.compile(f"^{re.escape(title)}$")
    return shown.page.locator("thead th").filter(has=shown.page.locator(".dt-column-title", has_text=exactly))


def sort(shown: Opened, title: str, direction: str) -> None:
    """Click a header, which then says how its column is sorted."""
    head(shown, title).click()
    expect(head(shown, title)).to_have_attribute("aria-sort", direction)


def test_the_leaderboard_is_best_first_and_can_be_sorted_filtered_and_widened(browser: Browser, sweep: Path) -> None:
    with opened(browser, sweep) as shown:
        order = ["1", "2", "3", "4", "5", "6", "", "raw pixels"]
        assert column(shown, "rank") == order
        assert column(shown, "model") == ["mosaic", "conv"] * 3 + [EVIL, ""]
        assert column(shown, "latent_dim") == ["64", "64", "512", "512", "8", "8", "-1", ""]
        assert column(shown, "KMeans ARI")[:3] == ["0.4500 ±.0450", "0.4000 ±.0400", "0.3500"]
        assert column(shown, "KMeans ARI")[6] == ""
        assert column(shown, "mean clustering score - best")[:2] == ["best", "-0.2000 ±.2484"]
        assert column(shown, "parameters")[:2] == ["64,000", "64,001"]
        assert column(shown, "time")[0] == "0:10:40"
        assert column(shown, "seeds")[1:3] == ["0 1", "0"]
        # The filter searches parameters, baselines and errors, but not scores.
        for typed, left in {
            "mosaic": ["1", "3", "5"],
            "conv 512": ["4"],
            "raw": ["raw pixels"],
            "positive": [""],
            "0.45": ["no matching rows"],
            "": order,
        }.items():
            shown.page.get_by_placeholder("filter").fill(typed)
            assert column(shown, "rank") == left
        sort(shown, "latent_dim", "descending")
        assert column(shown, "latent_dim") == ["512", "512", "64", "64", "8", "8", "-1", ""]
        sort(shown, "latent_dim", "ascending")
        assert column(shown, "latent_dim") == ["", "-1", "8", "8", "64", "64", "512", "512"]
        sort(shown, "KMeans ARI", "descending")
        assert column(shown, "rank") == ["1", "2", "3", "raw pixels", "4", "5", "6", ""]
        shown.page.get_by_role("button", name="parameters: Activate to sort").press("Enter")
        expect(head(shown, "parameters")).to_have_attribute("aria-sort", "descending")
        assert column(shown, "parameters")[:3] == ["512,001", "512,000", "64,001"]
        assert head(shown, "KMedoids NMI").count() == 0
        shown.page.get_by_role("button", name="columns").click()
        shown.page.locator(".dt-button-collection button", has_text="KMedoids NMI").click()
        assert column(shown, "KMedoids NMI")[3] == "1.8000 ±.0450"


def test_a_failure_says_why_and_a_seed_leads_to_the_page_of_its_run(shown: Opened, sweep: Path) -> None:
    assert column(shown, "not done") == [""] * 6 + ["1", ""]
    assert shown.page.locator(".troubles li").all_inner_texts() == [f"job {EVIL} failed: must be positive {EVIL}"]
    links = shown.page.locator("table td a")
    assert links.all_inner_texts() == ["0", "1", "0", "1"]  # two configurations have pages
    target = unquote(links.nth(1).evaluate("link => link.href").removeprefix("file://"))
    assert Path(target) == sweep.parent / "mosaic,64,seed=1" / "report.html"
    assert Path(target).is_file()


# Curves --------------------------------------------------------------------------------------------------------------

CURVES = """() => {
  const part = document.querySelector(".curves");
  const shown = [...part.querySelector(".plot").children].findIndex((element) => !element.hidden);
  const figure = Bokeh.documents[shown].roots()[0];
  const number = (value) => (Array.isArray(value) ? value : Number(value));
  const legend = figure.above.find(({type}) => type === "Legend");
  return {
    scale: figure.x_scale.type,
    x: figure.below[0].axis_label,
    y: figure.left[0].axis_label,
    title: legend.title,
    lines: legend.items.filter(({visible}) => visible).map(({label, renderers}) => ({
      name: label.value,
      kinds: renderers.map(({glyph}) => glyph.type),
      ...Object.fromEntries(["x", "mean", "low", "high"].map((name) =>
        [name, Array.from(renderers[0].data_source.data[name], number)])),
    })),
  };
}"""
"""What the figure that is shown draws."""

DRAWN = "[...Bokeh.index.roots].length > 0 && [...Bokeh.index.roots].every((view) => view.has_finished())"


def draws(shown: Opened, metric: str = "", against: str = "") -> dict[str, Any]:
    """The figure that is shown, after a metric and a parameter are selected."""
    for name, text in (("metric", metric), ("against", against)):
        if text:
            shown.page.get_by_label(name, exact=True).select_option(label=text)
    wait_until(lambda: shown.evaluate(DRAWN) is True, 10)
    found: dict[str, Any] = shown.evaluate(CURVES)
    return found


def test_scores_are_drawn_against_numbers_with_a_line_a_model_and_error_bars(shown: Opened) -> None:
    found = draws(shown, "KMeans ARI", "model.latent_dim")
    assert (found["scale"], found["x"], found["y"]) == ("LogScale", "model.latent_dim", "KMeans ARI")
    assert found["title"] == "model"
    assert [line["name"] for line in found["lines"]] == ["conv", "mosaic", "raw pixels"]
    conv, mosaic, raw = found["lines"]
    assert conv["x"] == mosaic["x"] == raw["x"] == [8, 64, 512]
    assert conv["mean"] == pytest.approx([0.2, 0.4, 0.3])
    assert conv["low"] == pytest.approx([0.18, 0.36, 0.27])
    assert conv["high"] == pytest.approx([0.22, 0.44, 0.33])
    assert {"Segment", "Line", "Scatter"} <= set(conv["kinds"])
    assert [mosaic["low"][2], mosaic["high"][2]] == [mosaic["mean"][2]] * 2, "one seed has no deviation"
    note = shown.page.locator("#curves .note").inner_text()
    assert "standard deviation over seeds" in note
    assert "95% interval" not in note
    picture = Image.open(io.BytesIO(shown.page.locator(".plot").screenshot())).convert("RGB")
    drawn = {tuple(colour) for colour in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= drawn


def test_the_chosen_score_is_drawn_against_the_chosen_parameter(shown: Opened) -> None:
    draws(shown, "KMeans NMI", "model")
    expect(shown.page.locator(".plot > div")).to_have_count(2)
    wait_until(lambda: draws(shown)["y"] == "KMeans NMI", 10)
    found = draws(shown)
    assert (found["scale"], found["x"], found["y"]) == ("CategoricalScale", "model", "KMeans NMI")
    assert [line["name"] for line in found["lines"]] == ["8", "64", "512", "raw pixels"]
    assert found["title"] == "model.latent_dim"
    for line, mean in zip(found["lines"], (0.2, 0.4, 0.3), strict=False):
        assert line["mean"] == pytest.approx([2 * mean, 2 * (mean + 0.05)])
        assert [name for name, _ in line["x"]] == ["conv", "mosaic"]
        assert "Line" not in line["kinds"]  # between names there is nothing
    places = [line["x"][0][1] for line in found["lines"][:3]]
    assert places == sorted(set(places))


def test_a_point_says_what_it_is_when_pointed_at(shown: Opened) -> None:
    draws(shown, "KMeans ARI", "model.latent_dim")
    shown.page.locator(".plot").scroll_into_view_if_needed()
    x, y = shown.evaluate(
        """() => {
          const view = [...Bokeh.index.roots][0];
          const box = view.el.getBoundingClientRect();
          const frame = view.frame;
          return [box.left + frame.x_scale.compute(64), box.top + frame.y_scale.compute(0.45)];
        }"""
    )
    shown.page.mouse.move(x, y)
    expect(shown.page.get_by_text("model=mosaic, model.latent_dim=64")).to_be_visible()
    expect(shown.page.get_by_text(re.compile("0.4500 ± 0.0450"))).to_be_visible()


# Puzzles -------------------------------------------------------------------------------------------------------------

FRAGMENTS = """() => [...document.querySelectorAll(".fragment")].map((node) => {
  const { x, y, width, height } = node.getBoundingClientRect();
  const { left, top } = document.querySelector(".stage").getBoundingClientRect();
  return { x: x - left, y: y - top, width, height, wrong: node.matches(".wrong"), kin: node.matches(".kin") };
})"""


def look(shown: Opened, view: str, solver: str = "mosaic, 64 · seed 1", puzzle: int = 0) -> list[dict[str, Any]]:
    """Choose, and see where fragments lie."""
    shown.page.locator(".puzzle").select_option(str(puzzle))
    options = shown.page.locator(".solver option").all_inner_texts()
    shown.page.locator(".solver").select_option(label=next(text for text in options if text.endswith(solver)))
    shown.page.get_by_text(view, exact=True).click()
    found: list[dict[str, Any]] = shown.evaluate(FRAGMENTS)
    return found


def pixels_of(shown: Opened, place: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """A fragment as it is on the screen, one pixel for each of its own."""
    shown.page.mouse.move(0, 0)
    picture = shown.page.locator(".stage").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    height, width = SIDE[0] // GRID[0], SIDE[1] // GRID[1]
    rows = (place["y"] + (np.arange(height) + 0.5) * place["height"] / height).astype(int)
    columns = (place["x"] + (np.arange(width) + 0.5) * place["width"] / width).astype(int)
    found: npt.NDArray[np.uint8] = pixels[rows][:, columns]
    return found


def fragment(batch: FragmentBatch, puzzle: int, number: int) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = batch.fragments[puzzle, number].movedim(0, -1).numpy()
    return pixels


def rows_of(places: list[dict[str, Any]]) -> list[set[int]]:
    """Fragments by line of the stage, from the top."""
    lines: dict[int, set[int]] = {}
    for number, place in enumerate(places):
        lines.setdefault(round(place["y"]), set()).add(number)
    return [lines[key] for key in sorted(lines)]


@pytest.mark.parametrize("puzzle", range(PUZZLES))
def test_shuffled_fragments_lie_in_their_order_and_look_like_themselves(shown: Opened, puzzle: int) -> None:
    places = look(shown, "shuffled", puzzle=puzzle)
    corners = [(round(place["y"]), round(place["x"])) for place in places]
    assert corners == sorted(corners)
    batch = puzzles()
    for number in (0, 5, IMAGES * CELLS - 1):
        assert np.array_equal(pixels_of(shown, places[number]), fragment(batch, puzzle, number))


def test_fragments_of_a_group_share_a_line_and_strangers_are_marked_by_letter(shown: Opened) -> None:
    places = look(shown, "grouped", "conv, 64 · seed 0")
    known = examples(wrong=5)
    sources, groups = known["source_ids"][0], known["groups"][0]
    lines = rows_of(places)
    assert sorted(map(sorted, lines)) == sorted(np.flatnonzero(groups == group).tolist() for group in range(IMAGES))
    captions = shown.page.locator(".caption").all_inner_texts()
    assert captions == ["A", "B", "C", "D"]
    strangers = set()
    for image, line in enumerate(lines):  # the line of A, of B, ...: most of it is of that image
        assert np.bincount(sources[list(line)]).argmax() == image
        strangers |= {number for number in line if sources[number] != image}
    assert strangers == set(range(5))
    assert {number for number, place in enumerate(places) if place["wrong"]} == strangers
    marks = [shown.evaluate("i => getComputedStyle(document.querySelectorAll('.fragment')[i], '::after').content", i)
             for i in range(6)]  # fmt: skip
    assert marks == [f'"{"ABCD"[source]}"' for source in sources[:5]] + ["none"]
    assert shown.page.locator(".summary").inner_text().count("19 of 24") == 1


def test_the_score_of_the_puzzle_is_that_of_the_run(shown: Opened, sweep: Path) -> None:
    look(shown, "grouped", "conv, 64 · seed 0", puzzle=1)
    score = load_run(sweep.parent / "conv,64,seed=0").scores["model/kmeans_ari"][1]
    assert shown.page.locator(".summary").inner_text().endswith(f"ARI {score:.3f}.")


@pytest.mark.parametrize("puzzle", range(PUZZLES))
def test_rebuilt_images_are_put_together_as_the_model_said(shown: Opened, puzzle: int) -> None:
    places = look(shown, "rebuilt", puzzle=puzzle)
    known = examples(solver=True)
    into, cells = known["rebuilt_images"][puzzle], known["rebuilt_cells"][puzzle]
    width, height = places[0]["width"], places[0]["height"]
    assert width / height == pytest.approx(SIDE[1] / GRID[1] / (SIDE[0] / GRID[0]), rel=1e-3)
    corners = set()
    for image in range(IMAGES):
        members = np.flatnonzero(into == image)
        left = min(places[i]["x"] for i in members)
        top = min(places[i]["y"] for i in members)
        corners.add((round(left), round(top)))
        for i in members:
            row, column = divmod(int(cells[i]), GRID[1])
            assert places[i]["x"] == pytest.approx(left + column * width, abs=0.1)
            assert places[i]["y"] == pytest.approx(top + row * height, abs=0.1)
    assert len(corners) == IMAGES
    wrong = {i for i, place in enumerate(places) if place["wrong"]}
    assert wrong == set(np.flatnonzero(cells != known["positions"][puzzle]).tolist())
    assert len(wrong) == 2 * puzzle
    assert f"{24 - len(wrong)} of 24" in shown.page.locator(".summary").inner_text()


def test_a_model_that_does_not_rebuild_shows_its_groups_instead(shown: Opened) -> None:
    look(shown, "rebuilt")
    shown.page.locator(".solver").select_option(label="2 · conv, 64 · seed 0")
    assert shown.page.locator(".stage").get_attribute("data-view") == "grouped"
    assert shown.page.locator("input[value=rebuilt]").is_disabled()
    shown.page.locator(".solver").select_option(label="1 · mosaic, 64 · seed 0")
    assert shown.page.locator(".stage").get_attribute("data-view") == "rebuilt"


def test_pointing_at_a_fragment_shows_its_true_image_and_its_cell_there(shown: Opened) -> None:
    look(shown, "grouped", "conv, 64 · seed 0")
    known = examples(wrong=5)
    sources, positions = known["source_ids"][0], known["positions"][0]
    for number in (1, 20):
        shown.page.locator(f'.fragment[data-fragment="{number}"]').hover()
        source, (row, column) = int(sources[number]), divmod(int(positions[number]), GRID[1])
        found = shown.evaluate(
            """() => {
              const [whole, cell] = [".whole", ".cell"].map((name) => document.querySelector(name));
              const [outer, inner] = [whole, cell].map((node) => node.getBoundingClientRect());
              return {
                picture: getComputedStyle(whole).backgroundImage,
                at: [(inner.y - outer.y) / inner.height, (inner.x - outer.x) / inner.width],
                share: [outer.height / inner.height, outer.width / inner.width],
              };
            }"""
        )
        encoded = re.fullmatch(r'url\("data:image/webp;base64,(.*)"\)', found["picture"])
        assert encoded
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))))
        assert np.array_equal(image, known["images"][0, source].transpose(1, 2, 0))
        assert found["at"] == pytest.approx([row, column], abs=0.05)
        assert found["share"] == pytest.approx(GRID, abs=0.05)
        words = shown.page.locator(".words").inner_text()
        assert words.startswith(f"image {'ABCD'[source]}, row {row + 1}, column {column + 1}")
        assert words.count("image") == 1 + (number < 5)
        kin = {i for i, place in enumerate(shown.evaluate(FRAGMENTS)) if place["kin"]}
        assert kin == set(np.flatnonzero(sources == source).tolist())
    shown.page.mouse.move(0, 0)
    assert not any(place["kin"] for place in shown.evaluate(FRAGMENTS))


def test_pointing_at_an_image_shows_its_fragments(shown: Opened) -> None:
    look(shown, "shuffled")
    shown.page.get_by_role("button", name="image C").hover()
    kin = {i for i, place in enumerate(shown.evaluate(FRAGMENTS)) if place["kin"]}
    assert kin == set(np.flatnonzero(puzzles().source_ids[0].numpy() == 2).tolist())
    assert shown.page.locator(".cell").is_hidden()


def test_the_viewer_is_used_by_keyboard_alone(shown: Opened) -> None:
    places = look(shown, "grouped")
    shown.page.locator("input[value=grouped]").focus()
    shown.page.keyboard.press("ArrowLeft")
    assert shown.page.locator(".stage").get_attribute("data-view") == "shuffled"
    places = shown.evaluate(FRAGMENTS)
    shown.page.keyboard.press("Tab")  # letters
    shown.page.keyboard.press("Space")
    assert shown.page.locator(".stage.lettered").count() == 1
    shown.page.keyboard.press("Tab")
    focused = "Number(document.activeElement.dataset.fragment)"
    assert shown.evaluate(focused) == 0
    for key, (right, down) in {"ArrowRight": (1, 0), "ArrowDown": (0, 1), "ArrowLeft": (-1, 0)}.items():
        before = places[shown.evaluate(focused)]
        shown.page.keyboard.press(key)
        after = places[shown.evaluate(focused)]
        assert np.sign(round(after["x"] - before["x"])) == right
        assert np.sign(round(after["y"] - before["y"])) == down
    number = shown.evaluate(focused)
    letter = "ABCD"[int(puzzles().source_ids[0, number])]
    assert shown.page.locator(".words").inner_text().startswith(f"image {letter}")
    shown.page.keyboard.press("Tab")  # out of the fragments at once, to the images
    assert shown.evaluate("document.activeElement.getAttribute('aria-label')") == "image A"


def test_nothing_moves_when_another_view_is_chosen(shown: Opened) -> None:
    heights = set()
    for view in ("shuffled", "grouped", "rebuilt"):
        places = look(shown, view)
        heights.add(shown.evaluate("document.querySelector('.stage').clientHeight"))
        assert max(place["y"] + place["height"] for place in places) <= max(heights)
    assert len(heights) == 1


def test_runs_without_puzzles_are_named_with_the_reason(shown: Opened) -> None:
    note = shown.page.locator("#puzzles details")
    assert "4 runs" in note.locator("summary").inner_text()
    note.locator("summary").click()
    assert "examples.npz" in note.inner_text()
    assert "conv, 8 · seed 1" in note.inner_text()


# The page as a whole -------------------------------------------------------------------------------------------------


def test_text_that_looks_like_code_is_shown_and_does_not_run(shown: Opened) -> None:
    shown.page.wait_for_timeout(200)
    assert shown.evaluate("window.hit") is None
    assert shown.page.locator('img[src="x"]').count() == 0
    assert shown.page.locator("h1").inner_text() == f"latent {EVIL}"


def test_the_browser_itself_would_stop_foreign_code_and_requests(browser: Browser, sweep: Path) -> None:
    with opened(browser, sweep) as found:
        assert found.evaluate("fetch('https://example.org/').then(() => 'fetched', () => 'refused')") == "refused"
        found.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", EVIL)
        found.page.wait_for_timeout(200)
        assert found.evaluate("window.hit") is None
        assert any("Content Security Policy" in said for said in found.troubles)
        assert not any(said.startswith("asks for http") for said in found.troubles)
        found.troubles.clear()


def test_it_fits_on_a_phone(browser: Browser, sweep: Path) -> None:
    with opened(browser, sweep, width=390, height=800) as found:
        draws(found)
        assert found.evaluate("document.documentElement.scrollWidth") == 390
        places = look(found, "grouped")
        assert max(place["x"] + place["width"] for place in places) <= 390
        assert min(place["width"] for place in places) >= 16


WIDER = """() => [...document.querySelectorAll("body *")].filter(shown => {
    for (let around = shown.parentElement; around; around = around.parentElement)
        if (getComputedStyle(around).overflowX !== "visible") return false;
    return shown.getBoundingClientRect().right > innerWidth + 1;
}).map(shown => shown.outerHTML.slice(0, 80))"""
"""What sticks out on the right, and cannot be scrolled to in a part of the page."""


@pytest.mark.parametrize("width", [400, 1200])
def test_pages_of_runs_and_of_jigsaws_are_not_wider_than_the_window(
    browser: Browser, sweep: Path, tmp_path: Path, width: int
) -> None:
    images = [{"grid": [100, 100], "pieces": 9999, "confidence": 0.5, "doubtful": 1234}] * 2
    scores = {"direct": 0.5, "neighbours": 0.5, "perfect": 0.5, "sedas": 0.5, "enas": 0.5}
    result = {"piece_size": [28, 28], "images": images, "pieces": [], "scores": scores}
    write_jigsaw_page(tmp_path / "report.html", result | {"scores_up_to_equal_pieces": scores}, tmp_path)
    for page in (sweep.parent / "mosaic,64,seed=1" / "report.html", tmp_path / "report.html"):
        with opened(browser, page, width=width) as found:
            found.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert found.evaluate("document.documentElement.scrollWidth") == width
            assert not found.evaluate(WIDER)


def test_each_puzzle_is_embedded_once_however_many_solved_it(sweep: Path) -> None:
    assert sweep.read_text().count("data:image/webp") == PUZZLES * IMAGES
    assert sweep.stat().st_size < 2_500_000


def test_a_sweep_of_seeds_alone_and_without_puzzles_says_what_is_missing(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "job", None)
    board = Leaderboard("seeds", [], [Row({}, ["job"], [0], scores={"kmeans_ari": Spread(0.5, None, 1)})], "", {})
    write_sweep_page(tmp_path / "report.html", board, {"job": run})
    with opened(browser, tmp_path / "report.html") as found:
        assert column(found, "KMeans ARI") == ["0.5000"]
        assert found.page.locator("#curves .plot").count() == 0
        assert "examples.npz" in found.page.locator("#puzzles").inner_text()


def test_a_sweep_whose_jobs_all_failed_has_a_page(browser: Browser, tmp_path: Path) -> None:
    rows = [Row({"x": str(x)}, failures=[Failure(f"x={x}", "too small")]) for x in range(-1, -13, -1)]
    write_sweep_page(tmp_path / "report.html", Leaderboard("broken", ["x"], rows, "", {}), {})
    with opened(browser, tmp_path / "report.html") as found:
        ordered = [str(x) for x in range(-1, -13, -1)]
        assert column(found, "x") == ordered
        sort(found, "x", "descending")
        sort(found, "x", "ascending")
        assert column(found, "x") == ordered[::-1]
        sort(found, "rank", "ascending")  # the first before the second before the tenth
        assert column(found, "x") == ordered
        assert "12 failed" in found.page.locator("header").inner_text()
        assert found.page.locator("#puzzles .viewer").count() == 0


RAW = {"raw_pixels": {"kmeans_ari": summary(np.array([0.1, 0.2]))}}
"""Baselines of a leaderboard."""


def test_settings_that_share_nothing_are_points_without_a_line(browser: Browser, tmp_path: Path) -> None:
    rows, runs = [], {}
    for rate, dim in (("0.01", "8"), ("0.02", "16"), ("0.03", "4")):
        runs[rate] = make_run(tmp_path / rate, None)
        rows.append(Row({"lr": rate, "dim": dim}, [rate], [0], scores={"kmeans_ari": Spread(float(rate), None, 1)}))
    write_sweep_page(tmp_path / "report.html", Leaderboard("search", ["lr", "dim"], rows, "", RAW), runs)
    with opened(browser, tmp_path / "report.html") as found:
        drawn = draws(found)
        assert (drawn["scale"], drawn["x"]) == ("LinearScale", "lr")
        points, raw = drawn["lines"]
        assert (points["x"], points["mean"]) == ([0.01, 0.02, 0.03], [0.01, 0.02, 0.03])
        assert "Line" not in points["kinds"]
        assert raw["name"] == "raw pixels"
        (low, high), mean = run_interval(runs["0.01"]), points["mean"][0]
        assert (points["low"][0], points["high"][0]) == (pytest.approx(low), pytest.approx(high))
        assert mean == 0.01
        assert "95% interval over test puzzles" in found.page.locator("#curves .note").inner_text()


def run_interval(run: Run) -> list[float]:
    """The interval over puzzles of a run's score."""
    interval: list[float] = run.metrics["scores"]["model"]["kmeans_ari"]["ci95"]
    return interval


def test_the_strongest_baselines_are_drawn() -> None:
    means = {"random": 0.0, "raw_pixels": 0.2, "colour_histogram": 0.5, "exact_pca": 0.3}
    known = {method: {"mean_clustering_score": summary(np.array([mean] * 2))} for method, mean in means.items()}
    row = Row({}, ["a"], [0], scores={"mean_clustering_score": spread(0.4)})
    assert curves.strongest(Leaderboard("name", [], [row], "", known)) == ["colour_histogram", "exact_pca"]


def test_each_baseline_has_dashes_of_its_own() -> None:
    point = bokeh_figure.Point(1.0, 0.5, 0.5, 0.5, "", "")
    lines = [bokeh_figure.Line(name, {"kmeans_ari": [point]}, name != "model") for name in ("a", "model", "b", "c")]
    drawn = json.dumps(bokeh_figure.draw(bokeh_figure.Axis("n", ["1"], {"1": 1.0}), lines, "", connected=True)["item"])
    # Bokeh also writes the style of a selected and of a muted line.
    dashes = re.findall(r'"line_dash": (?:{[^{}]*)?(\[[^]]+\]|"[^"]+")', drawn)
    assert len({dash for dash in dashes if dash != "[]"}) == 3


# Of a run ------------------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_shows_scores_beside_baselines_training_figures_and_config(
    browser: Browser, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", examples(solver=True, channels=1), overrides=("model=conv", "seed=7"))
    figure = Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8))
    (tmp_path / "run" / "figures").mkdir()
    with files.atomic_file(tmp_path / "run" / "figures" / "tsne_of_puzzle.png") as file:
        figure.save(file, "png")
    write_run_page(tmp_path / "run" / "report.html", run)
    with opened(browser, tmp_path / "run" / "report.html") as found:
        assert column(found, "metric") == ["KMeans ARI", "KMeans NMI", "mean clustering score", "KMedoids NMI"]
        for method in ("model", "raw_pixels"):
            wanted = [run.metrics["scores"][method][metric] for metric in METRICS]
            cells = column(found, method.replace("_", " "))
            assert [float(cell.split()[0]) for cell in cells] == pytest.approx([s["mean"] for s in wanted], abs=5e-5)
            halves = [(s["ci95"][1] - s["ci95"][0]) / 2 for s in wanted]
            assert [float(cell.split("±")[1].split()[0]) for cell in cells] == pytest.approx(halves, abs=5e-5)
        assert found.page.locator("#filled").count() == 0
        drawn = draws(found)
        assert (drawn["x"], drawn["y"]) == ("epoch", "loss")
        assert [(line["name"], line["mean"]) for line in drawn["lines"]] == [
            ("training", [3, 2, 1]),
            ("validation", [4, 3, 2]),
        ]
        picture = found.page.get_by_role("img", name="t-SNE of puzzle")
        encoded = str(picture.get_attribute("src")).removeprefix("data:image/webp;base64,")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), np.asarray(figure))
        assert found.page.locator("header").inner_text().count("conv on synthetic, seed 7: done; 7 parameters") == 1
        assert EVIL in found.page.locator("#config pre").first.inner_text()
        found.page.locator("#config summary").click()
        assert "latent_dim: 128" in found.page.locator("#config details pre").inner_text()
        places = look(found, "rebuilt", "conv")
        known = examples(solver=True, channels=1)
        grey = pixels_of(found, places[3])
        assert np.array_equal(grey[..., 0], fragment(puzzles(channels=1), 0, 3)[..., 0])
        assert known["images"].shape[2] == 1
        assert found.evaluate("window.hit") is None


def made_of(folder: Path, scores: dict[str, dict[str, list[float]]]) -> Run:
    """A finished run on whole images with these scores."""
    record = Record(folder)
    whole = ("evaluation=reconstruction", "data.fragment_size=64", "data.images_per_puzzle=1")
    record.start(composed(*whole), [])
    (count,) = {len(values) for found in scores.values() for values in found.values()}
    record.write_metrics(
        {method: {name: np.array(values) for name, values in found.items()} for method, found in scores.items()},
        protocol={"puzzles": count, "images_per_puzzle": 1, "fragments_per_image": 1, "mask_ratio": 0.75},
        data={"name": "noise"},
        model={"name": "MAE", "parameters": 7},
        seconds={"training": 12.0, "evaluation": 1.0},
        dataset_wide={"model": {"composite_fid": 12.345}, "bilinear": {"composite_fid": 22.0}}
        if "bilinear" in scores
        else {},
    )
    record.finish()
    return load_run(folder)


FILLED = {
    "bilinear": {"masked_mse": [0.03, 0.02, 0.04], "masked_psnr": [15.0, 17, 14], "masked_ssim": [0.1, 0.9, 0.5]},
    "linear_prediction": {
        "masked_mse": [0.01, 0.02, 0.01],
        "masked_psnr": [20.0, 17, 20],
        "masked_ssim": [0.4, 0.4, 0.5],
    },
    "model": {"masked_mse": [0.02, 0.011, 0.03], "masked_psnr": [17.0, 19, 15.5], "masked_ssim": [0.4, 0.5, 0.63]},
}


def test_the_page_of_masked_images_shows_them_their_scores_and_how_far_baselines_are_off(
    browser: Browser, tmp_path: Path
) -> None:
    run = made_of(tmp_path / "run", FILLED)
    picture = Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8))
    for name in ("masked", "curves"):
        with files.atomic_file(tmp_path / "run" / "figures" / f"{name}.png") as file:
            picture.save(file, "png")
    write_run_page(tmp_path / "report.html", run)
    with opened(browser, tmp_path / "report.html") as found:
        assert [title.inner_text() for title in found.page.locator("h2").all()] == [
            *("Scores", "Masked images", "Training", "Figures", "Config"),
        ]
        assert column(found, "metric") == [
            *("masked PSNR, dB", "masked SSIM", "masked MSE lower is better", "composite FID lower is better"),
        ]
        # By hand: the differences are 2, 2, 1.5 and -3, 2, -4.5; their intervals by Student's t with 2 degrees.
        assert [cell.split("\n") for cell in column(found, "bilinear")] == [
            ["15.33 ±3.79", "+1.83 ±.72"],
            ["0.5000 ±.9937", "+0.0100 ±.9070"],
            ["0.03000 ±.02484", "-0.00967 ±.00143"],
            ["22.00"],
        ]
        tones = {
            name: [
                cell.get_attribute("class") for cell in found.page.locator("tbody tr").nth(row).locator(".below").all()
            ]
            for row, name in enumerate(("psnr", "ssim", "mse"))
        }
        assert tones == {
            "psnr": ["below better", "below "],
            "ssim": ["below ", "below "],
            "mse": ["below better", "below "],
        }
        note = found.page.locator("#scores .note").inner_text()
        assert "3 test images" in note
        assert "75%" in note
        assert "PSNR" in found.page.locator("#filled figcaption").inner_text()
        assert found.page.locator("#filled img").count() == found.page.locator("#figures img").count() == 1


def test_what_only_decodes_has_no_place_for_puzzles_masks_or_baselines(browser: Browser, tmp_path: Path) -> None:
    run = made_of(tmp_path / "run", {"model": {"reconstruction_psnr": [20.0, 22], "reconstruction_mse": [0.01, 0.02]}})
    write_run_page(tmp_path / "report.html", run)
    with opened(browser, tmp_path / "report.html") as found:
        assert [title.inner_text() for title in found.page.locator("h3").all()] == ["Reconstruction"]
        assert column(found, "model") == ["21.00 ±12.71", "0.01500 ±.06353"]
        assert found.page.locator("#filled, #puzzles, #figures").count() == 0
        assert "asel" not in found.page.locator("#scores").inner_text()


def test_a_sweep_of_masked_images_is_compared_drawn_and_shown_by_what_was_filled_in(
    browser: Browser, tmp_path: Path
) -> None:
    rows, runs = [], {}
    for rank, ratio in enumerate(("0.5", "0.75", "0.85")):
        run = runs[ratio] = made_of(tmp_path / ratio, FILLED)
        with files.atomic_file(run.folder / "figures" / "masked.png") as file:
            Image.new("RGB", (30, 20), (0, 99, 50 * rank)).save(file, "png")
        scores = {name: Spread(float(np.mean(values)) - rank, None, 1) for name, values in FILLED["model"].items()}
        minus = {"masked_psnr": summary(np.array([-1.0, -2.0, -3.0]))}
        rows.append(Row({"objective.ratio": ratio}, [ratio], [0], Spread(0.1, None, 1), scores, minus if rank else {}))
    baselines = {"bilinear": {name: summary(np.array(values)) for name, values in FILLED["bilinear"].items()}}
    board = Leaderboard("ratios", ["objective.ratio"], rows, "", baselines, "images")
    write_sweep_page(tmp_path / "report.html", board, runs)
    with opened(browser, tmp_path / "report.html") as found:
        assert column(found, "masked PSNR, dB") == ["17.17", "16.17", "15.17", "15.33"]
        assert column(found, "masked PSNR - best") == ["best", "-2.00 ±2.48", "-2.00 ±2.48", ""]
        sort(found, "masked MSE", "ascending")  # the best first, as with any other score
        assert column(found, "rank") == ["3", "2", "1", "bilinear"]
        drawn = draws(found)
        assert (drawn["x"], drawn["y"]) == ("objective.ratio", "masked PSNR, dB")
        assert [line["name"] for line in drawn["lines"]] == ["configurations", "bilinear"]
        assert drawn["lines"][0]["mean"] == pytest.approx([103 / 6, 97 / 6, 91 / 6])
        assert drawn["lines"][1]["mean"] == pytest.approx([46 / 3] * 3)
        assert "95% interval over test images" in found.page.locator("#curves").inner_text()
        assert found.page.locator("#filled figcaption").all_inner_texts() == [
            f"{rank} · {ratio} · seed 0" for rank, ratio in enumerate(("0.5", "0.75", "0.85"), 1)
        ]
        assert found.page.locator("#puzzles").count() == 0


def test_the_page_of_a_failed_run_says_why_and_what_is_missing(browser: Browser, tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    record.start(composed(), [])
    record.fail(ValueError(f"no luck {EVIL}"))
    write_run_page(tmp_path / "report.html", load_run(tmp_path / "run"))
    with opened(browser, tmp_path / "report.html") as found:
        assert f"ValueError: no luck {EVIL}" in found.page.locator("pre.error").inner_text()
        assert "metrics.json" in found.page.locator("#scores").inner_text()
        assert "examples.npz" in found.page.locator("#puzzles").inner_text()
        assert found.page.locator("#curves .plot").count() == 0
        assert found.page.locator("#figures").count() == 0
        assert found.evaluate("window.hit") is None


def test_a_broken_file_of_examples_is_named_and_not_fatal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", examples())
    (tmp_path / "run" / "examples.npz").write_bytes(b"half")
    write_run_page(tmp_path / "report.html", run)
    assert "examples.npz" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("where", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_browser_the_tests_fail_in_ci_and_are_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", where)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(outcome, match="no chromium is installed"):
        executable()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(outcome, match="is not a file"):
        executable()


# Groups and the images they are taken for ----------------------------------------------------------------------------


def solutions_of(found: Examples) -> dict[int, dict[str, Any]]:
    class Kept:
        examples = found

        def model_scores(self, metrics: list[str]) -> dict[str, Any]:
            return {}

    (solver,) = gallery({"it": cast(Run, Kept())})["solvers"]
    solutions: dict[int, dict[str, Any]] = solver["solutions"]
    return solutions


def best_of(groups: npt.NDArray[Any], sources: npt.NDArray[Any], counted: npt.NDArray[Any]) -> int:
    """The most counted fragments that any way to give groups to images gets right."""
    orders = itertools.permutations(range(IMAGES))
    return max(int(((np.array(order)[groups] == sources) & counted).sum()) for order in orders)


@pytest.mark.parametrize("seed", range(8))
def test_groups_and_rebuilt_images_are_taken_for_true_ones_one_to_one_as_the_scores_have_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = examples(seed, solver=True)
    for name, most in (("groups", IMAGES), ("rebuilt_images", IMAGES), ("rebuilt_cells", CELLS)):
        found[name] = random.integers(most, size=found[name].shape)
    for number, solution in solutions_of(found).items():
        sources = found["source_ids"][number]
        everywhere, in_place = np.full(len(sources), True), found["rebuilt_cells"][number] == found["positions"][number]
        for groups, names, counted in (
            (found["groups"][number], solution["names"], everywhere),
            (found["rebuilt_images"][number], solution["rebuilt"]["names"], in_place),
        ):
            given = [name for name in names if name is not None]
            assert len(set(given)) == len(given), "one to one"
            for group, name in enumerate(names):
                assert name is None or ((groups == group) & (sources == name)).any()
            image_of = np.array([-1 if name is None else name for name in names])
            right = int(((image_of[groups] == sources) & counted).sum())
            assert right == best_of(groups, sources, counted)


def test_raw_pixels_are_drawn_only_where_they_depend_on_nothing_else(tmp_path: Path) -> None:
    rows, runs = [], {}
    for dim, size in itertools.product(("8", "16"), ("4", "16")):
        run = runs[f"{dim},{size}"] = make_run(tmp_path / f"{dim},{size}", None)
        run.metrics["scores"]["raw_pixels"]["kmeans_ari"]["mean"] = float(size)
        rows.append(Row({"dim": dim, "size": size}, [f"{dim},{size}"], [0], scores={"kmeans_ari": spread(0.5)}))
    drawn = curves.of_sweep(Leaderboard("sizes", ["dim", "size"], rows, "", RAW), runs)["figures"]
    lines = {figure["name"]: figure["points"]["kmeans_ari"] for figure in drawn}
    assert len(lines["dim"]) == 2  # at each dimension they differ by size
    assert len(lines["size"]) == 3
    assert (lines["size"][-1]["x"], lines["size"][-1]["mean"]) == ([4, 16], [4, 16])
