"""Models: one module each; ``conf/model/`` has a file for each.

The contract is `fragrecon.models.base.FragmentModel`. `blocks` and `patches` hold layers that several models share.
Losses belong to `fragrecon.objectives`.
"""
