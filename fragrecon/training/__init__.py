"""Training: everything around Lightning's Trainer.

`learner` is the only LightningModule; `trainer` builds the Trainer with its callbacks and loggers; `schedules` are
learning-rate schedules; `compute` applies memory format, gradient checkpointing and compilation; `processes` prepares
training on several devices; `workload` measures time and memory for ``mode=bench``. The whole training job is
`fragrecon.jobs.train`.
"""
