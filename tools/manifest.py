"""What the two picture scripts share: write files, and keep `manifest.csv` in step with them.

Every file of `ft_tutorial/data/pictures/` has one row: file, source, version, licence, sha256.
The package refuses a picture file whose checksum differs from its row.
"""
import csv
import hashlib
import io
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[1] / "ft_tutorial" / "data" / "pictures"
COLUMNS = ["file", "source", "version", "licence", "sha256"]


def table(columns, rows):
    "The bytes of a CSV file: UTF-8, one `\\n` a line, on every system."
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue().encode("utf-8")


def png(image):
    "The bytes of `image` as a PNG file, as small as Pillow makes it."
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def write(folder, files):
    "Write `files` (name -> (bytes, source, version, licence)) into `folder` and update its manifest."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    if (folder / "manifest.csv").exists():
        with open(folder / "manifest.csv", encoding="utf-8", newline="") as f:
            rows = {row["file"]: [row[c] for c in COLUMNS] for row in csv.DictReader(f)}
    for name, (data, source, version, licence) in files.items():
        digest = hashlib.sha256(data).hexdigest()
        changed = not (folder / name).exists() or (folder / name).read_bytes() != data
        (folder / name).write_bytes(data)
        rows[name] = [name, source, version, licence, digest]
        print(f"{'written  ' if changed else 'unchanged'}  {len(data):>9,} bytes  {name}")
    (folder / "manifest.csv").write_bytes(table(COLUMNS, [rows[name] for name in sorted(rows)]))
