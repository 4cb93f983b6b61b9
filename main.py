"""``python main.py --work_dir outputs --sequence pretrain,language,probe,action``: another spelling of ``hnet train``.

``--work_dir`` stands for ``--work-dir`` and ``--sequence`` for ``--phases``; all other options are those of
``hnet train``. ``torchrun ... main.py`` and the ``deepspeed`` launcher start it as well; the ``--local_rank`` that the
latter adds is taken from the environment instead.
"""

from __future__ import annotations

import sys

SPELLED = {"--work_dir": "--work-dir", "--sequence": "--phases"}


LAUNCHERS = ("--local_rank", "--local-rank")  # options that a launcher adds; RANK and LOCAL_RANK say the same


def arguments(words: list[str]) -> list[str]:
    """The command line as ``hnet train`` spells it, without what a launcher added."""
    kept, skip = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif name in LAUNCHERS:
            skip = not equals  # its value is the next word
        else:
            kept.append(translated(word))
    return kept


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
    sys.argv = ["hnet", "train", *arguments(sys.argv[1:])]
    run()


if __name__ == "__main__":
    main()
