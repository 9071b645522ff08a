"""Where the rows of a file come from: the manifest that its builder wrote beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grlo.prompts.rows import file_sha256

MANIFEST = "manifest.json"


def data_records(sources: Iterable[str]) -> list[dict[str, Any]]:
    """What is recorded of each local file that has a manifest beside it.

    A record has `file`, `sha256` of the file, `manifest_sha256`, `made_by`, `rows`, and `matches`:
    whether the file is still the one that the manifest describes. Other sources have none.

    Args:
        sources: Files or hub data sets.
    """
    return [record for source in sources if (record := _record(Path(source))) is not None]


def _record(file: Path) -> dict[str, Any] | None:
    manifest = file.parent / MANIFEST
    if not (file.is_file() and manifest.is_file()):
        return None
    data = manifest.read_bytes()
    try:
        content = json.loads(data)
        result = content["result"]
        described, rows, made_by = result["file"], result["rows"], content["made_by"]
        expected = result["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # Somebody else's manifest.
    if described != file.name:
        return None
    digest = file_sha256(file)
    return {
        "file": str(file),
        "sha256": digest,
        "manifest_sha256": hashlib.sha256(data).hexdigest(),
        "made_by": str(made_by),
        "rows": rows,
        "matches": digest == expected,
    }


def in_words(record: dict[str, Any]) -> str:
    """A record as a line."""
    line = (
        f"{Path(record['file']).name}: {record['rows']} rows, {record['made_by']}, manifest "
        f"{record['manifest_sha256'][:16]}"
    )
    if not record["matches"]:
        line += "; the file was changed since: it is not the one that the manifest describes"
    return line
