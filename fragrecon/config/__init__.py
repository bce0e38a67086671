"""Configuration: the schema, objects built from it, and configs saved by runs.

`schema` has one typed section a config group; `parse` turns Hydra's result into it and words the errors; `build` makes
an object of a ``_target_``; `saved` loads, hashes and overrides the configs of runs. YAML files are in ``conf/``. Only
`fragrecon.run` imports Hydra.
"""
