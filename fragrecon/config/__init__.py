"""Configuration: the schema, objects built from it, and configs saved by runs.

`schema` has one typed section per config group; `parse` converts Hydra's result to it and formats errors; `build`
creates the object that ``_target_`` names; `saved` loads, hashes and overrides saved configs. YAML files are in
``conf/``. Only `fragrecon.run` imports Hydra.
"""
