"""Checkpoints and archives that tests share: made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from archives import FAMILIES, archive, checkpoint


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, tmp_path_factory):
    """(architecture, checkpoint, archive) of each family."""
    folder = tmp_path_factory.mktemp(request.param)
    raw = checkpoint(request.param, folder / "raw")
    return request.param, raw, archive(raw, folder / "nw")


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """(checkpoint, archive)"""
    folder = tmp_path_factory.mktemp("llama")
    raw = checkpoint("LlamaForCausalLM", folder / "raw")
    return raw, archive(raw, folder / "nw")
