"""The examples in the docstrings of the pure functions run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fragrecon.clustering
import fragrecon.objectives
import fragrecon.reassembly

MODULES = [
    *(
        f"fragrecon.{name}"
        for name in ("seams", "seeds", "data.adjacency", "data.puzzles", "evaluation.matching", "models.encoder")
    ),
    *(
        module.name
        for package in (fragrecon.clustering, fragrecon.objectives, fragrecon.reassembly)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
