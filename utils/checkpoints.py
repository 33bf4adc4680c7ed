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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
TENSORS, STATE = "tensors.safetensors", "state.json"


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


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, object],
    *,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Args:
        folder: holds one folder a checkpoint, `step-00000120`.
        tensors: stored as safetensors.
        state: stored as JSON; floats come back as they were.

    Raises:
        CheckpointError: the disk has no room for it; nothing was written.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    need = sum(tensor.nbytes for tensor in tensors.values()) + 2**20
    free = shutil.disk_usage(folder).free
    if free < need:
        raise CheckpointError(
            f"{folder}: a checkpoint needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. "
            "Make room, or give a folder on another disk."
        )
    target = folder / f"step-{step:08d}"
    with write_folder(target) as new:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, new / TENSORS)
        (new / STATE).write_text(json.dumps(state), encoding="utf-8")
    verify_folder(target)
    for old in checkpoint_folders(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(
    folder: Path, report: Callable[[str], None]
) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Tensors and state of the newest whole checkpoint, passing over damaged ones aloud."""
    from safetensors.torch import load_file

    for found in reversed(checkpoint_folders(folder)):
        try:
            verify_folder(found)
        except CheckpointError as error:
            report(f"passed over a damaged checkpoint: {error}")
            continue
        return load_file(found / TENSORS), json.loads((found / STATE).read_text(encoding="utf-8"))
    return None


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in Path(folder).glob("step-*") if path.is_dir())
