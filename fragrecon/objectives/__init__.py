"""Objectives: what a model is trained for; one module each, and a file each in ``conf/objective/``.

The contract is `fragrecon.objectives.base.Objective`. The losses themselves are pure functions of tensors.
"""
