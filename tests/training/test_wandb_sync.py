"""``wandb sync`` of a run that was resumed offline, by the real client, to a server that keeps what it is sent."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fragrecon.training import loggers
from tests.cli import Cli
from tests.training.test_loggers import KEY, MODEL, home, places, wandb_runs

__all__ = ["home"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Server(ThreadingHTTPServer):
    """The part of a server of Weights & Biases that a run without files needs.

    Attributes:
        history: lines of the history by their number, of each run.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.history: dict[str, dict[int, dict[str, Any]]] = {}

    def data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The answer to a query."""
        project = {"id": "p", "name": "fragrecon", "entity": {"id": "e", "name": "me"}}
        name = str(given.get("name"))
        lines = self.history.get(name, {})
        run: dict[str, Any] = {"id": name, "name": name, "config": "{}", "historyLineCount": len(lines)}
        if query == "UpsertBucket":
            return {"upsertBucket": {"bucket": {**run, "project": project}, "inserted": not lines}}
        if query == "RunResumeStatus":
            tail = json.dumps([json.dumps(lines[max(lines)])]) if lines else "[]"
            run |= {"historyTail": tail, "eventsTail": "[]", "logLineCount": 0, "eventsLineCount": 0}
            run |= {"summaryMetrics": "{}", "tags": [], "wandbConfig": '{"t": 1}'}
            return {"model": {**project, "bucket": run if lines else None}}
        if query == "CreateRunFiles":
            address = f"http://127.0.0.1:{self.server_port}/"
            named = [{"name": file, "uploadUrl": address + file} for file in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": named}}
        return {}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        zipped = self.headers["Content-Encoding"] == "gzip"
        try:
            asked = json.loads(gzip.decompress(content) if zipped else content)
        except ValueError:  # of another protocol, which the client speaks if some packages are imported
            asked = {}
        if stream := re.fullmatch(r"/files/me/fragrecon/(\w+)/file_stream", self.path):
            history = asked.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            kept = self.server.history.setdefault(stream[1], {})
            kept.update(enumerate(map(json.loads, history["content"]), history["offset"]))
            self.answer({})
        else:
            query = re.search(r"(?:query|mutation) (\w+)", asked.get("query", ""))
            self.answer({"data": self.server.data(query[1] if query else "", asked.get("variables") or {})})

    def answer(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_the_parts_of_an_offline_run_that_was_resumed_are_synced_as_one(
    tmp_path: Path, home: Path, server: Server
) -> None:
    (tmp_path / "run").mkdir()
    for part in ([1, 2, 3], [4, 5]):
        logger = loggers.Wandb(tmp_path / "run", MODEL, offline=True)
        with loggers.ending([logger]):
            for step in part:
                logger.log_metrics({"val/loss": step / 8}, step)
        time.sleep(1)  # folders are named by the second
    assert len(wandb_runs(tmp_path / "run")) == 2
    line = [sys.executable, "-m", "wandb", "sync", str(tmp_path / "run" / "wandb")]
    given = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": KEY}
    given |= {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.2", **places(home)}
    environment = Cli(tmp_path, tmp_path).environment(**given)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ((name, lines),) = server.history.items()
    assert name == (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    found = [(lines[number]["trainer/global_step"], lines[number]["val/loss"]) for number in range(len(lines))]
    assert found == [(step, step / 8) for step in range(1, 6)]
    assert [lines[number]["_step"] for number in range(len(lines))] == list(range(5))
