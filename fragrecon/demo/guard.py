"""Requests that the server of ``mode=demo`` refuses: those of other web pages, and those that are too large."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST = 100 * 2**20
"""Maximum size of a request in bytes, with all of its uploads."""


class TooLargeError(Exception):
    """A request that sends more than `LARGEST`."""


class Guard:
    """ASGI middleware that answers only this machine's browser, on the page itself.

    The ``Host`` of a request must be the server's own address, as a name of another site may lead to this machine; and
    a request that may change anything must have an ``Origin``, which is that address. A request may have `LARGEST`
    bytes.

    Args:
        app: application to guard.
        largest: maximum size of a request in bytes.
    """

    def __init__(self, app: App, largest: int = LARGEST) -> None:
        self.app, self.largest = app, largest

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        names = [name for name, _ in scope["headers"]]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        hosts = [f"{name}:{scope['server'][1]}" for name in ("127.0.0.1", "localhost")]
        is_safe = scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")
        if names.count(b"host") != 1 or headers[b"host"] not in hosts:
            await _refuse(send, scope, 403, "this server answers requests to its own address only")
        elif not is_safe and headers.get(b"origin") != f"http://{headers[b'host']}":
            await _refuse(send, scope, 403, "this server answers requests of its own page only")
        elif not headers.get(b"content-length", "0").isdecimal():
            await _refuse(send, scope, 400, "the length of the request is not a number")
        elif int(headers.get(b"content-length", "0")[:20]) > self.largest:
            await _refuse(send, scope, 413, f"a request may have up to {self.largest:,} bytes")
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request whose body is counted while it arrives, as it need not state its length."""
        received, has_begun = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.largest:
                raise TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except TooLargeError:
            if not has_begun:
                await _refuse(send, scope, 413, f"a request may have up to {self.largest:,} bytes")


async def _refuse(send: Send, scope: Message, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
