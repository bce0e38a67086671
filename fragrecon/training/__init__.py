"""Training: everything around Lightning's Trainer.

`learner` is the only LightningModule; `trainer` makes the Trainer with its callbacks and loggers; `schedules` are
learning-rate schedules; `compute` applies precision and compilation; `processes` prepares training on several devices.
A training from top to bottom is `fragrecon.jobs.train`.
"""
