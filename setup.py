"""An editable install puts the four roots on the path, where every tool finds them, in place of an import hook."""

from pathlib import Path

from setuptools import setup

ROOTS = ("runtime", "export", "calib", "serve")

try:
    from setuptools.command.editable_wheel import _StaticPth, editable_wheel
except ImportError:  # of a setuptools that names it otherwise; its own choice of a strategy runs too, without types
    setup()
else:

    class Editable(editable_wheel):
        """Writes one .pth file that names the four roots."""

        def _select_strategy(self, name, tag, build_lib):
            return _StaticPth(self.distribution, name, [Path(root) for root in ROOTS])

    setup(cmdclass={"editable_wheel": Editable})
