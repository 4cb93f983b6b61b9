"""``python -m cli`` is the same as ``hnet``. torchrun starts it this way: ``torchrun ... -m cli train ...``."""

from cli.main import run

run()
