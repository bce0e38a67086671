"""What both pages have in common; needs Gradio."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import matplotlib
from PIL import Image
from torch import Tensor

from fragrecon.demo.scratch import SCRATCH, environment
from fragrecon.errors import ConfigError, FragreconError
from fragrecon.report.figures import tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCAL = "127.0.0.1"
STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 0.5rem 0 0; }
.note { opacity: 0.65; font-size: 0.85rem; line-height: 1.3; margin: 0; }
.caption b { display: block; }
.place { gap: 6px !important; }
.block.padded:has(.html-container), .html-container { padding: 0 !important; }
.picture { border: none !important; background: none !important; }
.picture .icon-button-wrapper { display: none; }
.picture img { width: 100% !important; height: auto !important; border-radius: 4px; }
.click img { cursor: crosshair; max-width: 512px; }
.strip { min-height: 0 !important; }
.strip .grid-wrap { min-height: 0 !important; max-height: none !important; padding: 8px !important; }
.strip .grid-container { grid-template-columns: repeat(12, minmax(0, 1fr)) !important; }
.strip .grid-container { grid-auto-rows: auto !important; }
.strip .thumbnail-item { aspect-ratio: 1; height: auto !important; }
.strip img { image-rendering: pixelated; }
button { white-space: nowrap; }
.facts { font-size: 1.1rem; display: flex; flex-wrap: wrap; gap: 0 2rem; font-variant-numeric: tabular-nums; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: 10px; }
.figures figure { margin: 0; }
.figures img { width: 100%; border-radius: 4px; display: block; }
.figures figcaption { opacity: 0.65; font-size: 0.8rem; }
#course svg { width: 100%; height: auto; display: block; }
#course text { font-family: inherit !important; }
"""


@contextmanager
def opened(page: gr.Blocks, port: int | None, browser: bool) -> Iterator[str]:
    """Serve a page on this machine for the block; yields its address.

    Raises:
        ConfigError: the port is taken.
    """
    direct = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    try:
        with environment("no_proxy", f"{direct},{LOCAL}"):  # Gradio asks its own server whether it is there
            _, address, _ = page.launch(
                server_name=LOCAL,
                server_port=port,
                inbrowser=browser,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                theme=gr.themes.Base(
                    primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
                css=STYLE,
            )
    except OSError:
        where = "ports 7860 to 7959 are" if port is None else f"demo.port={port} is"
        raise ConfigError(f"{where} taken on {LOCAL}; name a free one: demo.port=PORT") from None
    try:
        yield address
    finally:
        page.close(verbose=False)


def blocks(title: str) -> gr.Blocks:
    return gr.Blocks(title=title, analytics_enabled=False, fill_width=True)


def text(shown: str = "", name: str | None = None) -> gr.HTML:
    return gr.HTML(shown, elem_id=name, padding=False)


def heading(title: str, note: str) -> None:
    text(f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(note)}</p>')


def section(title: str, note: str) -> None:
    text(f'<h2>{html.escape(title)}</h2><p class="note">{html.escape(note)}</p>')


def caption(name: str, note: str) -> None:
    text(f'<div class="caption"><b>{html.escape(name)}</b><span class="note">{html.escape(note)}</span></div>')


def picture(name: str, note: str, *, click: bool = False) -> gr.Image:
    """A place for a picture under its caption."""
    caption(name, note)
    return gr.Image(
        format="png",
        interactive=False,
        show_label=False,
        container=False,
        buttons=[],
        alt_text=name,
        elem_id=name.replace(" ", "-"),
        elem_classes=["picture", *["click"] * click],
    )


def strip(paths: Sequence[Path], name: str, **how: Any) -> gr.Gallery:
    """Small pictures in a row, to be clicked on."""
    return gr.Gallery(
        [str(path) for path in paths],
        columns=12,
        height="auto",
        object_fit="cover",
        show_label=False,
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id=name,
        elem_classes="strip",
        **how,
    )


def figures_html(shown: Mapping[str, Tensor]) -> str:
    """Pictures (3, H, W) uint8 side by side over their captions."""
    parts = []
    for said, picture in shown.items():
        file = io.BytesIO()
        Image.fromarray(picture.movedim(0, -1).contiguous().numpy()).save(file, format="png")
        source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        text = html.escape(said)
        parts.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    return f'<div class="figures">{"".join(parts)}</div>'


def figure_html(figure: Figure) -> str:
    """A figure as SVG, as wide as its place."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters are then the page's own
        figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


def facts(found: Mapping[str, str]) -> str:
    """Figures by name, in a line."""
    parts = [f"<span>{html.escape(name)} <b>{html.escape(value)}</b></span>" for name, value in found.items()]
    return f'<div class="facts">{"".join(parts)}</div>'


def kept(shown: Tensor) -> str:
    """A file of a picture (C, H, W) uint8 in the scratch folder, named by its content.

    Gradio writes a picture anew whenever it is shown again, also while a browser reads it.
    """
    name = hashlib.sha256(shown.contiguous().numpy().tobytes()).hexdigest()
    path = Path(os.environ[SCRATCH]) / f"{name}.png"
    if not path.exists():
        tiles.save(shown, path)
    return str(path)


def told(action: Callable[[], Any]) -> Any:
    """What an action returns; what a user can mend is told on the page."""
    try:
        return action()
    except FragreconError as error:
        raise gr.Error(str(error), print_exception=False) from None
