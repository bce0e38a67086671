"""The page of a model that fills in; needs Gradio."""

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
from fragrecon.demo import layout, masked
from fragrecon.demo.drawing import drawn_size
from fragrecon.demo.masked import Scene
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.models.base import Attentive, Descender, Inpainter

BUTTON = 200
"""Least width of a button, in pixels."""

PAUSE = 0.25
"""Seconds that a step of the descent is shown for."""

Sight = tuple[Scene, Inpainted]
"""What is looked at: what the model was asked, and what it answered."""

Shown = dict[Any, Any]
"""New values of components."""


class MaskedPage:
    """Where one picks or uploads an image, hides patches of it, and sees what the model makes of them.

    Args:
        model: in eval mode.
        device: that the model is on.
        shape: (C, H, W) of its images.
        examples: image files to begin with.
        ratio: share of the patches that is hidden at first.
        note: what the run is.

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
        self.blocks = layout.blocks("Masked images")
        with self.blocks:
            layout.heading("Filling in masked images", note)
            self.sight, self.draw = gr.State(), gr.State(0)
            self.strip = layout.strip(examples, "examples", visible=bool(examples))
            with gr.Row(equal_height=True):
                label = "Hidden share of the patches, in %"
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
                    "image": "the original",
                    "visible": "click to hide or show",
                    "output": "all that the model says",
                    "composite": "output in hidden patches",
                }.items():
                    with gr.Column(min_width=180, elem_classes="place"):
                        self.places[name] = layout.picture(name, said, click=name == "visible")
            self.facts = layout.text(name="facts")
            self._lay_descent()
            self._lay_attention()
            self._connect()

    def _lay_descent(self) -> None:
        """Where a model that descends is followed step by step; of others this is hidden."""
        with gr.Column(visible=isinstance(self.model, Descender)):
            layout.section("Descent", "The output and the composite above are those after this many steps.")
            with gr.Row(equal_height=True):
                self.step = gr.Slider(0, 1, 0, step=1, label="Step of the descent", buttons=[], elem_id="step")
                self.play = gr.Button("Play", elem_id="play", size="md", scale=0, min_width=BUTTON)
            self.course = layout.text(name="course")

    def _lay_attention(self) -> None:
        with gr.Column(visible=isinstance(self.model, Attentive)):
            layout.section("Attention", "What one patch attends to at the end: the more, the more orange.")
            with gr.Row():
                with gr.Column(min_width=180, scale=1, elem_classes="place"):
                    self.chosen = layout.picture("patch", "click another one", click=True)
                with gr.Column(min_width=180, scale=1, elem_classes="place"):
                    self.mean = layout.picture("attention", "the mean of all heads")
                with gr.Column(min_width=360, scale=2, elem_classes="place"):
                    layout.caption("heads", "each on a scale of its own")
                    self.heads = layout.text(name="heads")

    def _connect(self) -> None:
        shown = [self.sight, self.draw, self.strip, self.share, *self.places.values(), self.facts]
        shown += [self.step, self.course, self.chosen, self.mean, self.heads]
        # One after the other, so that each starts from what the one before has left.
        how: dict[str, Any] = {"outputs": shown, "show_progress": "hidden", "concurrency_id": "sight"}
        mask = [self.sight, self.share, self.draw, self.step]
        self.blocks.load(self.start, mask, **how)
        self.strip.select(self.pick, mask, **how)
        self.upload.upload(self.take_own, [self.upload, *mask], **how)
        self.share.input(self.hide, mask, trigger_mode="always_last", **how)
        self.again.click(self.hide_others, mask, **how)
        self.places["visible"].select(self.toggle, [self.sight, self.step], trigger_mode="multiple", **how)
        self.chosen.select(self.look, [self.sight, self.step], trigger_mode="always_last", **how)
        self.step.input(self.go, [self.sight, self.step], trigger_mode="always_last", **how)
        self.play.click(self.descend, self.sight, outputs=shown, show_progress="hidden")

    def start(self, sight: Sight | None, share: float, draw: int, step: int) -> Shown:
        if not self.examples:
            return {self.sight: None}
        return self.take(str(self.examples[0]), sight, share, draw, step)

    def pick(self, sight: Sight | None, share: float, draw: int, step: int, event: gr.SelectData) -> Shown:
        return self.take(str(self.examples[event.index]), sight, share, draw, step)

    def take_own(self, file: str, sight: Sight | None, share: float, draw: int, step: int) -> Shown:
        return {self.strip: gr.Gallery(selected_index=None)} | self.take(file, sight, share, draw, step)

    def take(self, file: str, sight: Sight | None, share: float, draw: int, step: int) -> Shown:
        """Look at another image, under the mask that is there."""
        path = Path(file)
        pixels = layout.told(partial(decode, path, self.shape, path.name))
        image = torch.from_numpy(pixels).float() / 255
        if sight is None:
            scene = Scene(image, self._mask(share, draw))
            return self._see(scene, None)
        return self._see(replace(sight[0], image=image), step)

    def hide(self, sight: Sight | None, share: float, draw: int, step: int) -> Shown:
        if sight is None:
            return {self.sight: None}
        return self._see(replace(sight[0], mask=self._mask(share, draw)), step)

    def hide_others(self, sight: Sight | None, share: float, draw: int, step: int) -> Shown:
        return {self.draw: draw + 1} | self.hide(sight, share, draw + 1, step)

    def toggle(self, sight: Sight | None, step: int, event: gr.SelectData) -> Shown:
        if sight is None:
            return {self.sight: None}
        scene = sight[0]
        mask = masked.toggled(scene.mask, self._patch(event, sight))
        if torch.equal(mask, scene.mask):
            gr.Info("One patch at least stays hidden, and one visible.")
        return {self.share: round(100 * float(mask.float().mean()))} | self._see(replace(scene, mask=mask), step)

    def look(self, sight: Sight | None, step: int, event: gr.SelectData) -> Shown:
        if sight is None:
            return {self.sight: None}
        return self._see(replace(sight[0], chosen=self._patch(event, sight)), step)

    def go(self, sight: Sight | None, step: int) -> Shown:
        return {self.sight: None} if sight is None else self._at_step(sight[1], step)

    def descend(self, sight: Sight | None) -> Iterator[Shown]:
        """Show one step after the other."""
        for step in range(masked.steps_of(sight[1]) + 1 if sight else 0):
            yield {self.step: step} | self.go(sight, step)
            time.sleep(PAUSE)

    def _mask(self, share: float, draw: int) -> Tensor:
        return masked.random_mask(self.count, share / 100, draw)

    def _patch(self, event: gr.SelectData, sight: Sight) -> int:
        return masked.patch_at(event.index, drawn_size(sight[0].image), self.grid)

    def _see(self, scene: Scene, step: int | None) -> Shown:
        """Ask the model; ``step`` is that of its descent to show, by default the last."""
        filling = masked.answer(self.model, scene, self.device)
        last = masked.steps_of(filling)
        shown: Shown = {self.sight: (scene, filling)}
        for name, picture in masked.question_pictures(filling, self.grid).items():
            shown[self.places[name]] = layout.kept(picture)
        if step is None:
            step = last
            shown[self.step] = gr.Slider(maximum=max(last, 1), value=step)
        shown |= self._at_step(filling, step)
        if filling.attention:
            shown[self.chosen] = layout.kept(masked.chosen_picture(filling, self.grid))
            shown[self.mean] = layout.kept(masked.mean_picture(filling))
            shown[self.heads] = layout.figures_html(masked.head_pictures(filling))
        return shown

    def _at_step(self, filling: Inpainted, step: int) -> Shown:
        now = masked.at_step(filling, step)
        shown: Shown = {
            self.places[name]: layout.kept(picture) for name, picture in masked.answer_pictures(now).items()
        }
        shown[self.facts] = layout.facts(masked.facts_of(now, self.count))
        if filling.steps:
            shown[self.course] = layout.figure_html(masked.descent_figure(filling, step))
        return shown
