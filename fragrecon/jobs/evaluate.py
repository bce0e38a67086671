"""``mode=evaluate``: score a checkpoint of a finished run, by default the best, again, into a new record."""

from __future__ import annotations

import logging
from typing import Any

from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError
from fragrecon.evaluation.setup import READER_KEYS, open_data
from fragrecon.evaluation.suite import check_data
from fragrecon.progress import Stopwatch
from fragrecon.report.results import open_model, score
from fragrecon.runs.read import Run, run_of
from fragrecon.runs.write import Record

log = logging.getLogger(__name__)


def main(config: Config, record: Record) -> dict[str, Any]:
    """Score the model of ``config.run``.

    Args:
        config: job config.
        record: record to write.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ConfigError: ``run`` is not set, there is nothing to score, or the model does not fit the config's fragments.
    """
    if not config.evaluation.puzzles:
        raise ConfigError("evaluation.puzzles=0 leaves nothing to score; set it to 1 or more")
    watch = Stopwatch()
    with watch.part("data"):
        data = open_data(config)
        run = run_of(config)
        checkpoint = run.checkpoint
        model = open_model(config, run, checkpoint)
        check_data(config, data)
        data.warn_if_lossy()
        warn_if_changed(config, run, data)
    record.enter("evaluation")
    log.info("scoring %s", checkpoint)
    return score(config, model, run, data, record, watch)


def warn_if_changed(config: Config, run: Run, data: FragmentData) -> None:
    """Warn if the files of the test images have changed since the run was scored, although its settings have not."""
    same = all(getattr(config.data, key) == getattr(run.config.data, key) for key in ("name", "reader", *READER_KEYS))
    if same and run.is_scored and run.metrics["data"]["source"] != data.store("test").manifest.source:
        log.warning(
            "the files of the test images in %s have changed since %s was scored; its scores are of other images",
            config.data.root or config.data.name,
            run.folder,
        )
