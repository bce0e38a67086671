"""``mode=evaluate``: score a checkpoint of a finished run, by default the best, again, into a new record."""

from __future__ import annotations

import logging
from typing import Any

from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError
from fragrecon.evaluation.setup import open_data
from fragrecon.evaluation.suite import check_data
from fragrecon.report.results import open_model, score
from fragrecon.runs.read import run_of
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
    data = open_data(config)
    run = run_of(config)
    checkpoint = run.checkpoint
    model = open_model(config, run, checkpoint)
    check_data(config, data)
    data.warn_if_lossy()
    record.enter("evaluation")
    log.info("scoring %s", checkpoint)
    return score(config, model, run, data, record, {})
