"""The examples in docstrings."""

import doctest
import importlib

import pytest

import netweight

MODULES = ["netweight", "netweight._tensors", "netweight._verbs", "netweight.numpy"]


@pytest.mark.parametrize("name", [*MODULES, "netweight.torch"])
def test_examples(name):
    if name == "netweight.torch":
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs={"netweight": netweight})
    assert found.failed == 0
    assert found.attempted > 0
