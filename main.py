"""``python main.py --work_dir outputs --sequence pretrain,language,probe,action``: another spelling of ``hnet train``.

``--work_dir`` stands for ``--work-dir`` and ``--sequence`` for ``--phases``; all other options are those of
``hnet train``.
"""

from __future__ import annotations

import sys

SPELLED = {"--work_dir": "--work-dir", "--sequence": "--phases"}


def translated(word: str) -> str:
    """One word of the command line as ``hnet train`` spells it: ``--work_dir=x`` becomes ``--work-dir=x``."""
    name, equals, value = word.partition("=")
    return SPELLED.get(name, name) + equals + value


def main() -> None:
    """Train. Exit status 2, with one line, for what the user can put right."""
    try:
        from cli.main import run
    except ModuleNotFoundError as error:
        print(f"main.py: {error.name} is not installed; give: pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)
    sys.argv = ["hnet", "train", *map(translated, sys.argv[1:])]
    run()


if __name__ == "__main__":
    main()
