"""Folders that are either whole or not there.

`write_folder` fills a temporary folder beside its target, lists every file with size and sha256 in
`manifest.json`, flushes all to disk and only then renames it. `verify_folder` reads the list back.
A process killed at any moment leaves the old folder or the new one, never a mixture; one killed
between moving the old folder aside and the new one in is repaired when either function looks next.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A folder of saved files that is missing, incomplete or damaged."""


@contextmanager
def write_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving without an error it becomes `target`.

    An existing `target` is replaced. On an error nothing of the target changes.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _recover(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        listed = {file.relative_to(temporary).as_posix(): _describe(file) for file in files}
        write_file(temporary / MANIFEST, json.dumps(listed, indent=1) + "\n")
        for file in files:
            _flush(file)
        _flush(temporary)
        if target.exists():
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            try:
                temporary.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _recover(target: Path) -> None:
    """Bring back a folder whose replacement was killed between its two renames."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)


def write_file(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def verify_folder(folder: Path) -> None:
    """Check every file of a folder against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing or differs.
    """
    folder = Path(folder)
    _recover(folder)
    if not (folder / MANIFEST).exists():
        state = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"{folder}: the folder {state}; give a folder that save() wrote.")
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wanted = {name: (entry["bytes"], entry["sha256"]) for name, entry in listed.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: damaged ({error}); save the model again."
        ) from None
    for name, (size, digest) in wanted.items():
        file = folder / name
        if not file.exists():
            raise CheckpointError(f"{file}: missing though the manifest lists it; save again.")
        found = _describe(file)
        if (found["bytes"], found["sha256"]) != (size, digest):
            raise CheckpointError(
                f"{file}: damaged: {found['bytes']} bytes, sha256 {found['sha256'][:12]}…, where "
                f"the manifest says {size} bytes, {digest[:12]}…; save the model again."
            )


def _describe(file: Path) -> dict[str, object]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
