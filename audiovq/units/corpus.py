"""The codes of many recordings, read one at a time: a folder of code files, a table, or a single file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from audiovq.batch import targets
from audiovq.errors import AudiovqError
from audiovq.io.folder import paths_below
from audiovq.io.stages import report_stage
from audiovq.speech.codes import CodeFormat, CodeSequence
from audiovq.tables.row import StoredRow
from audiovq.tables.table import TABLE_ENDINGS, list_rows, rows_by_id
from audiovq.units.runs import CodeRuns, find_runs

CODE_ENDINGS = (".npy", ".avq")
"""Of code files."""


class CorpusItem(NamedTuple):
    """A recording of a corpus."""

    number: int  # its place in the corpus
    name: str  # its path in the corpus without the ending, or the row's id
    codes: CodeSequence  # completed by the facts of the model
    runs: CodeRuns  # of the level of the corpus


class UnitCorpus:
    """The recordings of a corpus. Iterating reads one after another; nothing but their names is kept.

    Args:
        path: a folder with code files (`.npy`, `.avq`) at any depth, a table or a part of one (`.parquet`,
            `.tar`), or a code file.
        model: the model that made the codes.
        load: gives the codes of a file, such as `Tokenizer.load_codes`.
        level: the level, from 1, whose runs each item has.
        on_error: called with the error of a recording that cannot be used, which is then left out, now and
            whenever the corpus is read again; None: the error is raised.

    Raises: AudiovqError if there are no codes, or the folder or table cannot be read.
    """

    def __init__(
        self,
        path: Path,
        model: CodeFormat,
        load: Callable[[Path], CodeSequence],
        *,
        level: int = 1,
        on_error: Callable[[AudiovqError], None] | None = None,
    ) -> None:
        if not 1 <= level <= model.levels:
            raise AudiovqError(f"level {level}: the model has {model.levels}; ask for 1 to {model.levels}")
        self.path = path
        self.model = model
        self.level = level
        self.failed: dict[int, AudiovqError] = {}
        """Errors of the recordings left out, by number."""
        self._load = load
        self._on_error = on_error
        self._is_table = path.suffix in TABLE_ENDINGS
        self._part: tuple[Path, dict[str, StoredRow] | AudiovqError] | None = None
        self._reported: AudiovqError | None = None
        self.names, self._files = self._list_table() if self._is_table else self._list_files()
        if not self.names:
            raise AudiovqError(
                f"{path}: holds no codes ({', '.join((*CODE_ENDINGS, *TABLE_ENDINGS))}); check it"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[CorpusItem]:
        """The recordings that can be used, in order. Raises: AudiovqError as `read`, without `on_error`."""
        for number in range(len(self)):
            if number in self.failed:
                continue
            try:
                item = self.read(number)
            except AudiovqError as error:
                if self._on_error is None:
                    raise
                # A damaged part of a table fails all its rows with the same error, reported once.
                is_new = error is not self._reported
                self._reported = error
                self.failed[number] = error
                if is_new:
                    self._on_error(error)
                continue
            yield item
            report_stage("reading codes", number + 1, len(self))

    def read(self, number: int) -> CorpusItem:
        """One recording.

        Raises: AudiovqError if it cannot be read, is of another model, or lacks the level.
        """
        name = self.names[number]
        file = self._files[number]
        codes = self._row(file, name).build(self.model) if self._is_table else self._load(file)
        codes = codes.for_model(self.model)
        return CorpusItem(number, name, codes, find_runs(codes, self.level))

    def file(self, number: int) -> Path:
        """Where a recording lies: a code file, or in a part of a table the path that its id makes there."""
        return self._files[number] / self.names[number] if self._is_table else self._files[number]

    def _list_files(self) -> tuple[list[str], list[Path]]:
        if not self.path.is_dir():
            if self.path.suffix not in CODE_ENDINGS:
                raise AudiovqError(
                    f"{self.path}: is no code file ({', '.join(CODE_ENDINGS)}), folder of them, or table "
                    f"({', '.join(TABLE_ENDINGS)}); check the path"
                )
            return [self.path.stem], [self.path]
        inside = [path.relative_to(self.path) for path in paths_below(self.path)]
        found = [
            path
            for path in inside
            if path.suffix in CODE_ENDINGS and not any(part.startswith(".") for part in path.parts)
        ]
        return [name.as_posix() for name in targets(found, "")], [self.path / path for path in found]

    def _list_table(self) -> tuple[list[str], list[Path]]:
        found = list_rows(self.path)
        return [row for row, _ in found], [part for _, part in found]

    def _row(self, part: Path, name: str) -> StoredRow:
        # Rows are read in the order of their parts, so that the last part is enough.
        if self._part is None or self._part[0] != part:
            try:
                self._part = (part, rows_by_id(part))
            except AudiovqError as error:
                self._part = (part, error)
        rows = self._part[1]
        if isinstance(rows, AudiovqError):
            raise rows
        return rows[name]
