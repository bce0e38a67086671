"""The guard of the demo, in front of an application that answers everything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fragrecon.demo.guard import Guard, Message

OWN = "127.0.0.1:7860"


def answer(
    method: str, headers: list[tuple[str, str]], body: list[bytes] | None = None, kind: str = "http"
) -> tuple[int | None, bool]:
    """The status of the answer to a request, and whether the whole request reached the application."""
    parts, sent, reached = list(body or [b""]), [], []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        reached.append(True)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Message = {
        "type": kind,
        "method": method,
        "server": ("127.0.0.1", 7860),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(Guard(app, largest=100)(scope, receive, send))
    return sent[0].get("status"), bool(reached)


@pytest.mark.parametrize("host", [OWN, "localhost:7860"])
def test_the_own_page_is_answered(host: str) -> None:
    assert answer("GET", [("host", host)]) == (200, True)
    assert answer("POST", [("host", host), ("origin", f"http://{host}")], [b"x" * 50] * 2) == (200, True)


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:7860", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:7860.evil.com", ""]
)
def test_a_name_that_leads_here_is_not_answered(host: str) -> None:
    assert answer("GET", [("host", host)]) == (403, False)
    assert answer("GET", []) == (403, False)
    assert answer("GET", [("host", OWN), ("host", host)]) == (403, False)


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "https://127.0.0.1:7860", "http://localhost:7860", ""])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_another_page_changes_nothing(method: str, origin: str) -> None:
    assert answer(method, [("host", OWN), ("origin", origin)]) == (403, False)
    assert answer(method, [("host", OWN)]) == (403, False)


def test_a_websocket_of_another_page_is_closed() -> None:
    assert answer("GET", [("host", OWN), ("origin", "http://evil.com")], kind="websocket") == (None, False)


def test_a_large_request_is_not_read_to_its_end() -> None:
    own = [("host", OWN), ("origin", f"http://{OWN}")]
    assert answer("POST", [*own, ("content-length", "101")], [b"x"]) == (413, False)
    assert answer("POST", [*own, ("content-length", "9" * 5000)], [b"x"]) == (413, False)
    assert answer("POST", [*own, ("content-length", "-1")], [b"x"]) == (400, False)
    assert answer("POST", own, [b"x" * 50] * 3) == (413, False)  # without a length, in pieces
    assert answer("POST", [*own, ("content-length", "1")], [b"x" * 101]) == (413, False)
