"""Draw the emoji sheets of the package: one PNG per vendor and one table for both.

    python tools/make_emoji.py                          # fetches both packages, as pinned in tools/npm
    python tools/make_emoji.py GOOGLE TWITTER           # two unpacked packages instead
    python tools/make_emoji.py --out FOLDER ...         # somewhere else than the package's data

Needs Pillow and, without the two folders, npm. A second run changes nothing: the files are the same
byte for byte with the same Pillow (it brings its own zlib). Each sheet is a grid of 64-pixel
tiles, row by row, in the order of `emoji.csv`; tile N of both sheets is the same emoji.
"""
import argparse
import json
import tempfile
from pathlib import Path

from PIL import Image

import npm_packages
from manifest import PICTURES, png, table, write

TILE, COLUMNS = 64, 25
VERSION = "16.0.0"
PACKAGES = dict(google="emoji-datasource-google", twitter="emoji-datasource-twitter")
KINDS = dict(  # our kind -> the subcategories of emoji.json
    animal="animal-mammal animal-bird animal-amphibian animal-reptile animal-marine animal-bug",
    plant="plant-flower plant-other food-fruit food-vegetable",
    meal="food-prepared food-asian food-sweet drink",
    vehicle="transport-ground transport-water transport-air",
    building="place-building place-religious",
    clothing="clothing",
    tool="tool household musical-instrument",
    face="face-smiling face-affection face-tongue face-neutral-skeptical face-sleepy face-unwell"
         " face-concerned",
)
TWEMOJI_NOTICE = """\
emoji_twemoji.png shows drawings of Twemoji (https://github.com/jdecked/twemoji).

Copyright 2020 Twitter, Inc and other contributors
Graphics licensed under CC-BY 4.0: https://creativecommons.org/licenses/by/4.0/

Taken from the npm package emoji-datasource-twitter {version} at 64 pixels.
Changes: {count} drawings were chosen, laid on white and arranged in one sheet.
The licensors do not endorse this project or this use.
"""
NOTO_NOTICE = """\
emoji_noto.png shows drawings of Noto Emoji (https://github.com/googlefonts/noto-emoji),
by Google and other contributors, under the Apache License 2.0 as their package says: see
LICENSE-Apache-2.0.txt. (Newer Noto Emoji carries the SIL Open Font License 1.1, whose text is in
LICENSE-fonts.txt.)

Taken from the npm package emoji-datasource-google {version} at 64 pixels.
Changes: {count} drawings were chosen, laid on white and arranged in one sheet.
"""


def chosen(root):
    "The emoji of our kinds, by kind and then in Unicode's order; joined sequences are left out."
    emoji = json.loads((root / "emoji.json").read_text(encoding="utf-8"))
    usable = [e for e in emoji if e["has_img_google"] and e["has_img_twitter"]
              and "200D" not in e["unified"]]
    for kind, names in KINDS.items():
        members = [e for e in usable if e["subcategory"] in names.split()]
        for e in sorted(members, key=lambda e: e["sort_order"]):
            yield kind, e["name"].lower(), e["unified"], e["image"]


def sheet(root, vendor, images):
    "One RGB picture with every drawing of `images` on white."
    rows = -(-len(images) // COLUMNS)
    result = Image.new("RGB", (COLUMNS * TILE, rows * TILE), "white")
    drawings = []
    for i, name in enumerate(images):
        tile = Image.open(root / "img" / vendor / "64" / name).convert("RGBA")
        assert tile.size == (TILE, TILE), f"{name} has {tile.size}, not {TILE} x {TILE}"
        white = Image.new("RGBA", tile.size, "white")
        drawings.append(Image.alpha_composite(white, tile).convert("RGB"))
        result.paste(drawings[-1], (i % COLUMNS * TILE, i // COLUMNS * TILE))
    same = len(drawings) - len({d.tobytes() for d in drawings})
    assert same == 0, f"{same} drawings of {vendor} occur twice"
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("roots", nargs="*", type=Path, help="unpacked google and twitter package")
    parser.add_argument("--out", type=Path, default=PICTURES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if not options.roots:
            npm_packages.install(Path(temporary))
        google, twitter = options.roots or [Path(temporary) / "node_modules" / package for package in PACKAGES.values()]
        rows = list(chosen(google))
        images = [row[3] for row in rows]
        assert rows == list(chosen(twitter)), "the two packages list different emoji"
        noto, twemoji = sheet(google, "google", images), sheet(twitter, "twitter", images)
        assert noto.tobytes() != twemoji.tobytes()
        data_licence = (google / "LICENSE").read_bytes()
    npm = "npm " + PACKAGES["google"], VERSION
    facts = dict(version=VERSION, count=len(rows))
    write(options.out, {
        "emoji_noto.png": (png(noto), *npm, "Apache-2.0"),
        "emoji_twemoji.png": (png(twemoji), "npm " + PACKAGES["twitter"], VERSION, "CC-BY-4.0"),
        "emoji.csv": (table(["tile", "kind", "name", "codepoint"],
                            [(i, *row[:3]) for i, row in enumerate(rows)]), *npm, "MIT"),
        "LICENSE-noto-emoji.txt": (NOTO_NOTICE.format(**facts).encode(), *npm, "Apache-2.0"),
        "LICENSE-twemoji.txt": (TWEMOJI_NOTICE.format(**facts).encode(),
                                "npm " + PACKAGES["twitter"], VERSION, "CC-BY-4.0"),
        "LICENSE-emoji-data.txt": (data_licence, *npm, "MIT"),
    })
    print({kind: sum(row[0] == kind for row in rows) for kind in KINDS})


if __name__ == "__main__":
    main()
