"""``python main.py --work_dir outputs --sequence pretrain,language,probe,action``: another spelling of ``hnet train``.

``--work_dir`` stands for ``--work-dir``, ``--sequence`` for ``--phases``, and ``--use_deepspeed 1 --deepspeed_config
FILE`` for ``--deepspeed FILE``; all other options are those of ``hnet train``. ``torchrun ... main.py`` and the
``deepspeed`` launcher start it as well; the ``--local_rank`` that the latter adds comes from the environment.
"""

from __future__ import annotations

import sys

SPELLED = {"--work_dir": "--work-dir", "--sequence": "--phases", "--deepspeed_config": "--deepspeed"}
SWITCH = "--use_deepspeed"  # 0 takes --deepspeed_config away; 1 without a file takes the shipped one
SHIPPED = "deepspeed_zero2.json"


LAUNCHERS = ("--local_rank", "--local-rank")  # options that a launcher adds; RANK and LOCAL_RANK say the same


def arguments(words: list[str]) -> list[str]:
    """The command line as ``hnet train`` spells it, without what a launcher added."""
    words, _ = taken_out(words, LAUNCHERS)
    words, switch = taken_out(words, (SWITCH,))
    if switch is None:
        return [translated(word) for word in words]
    if switch not in ("0", "1"):
        print(f"main.py: {SWITCH} {switch}: it is 0 or 1", file=sys.stderr)
        sys.exit(2)
    words, file = taken_out(words, ("--deepspeed_config", "--deepspeed"))
    chosen = ["--deepspeed", file or SHIPPED] if switch == "1" else []
    return [*map(translated, words), *chosen]


def taken_out(words: list[str], names: tuple[str, ...]) -> tuple[list[str], str | None]:
    """The words without an option, written ``--name value`` or ``--name=value``, and the option's last value."""
    kept, value, skip = list[str](), None, False
    for word in words:
        name, equals, after = word.partition("=")
        if skip:
            value, skip = word, False
        elif name in names:
            value, skip = after if equals else None, not equals
        else:
            kept.append(word)
    return kept, value


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
