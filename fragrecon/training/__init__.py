"""Training: the LightningModule, callbacks, loggers, schedules and compute settings."""
