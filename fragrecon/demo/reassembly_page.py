"""The page of a reassembling model; needs Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from fragrecon.data.photographs import Photographs
from fragrecon.demo import layout, reassembly

FIRST = 4
"""Number of examples in the first puzzle."""

Shown = dict[Any, Any]
"""New values of components."""


class ReassemblyPage:
    """A page to choose or upload images, which are cut, shuffled and reassembled.

    Args:
        reassembler: reassembler of the puzzles.
        examples: image files to choose from.
        note: description of the run.

    Attributes:
        blocks: the page.
    """

    def __init__(self, reassembler: reassembly.Reassembler, examples: Sequence[Path], note: str) -> None:
        self.reassembler, self.examples = reassembler, [str(path) for path in examples]
        self.blocks = layout.blocks("Reassembly")
        with self.blocks:
            layout.heading("Reassembly of mixed fragments", note, level=1)
            self.taken, self.puzzle, self.shuffle = gr.State(self.examples[:FIRST]), gr.State(), gr.State(0)
            with gr.Column(visible=bool(examples)):
                layout.heading("Test images", "Click an image to add it.")
                self.strip = layout.strip(examples, "examples")
            layout.heading(
                "In the puzzle",
                "Click an image to remove it. Images are cropped to their centre and scaled to one size.",
            )
            self.chosen = layout.strip(examples[:FIRST], "chosen")
            with gr.Row():
                self.upload = gr.UploadButton(
                    "Upload images", file_types=["image"], file_count="multiple", elem_id="upload", size="md"
                )
                self.clear = gr.Button("Remove all", elem_id="clear", size="md")
                self.again = gr.Button("Shuffle again", elem_id="again", size="md", variant="primary")
            with gr.Row():
                with gr.Column(scale=2, min_width=280, elem_classes="place"):
                    self.shuffled = layout.picture("shuffled", "the input of the model")
                with gr.Column(scale=3, min_width=420, elem_classes="place"):
                    self.rebuilt = layout.picture(
                        "rebuilt", "each original next to the rebuilt image; misplaced fragments have a red frame"
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
            (self.chosen.select, self.remove, given),
            (self.upload.upload, self.add_files, [self.upload, *given]),
            (self.again.click, self.shuffle_again, given),
            (self.clear.click, self.remove_all, given),
        ):
            event(action, inputs, outputs, **how).success(self.rebuild, self.puzzle, outputs, **how)

    def add(self, taken: list[str], shuffle: int, event: gr.SelectData) -> Shown:
        path = self.examples[event.index]
        if path in taken:
            gr.Info("This image is already in the puzzle.")
            return {self.taken: taken}
        return self.cut([*taken, path], shuffle)

    def add_files(self, files: list[str], taken: list[str], shuffle: int) -> Shown:
        return self.cut([*taken, *files], shuffle)

    def remove(self, taken: list[str], shuffle: int, event: gr.SelectData) -> Shown:
        return self.cut([path for place, path in enumerate(taken) if place != event.index], shuffle)

    def remove_all(self, taken: list[str], shuffle: int) -> Shown:
        return self.cut([], shuffle)

    def shuffle_again(self, taken: list[str], shuffle: int) -> Shown:
        return self.cut(taken, shuffle + 1)

    def cut(self, taken: list[str], shuffle: int) -> Shown:
        """Cut and shuffle images, and clear the previous result."""
        shown: Shown = {self.taken: taken, self.shuffle: shuffle, self.rebuilt: None, self.facts: ""}
        shown[self.chosen] = gr.Gallery(taken, selected_index=None)
        if not taken:
            return shown | {self.puzzle: None, self.shuffled: None}
        puzzle = layout.checked(partial(self.reassembler.cut, [Path(path) for path in taken], shuffle))
        return shown | {self.puzzle: puzzle, self.shuffled: layout.picture_file(reassembly.shuffled_picture(puzzle))}

    def rebuild(self, puzzle: Photographs | None) -> Shown:
        if puzzle is None:
            return {self.rebuilt: None}
        rebuilt = self.reassembler.solve(puzzle)
        return {self.rebuilt: layout.picture_file(rebuilt.picture), self.facts: layout.facts(rebuilt.facts)}
