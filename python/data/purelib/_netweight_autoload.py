"""Registers netweight with transformers as soon as that is imported; nothing before. NETWEIGHT_AUTOLOAD=0 turns it off.

Python runs this at every start, through `netweight.pth`: so nothing but `sys` and `os` is imported before.
"""

import os
import sys

WATCHED = "transformers.quantizers.auto"


class Watcher:
    """The first finder of modules: lets the others find the watched one, and registers netweight when it has run."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != WATCHED:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = Then(spec.loader)
        return spec


class Then:
    """A loader that does what another does, and registers netweight afterwards."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        register()


def register():
    """Enters the method into the watched module's tables; an error must not break who imports transformers."""
    try:
        import netweight.transformers  # noqa: F401
    except Exception as error:
        import warnings

        warnings.warn(f"netweight cannot serve this transformers, archives will not load: {error!r}", stacklevel=2)


def install():
    if os.environ.get("NETWEIGHT_AUTOLOAD") != "0" and WATCHED not in sys.modules:
        sys.meta_path.insert(0, Watcher)


install()
