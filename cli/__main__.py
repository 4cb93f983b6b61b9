"""``python -m cli`` is the same as ``hnet``; torchrun and deepspeed start it this way."""

from cli.main import run

run()
