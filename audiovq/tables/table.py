"""A table of codes on disk: a folder of finished parts, to which several processes add."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from audiovq.errors import AudiovqError, unreadable_file_error
from audiovq.io.atomic import FolderInUse, FolderLock, PartialFile, remove_leftover_files
from audiovq.tables.parquet import ParquetFormat
from audiovq.tables.row import StoredRow, TableFormat, TableHeader, TableRow
from audiovq.tables.shards import ShardFormat

PART_CODES = 1 << 21
"""A part is finished once it holds so many codes, about three hours of speech: so much work a kill undoes."""

TABLE_ENDINGS = (ParquetFormat.ending, ShardFormat.ending)
"""Of tables, which are folders, and of their parts."""


def table_format(path: Path) -> TableFormat:
    """The format of a table or part, by its ending. Raises: AudiovqError if pyarrow is missing."""
    return ParquetFormat() if path.suffix == ParquetFormat.ending else ShardFormat()


def find_parts(path: Path) -> list[Path]:
    """The parts of a table, sorted: a part by itself, or those in a folder. Files beside them do not count.

    Raises: AudiovqError if the folder cannot be read.
    """
    if not path.is_dir():
        return [path]
    try:
        names = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable_file_error(path, error) from error
    endings = (path.suffix,) if path.suffix in TABLE_ENDINGS else TABLE_ENDINGS
    return [entry for entry in names if entry.suffix in endings]


def list_rows(path: Path) -> list[tuple[str, Path]]:
    """The ids of a table's rows, in order, each with its part. Raises: AudiovqError if a part is damaged."""
    return [(row_id, part) for part in find_parts(path) for row_id in table_format(part).index(part).ids]


def rows_by_id(part: Path) -> dict[str, StoredRow]:
    """The rows of a part. Raises: AudiovqError if it is damaged."""
    return {str(row.facts["id"]): row for row in table_format(part).rows(part)}


class TableWriter:
    """Adds recordings to a table, part by part; a part that is there is finished.

    Every process of a job has its own parts, so that none waits for another. Use it in `with`: its end writes
    the rest, on Ctrl-C too.

    Args:
        folder: of the table, which is created.
        header: the rows' model and number of levels; parts that are there must have the same.
        rank: of this process in its job; a second job on the same table finds its rank locked.
        part_codes: codes in a part.
        replace: remove the parts that are there.

    Raises: AudiovqError for parts that are damaged or of another model, a folder that cannot be written, or
        one that another job writes to.
    """

    def __init__(
        self,
        folder: Path,
        header: TableHeader,
        *,
        rank: int = 0,
        part_codes: int = PART_CODES,
        replace: bool = False,
    ) -> None:
        self.folder = folder
        self.header = header
        self.rank = rank
        self.part_codes = part_codes
        self.format = table_format(folder)
        self._rows: list[TableRow] = []
        self._codes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AudiovqError(
                f"{folder}: no folder for the parts can be made here ({error.strerror}); name another"
            ) from error
        try:
            self._lock = FolderLock(folder, f".audiovq-{rank}.lock")
        except FolderInUse as error:
            raise AudiovqError(
                f"{folder}: process {error.process} writes to it; wait for its end, or use torchrun"
            ) from None
        try:
            remove_leftover_files(folder)
            if replace:
                self._remove_parts()
            self.finished = self._read_finished()
            """Ids of the recordings in finished parts."""
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.flush()
        finally:
            self._lock.release()

    def add(self, row: TableRow) -> None:
        """Take a recording, and write a part if it is full. Raises: AudiovqError if it cannot be written."""
        self._rows.append(row)
        self._codes += len(row.codes.codes)
        if self._codes >= self.part_codes:
            self.flush()

    def flush(self) -> None:
        """Write what was taken since the last part. Raises: as `add`."""
        if not self._rows:
            return
        with PartialFile(self._next_part()) as file:
            file.write(self.format.pack(self.header, self._rows))
        self._rows.clear()
        self._codes = 0

    def _next_part(self) -> Path:
        """Path behind the last part of this rank."""
        last = max((number for rank, number, _ in self._own_parts() if rank == self.rank), default=-1)
        name = f"{self.format.part_name}-{self.rank:05}-{last + 1:05}{self.format.ending}"
        return self.folder / name

    def _own_parts(self) -> Iterator[tuple[int, int, Path]]:
        """Rank, number and path of the files that are named as parts are."""
        pattern = re.compile(rf"{self.format.part_name}-(\d+)-(\d+){re.escape(self.format.ending)}")
        for path in find_parts(self.folder):
            if found := pattern.fullmatch(path.name):
                yield int(found[1]), int(found[2]), path

    def _remove_parts(self) -> None:
        for _, _, path in list(self._own_parts()):
            path.unlink(missing_ok=True)

    def _read_finished(self) -> frozenset[str]:
        ids: set[str] = set()
        wanted = self.header.format
        for path in find_parts(self.folder):
            index = self.format.index(path)
            found = wanted if index.header is None else index.header.format
            remedy = "use another output folder or --force"
            if found.fingerprint != wanted.fingerprint:
                raise AudiovqError(f"{path}: was made by another model; {remedy}")
            if found.levels != wanted.levels:
                raise AudiovqError(f"{path}: holds {found.levels} levels, not {wanted.levels}; {remedy}")
            ids.update(index.ids)
        return frozenset(ids)
