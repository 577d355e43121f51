"""The errors of one job file, gathered, so that a person can fix them all at once. No I/O."""

from collections.abc import Iterable

from scheduler.errors import FileError
from scheduler.jobs.document import Path

SHOWN = 20  # errors of one file; a file with more is probably none


class FileErrors(FileError):
    """Several errors of one file. As a FileError it is the first; `errors` has all of them."""

    def __init__(self, errors: list[FileError]) -> None:
        first = errors[0]
        super().__init__(first.reason, file=first.file, line=first.line, field=first.field, hint=first.hint)
        self.errors = tuple(errors)


class Problems:
    """Collects what is wrong, each at its place: a line of the file, or the override that said it."""

    def __init__(self, file: str, lines: dict[Path, int], overrides: dict[Path, str]) -> None:
        self.file = file
        self.lines = lines
        self.overrides = overrides
        self.errors: list[FileError] = []
        self.sections: set[str | int] = set()

    def add(self, path: Path, reason: str, hint: str | None = None) -> None:
        self.sections.update(path[:1])
        override = next((self.overrides[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.overrides), None)
        if override is None and path not in self.lines:  # a key that an override has made on its way down
            override = next((option for place, option in self.overrides.items() if place[: len(path)] == path), None)
        if override is not None:
            self.errors.append(FileError(reason, file=override, hint=hint))
            return
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        field = ".".join(map(str, path)) or None
        self.errors.append(FileError(reason, file=self.file, line=line, field=field, hint=hint))

    @property
    def are_many(self) -> bool:
        """Whether there are so many errors that suggesting corrections is not worth the time any more."""
        return len(self.errors) > 10 * SHOWN

    def gives(self, section: str) -> bool:
        """Whether the person wrote anything under this section, in the file or as an override."""
        return any(path[:1] == (section,) and len(path) > 1 for path in (*self.lines, *self.overrides))

    def touched(self, *sections: Path) -> bool:
        """Whether something is wrong in one of these sections already."""
        return any(section[0] in self.sections for section in sections)

    def raise_any(self) -> None:
        """Raise what was gathered, in the order of the file; return if there is nothing."""
        if self.errors:
            self.errors.sort(key=lambda error: error.line or 0)
            if (more := len(self.errors) - SHOWN) > 1:
                hint = "is this a job file? mmq init writes one to start from"
                self.errors[SHOWN:] = [FileError(f"has {more} more errors", file=self.file, hint=hint)]
            raise self.errors[0] if len(self.errors) == 1 else FileErrors(self.errors)


def likely(word: object, known: Iterable[str]) -> str | None:
    """A hint naming the known word that this one may be a misspelling of."""
    import difflib  # only a file with errors pays for it

    choices = list(known)
    matches = difflib.get_close_matches(str(word)[:80].lower(), choices, n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else None


def shown(value: object) -> str:
    """A value as a person wrote it, cut short."""
    words = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, dict):
        return "a group of keys"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
