"""Where the keys of an option file stand: files, lines, the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from semiisp_plugin.io.files import printable
from semiisp_plugin.options.messages import OptionError

Keys = tuple[str, ...]


class Source:
    """Where the keys of an option file stand, for messages.

    Args:
        path: The file's path as the user gave it.
        places: Place of each key, by its path of keys: a line (from 1) of that file, or words such as ``base.yml:3``
            and ``--force_yml train:total_iter``.

    Attributes:
        warnings: What `warn` was told, for the log of the run.
    """

    def __init__(self, path: str, places: Mapping[Keys, int | str] | None = None) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._places = {
            keys: place if isinstance(place, str) else f"{path}:{place}" for keys, place in (places or {}).items()
        }

    def where(self, keys: Sequence[str]) -> str:
        """The place of a key: its own, or that of the section it is, or should be, in."""
        keys = tuple(keys)
        for n in range(len(keys), 0, -1):
            if keys[:n] in self._places:
                return self._places[keys[:n]]
        return self.path

    def below(self, *keys: str) -> Source:
        """The source of a section: keys are those below it."""
        places = {k[len(keys) :]: place for k, place in self._places.items() if k[: len(keys)] == keys and k != keys}
        return Source(self.where(keys), places)

    def overridden(self, keys: Keys) -> None:
        """Note that ``--force_yml`` has set the key; where it and what is below stood does not matter any more."""
        self._places = {k: place for k, place in self._places.items() if k[: len(keys)] != keys}
        self._places[keys] = f"--force_yml {':'.join(keys)}"

    def fail(self, keys: Sequence[str], message: str) -> NoReturn:
        """Raise an `OptionError` for the key at ``keys``."""
        raise OptionError(self._sentence(keys, message))

    def warn(self, keys: Sequence[str], message: str) -> None:
        """Note a warning for the key at ``keys``."""
        self.warnings.append(printable(self._sentence(keys, message)))

    def _sentence(self, keys: Sequence[str], message: str) -> str:
        where, key = self.where(keys), ":".join(map(str, keys))
        if not key or where == f"--force_yml {key}":
            return f"{where}: {message}"
        return f"{where}: {key}: {message}"
