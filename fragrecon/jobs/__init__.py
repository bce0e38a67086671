"""One module a mode. A job takes a config and a record; it knows nothing of the command line."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, nearest
from fragrecon.runs.write import Record


def run(config: Config, record: Record, overrides: list[str]) -> dict[str, Any] | None:
    """Do the job that ``config.mode`` names, and note in its record how it ended."""
    record.start(config, overrides)
    try:
        modes = [module.name for module in pkgutil.iter_modules(__path__)]
        if config.mode not in modes:
            raise ConfigError(f"mode='{config.mode}' is not known{nearest(config.mode, modes)}")
        metrics: dict[str, Any] | None = importlib.import_module(f"{__name__}.{config.mode}").main(config, record)
    except Exception as error:
        record.fail(error)
        raise
    record.finish()
    return metrics
