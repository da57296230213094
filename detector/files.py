"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file through a temporary one beside it, so that no reader ever sees half of it.

    Raises:
        OSError: if the folder cannot be written or the disk is full; the old file is then untouched.
    """
    partial = path.with_name(f".{path.name}.part")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, whole."""
    write_whole(path, json.dumps(value, indent=1) + "\n")
