"""Elements shared by the pages; needs Gradio."""

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
from starlette.middleware import Middleware
from torch import Tensor

from fragrecon.demo.guard import LARGEST, Guard
from fragrecon.demo.temporary import FOLDER, environment
from fragrecon.errors import ConfigError, FragreconError
from fragrecon.report.figures import tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCAL = "127.0.0.1"
STYLE = Path(__file__).with_name("style.css")


@contextmanager
def opened(page: gr.Blocks, port: int | None, browser: bool) -> Iterator[str]:
    """Serve a page on this machine, and only to its own browser, during the block; see `fragrecon.demo.guard`.

    Args:
        page: page to serve.
        port: port to listen on; None for a free one.
        browser: whether to open the page in a browser.

    Yields:
        The address of the page.

    Raises:
        ConfigError: the port is in use.
    """
    direct = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    try:
        with environment("no_proxy", f"{direct},{LOCAL}"):  # Gradio sends a request to its own server
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
                max_file_size=LARGEST,
                app_kwargs={"middleware": [Middleware(Guard)]},
                theme=gr.themes.Base(
                    primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
                css_paths=STYLE,
            )
    except OSError:
        where = "ports 7860 to 7959 are" if port is None else f"demo.port={port} is"
        raise ConfigError(f"{where} in use on {LOCAL}; set a free one: demo.port=PORT") from None
    try:
        yield address
    finally:
        page.close(verbose=False)


def blocks(title: str) -> gr.Blocks:
    """Create an empty page."""
    return gr.Blocks(title=title, analytics_enabled=False, fill_width=True)


def text(shown: str = "", name: str | None = None) -> gr.HTML:
    """Add HTML."""
    return gr.HTML(shown, elem_id=name, padding=False)


def heading(title: str, note: str, level: int = 2) -> None:
    """Add a heading with a note below it."""
    text(f'<h{level}>{html.escape(title)}</h{level}><p class="note">{html.escape(note)}</p>')


def caption(name: str, note: str) -> None:
    """Add a caption."""
    text(f'<div class="caption"><b>{html.escape(name)}</b><span class="note">{html.escape(note)}</span></div>')


def picture(name: str, note: str, *, click: bool = False) -> gr.Image:
    """Add a caption and an image component below it."""
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
    """Add a row of small pictures to click on."""
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
    """Return pictures (3, H, W) uint8 side by side, above their captions, as HTML."""
    parts = []
    for said, picture in shown.items():
        file = io.BytesIO()
        Image.fromarray(picture.movedim(0, -1).contiguous().numpy()).save(file, format="png")
        source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        text = html.escape(said)
        parts.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    return f'<div class="figures">{"".join(parts)}</div>'


def figure_html(figure: Figure) -> str:
    """Return a figure as SVG that fills the available width."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text in the font of the page
        figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


def facts(found: Mapping[str, str]) -> str:
    """Return named values in one line as HTML."""
    parts = [f"<span>{html.escape(name)} <b>{html.escape(value)}</b></span>" for name, value in found.items()]
    return f'<div class="facts">{"".join(parts)}</div>'


def picture_file(shown: Tensor) -> str:
    """Save a picture (C, H, W) uint8 in the temporary folder, named by a hash of its content.

    Otherwise Gradio would rewrite a picture whenever it is shown, even while a browser reads it.
    """
    name = hashlib.sha256(shown.contiguous().numpy().tobytes()).hexdigest()
    path = Path(os.environ[FOLDER]) / f"{name}.png"
    if not path.exists():
        tiles.save(shown, path)
    return str(path)


def checked(action: Callable[[], Any]) -> Any:
    """Call an action; errors that the user can fix are shown on the page."""
    try:
        return action()
    except FragreconError as error:
        raise gr.Error(str(error), print_exception=False) from None
