"""The page of an inpainting model; needs Gradio."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from fragrecon.data.readers.images import Shape, decode
from fragrecon.demo import inpainting, layout
from fragrecon.demo.inpainting import Scene
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.models.base import Attentive, Descender, Inpainter

BUTTON = 200
"""Minimum width of a button in pixels."""

PAUSE = 0.25
"""Seconds per step when the descent is played."""

View = tuple[Scene, Inpainted]
"""The input of the model and its output."""

Shown = dict[Any, Any]
"""New values of components."""


class InpaintingPage:
    """A page to choose or upload an image, hide patches, and see how the model inpaints them.

    Args:
        model: model in eval mode.
        device: device of the model.
        shape: shape (C, H, W) of its images.
        examples: image files to choose from.
        ratio: initial share of hidden patches.
        note: description of the run.

    Attributes:
        blocks: the page.
    """

    def __init__(
        self,
        model: Inpainter,
        device: torch.device,
        shape: Shape,
        examples: Sequence[Path],
        ratio: float,
        note: str,
    ) -> None:
        self.model, self.device, self.shape, self.examples = model, device, shape, examples
        self.grid, self.count = model.patches.grid, model.patches.count
        self.blocks = layout.blocks("Inpainting")
        with self.blocks:
            layout.heading("Inpainting of masked images", note, level=1)
            self.view, self.draw = gr.State(), gr.State(0)
            self.strip = layout.strip(examples, "examples", visible=bool(examples))
            with gr.Row(equal_height=True):
                label = "Hidden patches, in %"
                self.share = gr.Slider(
                    0, 100, round(100 * ratio), step=1, label=label, buttons=[], elem_id="share", scale=1
                )
                self.again = gr.Button("Another random mask", elem_id="again", size="md", scale=0, min_width=BUTTON)
                self.upload = gr.UploadButton(
                    "Upload an image", file_types=["image"], elem_id="upload", size="md", scale=0, min_width=BUTTON
                )
            self.places = {}
            with gr.Row():
                for name, said in {
                    "image": "the original image",
                    "visible": "click a patch to hide or show it",
                    "output": "the whole output of the model",
                    "composite": "the output in hidden patches",
                }.items():
                    with gr.Column(min_width=180, elem_classes="place"):
                        self.places[name] = layout.picture(name, said, click=name == "visible")
            self.facts = layout.text(name="facts")
            self._lay_descent()
            self._lay_attention()
            self._connect()

    def _lay_descent(self) -> None:
        """Add the steps of the descent, which are hidden for models without one."""
        with gr.Column(visible=isinstance(self.model, Descender)):
            layout.heading("Descent", "The output and the composite above are shown after this number of steps.")
            with gr.Row(equal_height=True):
                self.step = gr.Slider(0, 1, 0, step=1, label="Step of the descent", buttons=[], elem_id="step")
                self.play = gr.Button("Play", elem_id="play", size="md", scale=0, min_width=BUTTON)
            self.course = layout.text(name="course")

    def _lay_attention(self) -> None:
        """Add the attention, which is hidden for models without any."""
        with gr.Column(visible=isinstance(self.model, Attentive)):
            layout.heading("Attention", "Final attention of one patch; stronger orange is higher attention.")
            with gr.Row():
                with gr.Column(min_width=180, scale=1, elem_classes="place"):
                    self.chosen = layout.picture("patch", "click to choose another patch", click=True)
                with gr.Column(min_width=180, scale=1, elem_classes="place"):
                    self.mean = layout.picture("attention", "the mean of all heads")
                with gr.Column(min_width=360, scale=2, elem_classes="place"):
                    layout.caption("heads", "each relative to its maximum weight")
                    self.heads = layout.text(name="heads")

    def _connect(self) -> None:
        shown = [self.view, self.draw, self.strip, self.share, *self.places.values(), self.facts]
        shown += [self.step, self.course, self.chosen, self.mean, self.heads]
        # Events run one after another, so that each starts from the result of the previous one.
        how: dict[str, Any] = {"outputs": shown, "show_progress": "hidden", "concurrency_id": "view"}
        mask = [self.view, self.share, self.draw, self.step]
        self.blocks.load(self.start, mask, **how)
        self.strip.select(self.pick, mask, **how)
        self.upload.upload(self.take_own, [self.upload, *mask], **how)
        self.share.input(self.hide, mask, trigger_mode="always_last", **how)
        self.again.click(self.hide_others, mask, **how)
        self.places["visible"].select(self.toggle, [self.view, self.step], trigger_mode="multiple", **how)
        self.chosen.select(self.look, [self.view, self.step], trigger_mode="always_last", **how)
        self.step.input(self.go, [self.view, self.step], trigger_mode="always_last", **how)
        self.play.click(self.descend, self.view, outputs=shown, show_progress="hidden")

    def start(self, view: View | None, share: float, draw: int, step: int) -> Shown:
        if not self.examples:
            return {self.view: None}
        return self.take(str(self.examples[0]), view, share, draw, step)

    def pick(self, view: View | None, share: float, draw: int, step: int, event: gr.SelectData) -> Shown:
        return self.take(str(self.examples[event.index]), view, share, draw, step)

    def take_own(self, file: str, view: View | None, share: float, draw: int, step: int) -> Shown:
        return {self.strip: gr.Gallery(selected_index=None)} | self.take(file, view, share, draw, step)

    def take(self, file: str, view: View | None, share: float, draw: int, step: int) -> Shown:
        """Show another image under the current mask."""
        path = Path(file)
        pixels = layout.checked(partial(decode, path, self.shape, path.name))
        image = torch.from_numpy(pixels).float() / 255
        if view is None:
            scene = Scene(image, self._mask(share, draw))
            return self._see(scene, None)
        return self._see(replace(view[0], image=image), step)

    def hide(self, view: View | None, share: float, draw: int, step: int) -> Shown:
        if view is None:
            return {self.view: None}
        return self._see(replace(view[0], mask=self._mask(share, draw)), step)

    def hide_others(self, view: View | None, share: float, draw: int, step: int) -> Shown:
        return {self.draw: draw + 1} | self.hide(view, share, draw + 1, step)

    def toggle(self, view: View | None, step: int, event: gr.SelectData) -> Shown:
        if view is None:
            return {self.view: None}
        scene = view[0]
        mask = inpainting.toggled(scene.mask, self._patch(event, view))
        if torch.equal(mask, scene.mask):
            gr.Info("At least one patch stays hidden, and one visible.")
        return {self.share: round(100 * float(mask.float().mean()))} | self._see(replace(scene, mask=mask), step)

    def look(self, view: View | None, step: int, event: gr.SelectData) -> Shown:
        if view is None:
            return {self.view: None}
        return self._see(replace(view[0], chosen=self._patch(event, view)), step)

    def go(self, view: View | None, step: int) -> Shown:
        return {self.view: None} if view is None else self._at_step(view[1], step)

    def descend(self, view: View | None) -> Iterator[Shown]:
        """Show the steps one after another."""
        for step in range(inpainting.steps_of(view[1]) + 1 if view else 0):
            yield {self.step: step} | self.go(view, step)
            time.sleep(PAUSE)

    def _mask(self, share: float, draw: int) -> Tensor:
        return inpainting.random_mask(self.count, share / 100, draw)

    def _patch(self, event: gr.SelectData, view: View) -> int:
        size = inpainting.picture(view[0].image).shape[1:]
        return inpainting.patch_at(event.index, (size[0], size[1]), self.grid)

    def _see(self, scene: Scene, step: int | None) -> Shown:
        """Run the model and show a step of its descent, by default the last one."""
        inpainted = inpainting.answer(self.model, scene, self.device)
        last = inpainting.steps_of(inpainted)
        shown: Shown = {self.view: (scene, inpainted)}
        for name, picture in inpainting.input_pictures(inpainted, self.grid).items():
            shown[self.places[name]] = layout.picture_file(picture)
        if step is None:
            step = last
            shown[self.step] = gr.Slider(maximum=max(last, 1), value=step)
        shown |= self._at_step(inpainted, step)
        if inpainted.attention:
            shown[self.chosen] = layout.picture_file(inpainting.chosen_picture(inpainted, self.grid))
            shown[self.mean] = layout.picture_file(inpainting.mean_picture(inpainted))
            shown[self.heads] = layout.figures_html(inpainting.head_pictures(inpainted))
        return shown

    def _at_step(self, inpainted: Inpainted, step: int) -> Shown:
        now = inpainting.at_step(inpainted, step)
        shown: Shown = {
            self.places[name]: layout.picture_file(picture) for name, picture in inpainting.output_pictures(now).items()
        }
        shown[self.facts] = layout.facts(inpainting.facts_of(now, self.count))
        if inpainted.steps:
            shown[self.course] = layout.figure_html(inpainting.descent_figure(inpainted, step))
        return shown
