"""A report as Parquet, a group of rows at a time: amounts as decimals of eight places, times in UTC.

Needs the extra `parquet` of the server's distribution, which an installation may do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faucet.kit.errors import Refusal
from faucet.reports.exports import Export, Row

GROUP_ROWS = 50_000
_DIGITS, _PLACES = 19, 8


class _Drain:
    """Where the writer writes: what has come since it was last emptied."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def empty(self) -> bytes:
        """What has come."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class ParquetFile:
    """Makes the bytes of one file. Raises Refusal `invalid_request` where the extra is not installed."""

    def __init__(self, export: Export) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise Refusal(
                "invalid_request", "this server writes no Parquet: its extra `parquet` is not installed", param="format"
            ) from None
        self._arrow = pyarrow
        kinds = {
            "time": pyarrow.timestamp("us", tz="UTC"),
            "text": pyarrow.string(),
            "count": pyarrow.int64(),
            "money": pyarrow.decimal128(_DIGITS, _PLACES),
        }
        self._schema = pyarrow.schema([(column.name, kinds[column.kind]) for column in export.columns])
        self._kinds = [column.kind for column in export.columns]
        self._drain = _Drain()
        self._writer = pyarrow.parquet.ParquetWriter(self._drain, self._schema)
        self._rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> bytes:
        """Take rows; the bytes that are ready, if a group is full."""
        self._rows += rows
        if len(self._rows) >= GROUP_ROWS:
            self._write()
        return self._drain.empty()

    def end(self) -> bytes:
        """The rest of the file."""
        if self._rows:
            self._write()
        self._writer.close()
        return self._drain.empty()

    def _write(self) -> None:
        columns = list(zip(*self._rows, strict=True))
        self._rows = []
        arrays = [
            self._amounts(values) if kind == "money" else self._arrow.array(values, type=field.type)
            for kind, values, field in zip(self._kinds, columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema), row_group_size=GROUP_ROWS)

    def _amounts(self, values: Sequence[int]) -> Any:
        """Integers of e8 as decimals: the same bits, with eight of their digits behind the point."""
        whole = self._arrow.array(values, type=self._arrow.int64()).cast(self._arrow.decimal128(_DIGITS, 0))
        return self._arrow.Array.from_buffers(self._arrow.decimal128(_DIGITS, _PLACES), len(values), whole.buffers())
