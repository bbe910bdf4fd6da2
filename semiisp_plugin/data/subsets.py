"""Name lists: which 100 and 500 pairs of a training set are used where the paper uses that many.

The paper does not say which. The rule is ours: names are ranked by the SHA-256 of ``<seed>:<name>``, and the first n
are taken. The 100 are therefore among the 500, and neither depends on the order in which names are listed.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

FIVEK_TEST = Path(__file__).with_name("name_lists") / "fivek_test.txt"
"""Zeng's list of the test half of MIT-Adobe FiveK."""

SIZES = (100, 500)
"""Sizes of the subsets."""

SEED = 0
"""Seed of the subsets."""


def rank_names(names: Iterable[str], seed: int | str = SEED) -> list[str]:
    """Sort names by the SHA-256 of ``<seed>:<name>`` (UTF-8, hexadecimal)."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())


def subset(names: Iterable[str], size: int) -> list[str]:
    """The first ``size`` names of `rank_names`, in alphabetical order."""
    return sorted(rank_names(names)[:size])


def read_names(path: str | Path) -> list[str]:
    """Read a list of names, one a line, as BasicSR's ``meta_info_file`` has them: what follows " (" is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, names nothing, or names something twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no list of names '{path}' (absolute: '{path.absolute()}'). Check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no text file; give a list with one name a line.") from error
    lines = unicodedata.normalize("NFC", text).splitlines()  # as keys are (`quote_key`)
    names = [line.partition(" (")[0].strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"'{path}' names nothing; it must have one name a line.")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"'{path}' names '{repeated[0]}' twice ({len(repeated)} such names). List each once.")
    return names


def fivek_split() -> tuple[list[str], list[str]]:
    """Names of Zeng's split of MIT-Adobe FiveK: 4,500 for training and 498, not 500, for testing.

    ``a0160`` and ``a2952`` are in no list of the distribution.
    """
    test = read_names(FIVEK_TEST)
    left_out = {*test, "a0160", "a2952"}
    return [name for number in range(1, 5001) if (name := f"a{number:04d}") not in left_out], sorted(test)
