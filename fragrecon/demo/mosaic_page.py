"""The page of a model that puts puzzles together; needs Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from fragrecon.data.photographs import Photographs
from fragrecon.demo import layout, mosaic

FIRST = 4
"""Examples that the first puzzle is made of."""

Shown = dict[Any, Any]
"""New values of components."""


class MosaicPage:
    """Where one picks or uploads images, which are cut, shuffled and put together again.

    Args:
        table: on which that is done.
        examples: image files to choose from.
        note: what the run is.

    Attributes:
        blocks: the page.
    """

    def __init__(self, table: mosaic.Table, examples: Sequence[Path], note: str) -> None:
        self.table, self.examples = table, [str(path) for path in examples]
        self.blocks = layout.blocks("Mixed fragments")
        with self.blocks:
            layout.heading("Putting mixed fragments together", note)
            self.taken, self.puzzle, self.shuffle = gr.State(self.examples[:FIRST]), gr.State(), gr.State(0)
            with gr.Column(visible=bool(examples)):
                layout.section("Test images", "Click one to add it.")
                self.strip = layout.strip(examples, "examples")
            layout.section("In the puzzle", "Click one to take it out.")
            self.chosen = layout.strip(examples[:FIRST], "chosen")
            with gr.Row():
                self.upload = gr.UploadButton(
                    "Upload images", file_types=["image"], file_count="multiple", elem_id="upload", size="md"
                )
                self.clear = gr.Button("Take all out", elem_id="clear", size="md")
                self.again = gr.Button("Shuffle again", elem_id="again", size="md", variant="primary")
            with gr.Row():
                with gr.Column(scale=2, min_width=280, elem_classes="place"):
                    self.shuffled = layout.picture("shuffled", "all that the model is given")
                with gr.Column(scale=3, min_width=420, elem_classes="place"):
                    self.rebuilt = layout.picture(
                        "rebuilt", "each image beside what was rebuilt of it; fragments out of place in red"
                    )
                    self.facts = layout.text(name="facts")
            self._connect()

    def _connect(self) -> None:
        outputs = [self.taken, self.shuffle, self.chosen, self.puzzle, self.shuffled, self.rebuilt, self.facts]
        how: dict[str, Any] = {"show_progress": "hidden", "concurrency_id": "puzzle"}
        given = [self.taken, self.shuffle]
        for event, action, inputs in (
            (self.blocks.load, self.cut, given),
            (self.strip.select, self.add, given),
            (self.chosen.select, self.take_out, given),
            (self.upload.upload, self.add_files, [self.upload, *given]),
            (self.again.click, self.shuffle_again, given),
            (self.clear.click, self.take_all_out, given),
        ):
            event(action, inputs, outputs, **how).success(self.rebuild, self.puzzle, outputs, **how)

    def add(self, taken: list[str], shuffle: int, event: gr.SelectData) -> Shown:
        path = self.examples[event.index]
        if path in taken:
            gr.Info("This image is in the puzzle already.")
            return {self.taken: taken}
        return self.cut([*taken, path], shuffle)

    def add_files(self, files: list[str], taken: list[str], shuffle: int) -> Shown:
        return self.cut([*taken, *files], shuffle)

    def take_out(self, taken: list[str], shuffle: int, event: gr.SelectData) -> Shown:
        return self.cut([path for place, path in enumerate(taken) if place != event.index], shuffle)

    def take_all_out(self, taken: list[str], shuffle: int) -> Shown:
        return self.cut([], shuffle)

    def shuffle_again(self, taken: list[str], shuffle: int) -> Shown:
        return self.cut(taken, shuffle + 1)

    def cut(self, taken: list[str], shuffle: int) -> Shown:
        """Cut and shuffle images; what was rebuilt of others goes."""
        shown: Shown = {self.taken: taken, self.shuffle: shuffle, self.rebuilt: None, self.facts: ""}
        shown[self.chosen] = gr.Gallery(taken, selected_index=None)
        if not taken:
            return shown | {self.puzzle: None, self.shuffled: None}
        puzzle = layout.told(partial(self.table.cut, [Path(path) for path in taken], shuffle))
        return shown | {self.puzzle: puzzle, self.shuffled: layout.kept(mosaic.shuffled_picture(puzzle))}

    def rebuild(self, puzzle: Photographs | None) -> Shown:
        if puzzle is None:
            return {self.rebuilt: None}
        rebuilt = self.table.solve(puzzle)
        return {
            self.rebuilt: layout.kept(mosaic.rebuilt_picture(rebuilt)),
            self.facts: layout.facts(mosaic.facts_of(rebuilt)),
        }
