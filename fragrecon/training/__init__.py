"""Training: everything around Lightning's Trainer.

`learner` is the only LightningModule; `trainer` builds the Trainer with its callbacks and loggers; `schedules` are
learning-rate schedules; `compute` applies precision and compilation; `processes` prepares training on several devices.
The whole training job is `fragrecon.jobs.train`.
"""
