"""Checkpoints: whole or not there, and every damaged byte is noticed."""

import json
import signal
import subprocess
import sys
import time

import pytest

from utils.checkpoints import MANIFEST, CheckpointError, verify_folder, write_file, write_folder


@pytest.fixture
def saved(tmp_path):
    """A folder `model` that holds `a.txt`, `deep/b.bin` and the manifest."""
    folder = tmp_path / "model"
    with write_folder(folder) as new:
        (new / "a.txt").write_text("alpha")
        (new / "deep").mkdir()
        (new / "deep" / "b.bin").write_bytes(bytes(range(256)))
    return folder


def names(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def test_manifest_lists_size_and_sha256_of_every_file(saved):
    assert json.loads((saved / MANIFEST).read_text()) == {
        "a.txt": {
            "bytes": 5,
            "sha256": "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
        },
        "deep/b.bin": {
            "bytes": 256,
            "sha256": "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880",
        },
    }
    assert verify_folder(saved) is None


def test_an_existing_folder_is_replaced_whole(saved, tmp_path):
    with write_folder(saved) as new:
        (new / "c.txt").write_text("gamma")
    assert names(saved) == ["c.txt", MANIFEST]
    assert names(tmp_path) == ["model", "model/c.txt", f"model/{MANIFEST}"]


def test_an_error_while_writing_leaves_the_old_folder_and_nothing_else(saved, tmp_path):
    before = names(tmp_path)

    def write():
        with write_folder(saved) as new:
            (new / "a.txt").write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write()
    assert names(tmp_path) == before
    assert (saved / "a.txt").read_text() == "alpha"
    verify_folder(saved)


def test_an_error_while_writing_a_new_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), write_folder(tmp_path / "new" / "model"):
        raise RuntimeError
    assert names(tmp_path) == ["new"]


def test_a_killed_writer_leaves_the_old_folder(saved, tmp_path):
    code = (
        "import sys, time\n"
        "from utils.checkpoints import write_folder\n"
        "with write_folder(sys.argv[1]) as new:\n"
        "    (new / 'a.txt').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(saved)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(timeout=10) == -signal.SIGKILL
    assert (saved / "a.txt").read_text() == "alpha"
    verify_folder(saved)
    with write_folder(saved) as new:  # what the killed writer left behind is not in the way
        (new / "a.txt").write_text("second try")
    verify_folder(saved)
    assert (saved / "a.txt").read_text() == "second try"


def test_the_folder_can_be_read_by_others(saved):
    assert saved.stat().st_mode & 0o777 == 0o755


def damage(change):
    def apply(folder):
        file = folder / "deep" / "b.bin"
        file.write_bytes(change(file.read_bytes()))

    return apply


@pytest.mark.parametrize(
    "harm",
    [
        damage(lambda content: content[:-1]),
        damage(lambda content: content + b"\0"),
        damage(lambda content: bytes([content[0] ^ 1]) + content[1:]),
        damage(lambda content: b""),
    ],
    ids=["truncated", "a byte more", "one bit flipped", "emptied"],
)
def test_a_changed_file_is_found_and_named(saved, harm):
    harm(saved)
    with pytest.raises(CheckpointError, match=r"deep/b\.bin: damaged: .* the manifest says 256"):
        verify_folder(saved)


def test_a_missing_file_is_found_and_named(saved):
    (saved / "a.txt").unlink()
    with pytest.raises(CheckpointError, match=r"a\.txt: missing"):
        verify_folder(saved)


@pytest.mark.parametrize("content", ["{", "[]", '{"a.txt": 5}', '{"a.txt": {"bytes": 5}}', "\xff"])
def test_a_damaged_manifest_is_found(saved, content):
    (saved / MANIFEST).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        verify_folder(saved)


def test_a_folder_without_a_manifest_or_none_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        verify_folder(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        verify_folder(tmp_path / "nowhere")


def test_write_file_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "a.json"
    write_file(path, "one")
    write_file(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert names(tmp_path / "deep") == ["er", "er/a.json"]


def test_write_file_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_file(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "new \ud800")  # a lone surrogate is not UTF-8
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_reader_never_sees_a_part_of_a_file(tmp_path):
    path = tmp_path / "a.txt"
    write_file(path, "x" * 200_000)
    code = (
        "import sys, itertools\n"
        "from utils.checkpoints import write_file\n"
        "print('go', flush=True)\n"
        "for letter in itertools.cycle('yx'):\n"
        "    write_file(sys.argv[1], letter * 200_000)\n"
    )
    seen = set()
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "go\n"
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            text = path.read_text()
            seen.add((text[:1], len(text), len(set(text))))
        writer.kill()
    assert seen == {("x", 200_000, 1), ("y", 200_000, 1)}


def test_a_replacement_killed_between_its_renames_is_repaired(tmp_path):
    target = tmp_path / "model"
    with write_folder(target) as new:
        (new / "weights").write_text("old", encoding="utf-8")
    target.rename(tmp_path / ".model.old")  # what a process killed there leaves behind
    verify_folder(target)
    assert (target / "weights").read_text(encoding="utf-8") == "old"
