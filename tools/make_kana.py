"""Draw the kana sheet of the package: 92 characters in about 24 free Japanese font families.

    python tools/make_kana.py                   # downloads the Debian packages into a temporary folder
    python tools/make_kana.py --debs FOLDER     # .deb files downloaded before
    python tools/make_kana.py --out FOLDER      # somewhere else than the package's data

Needs Debian 12 (apt-get, dpkg; nothing is installed) and Pillow with fontTools. `kana.png` is a
grid of 32-pixel greyscale tiles, dark ink on white: 46 rows of katakana, then 46 of hiragana
(`kana.csv`), one column per family (`families.csv`). A family without all the characters, or that
repeats another's drawings, is dropped. A second run changes nothing: the same Pillow (it brings
its own FreeType) draws the same bytes.
"""
import argparse
import csv
import re
import subprocess
import tempfile
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from manifest import PICTURES, png, table, write

TILE, INK, BIG = 32, 28, 256  # a tile; the largest character in it; the size drawn at first
ROMAN = ("a i u e o ka ki ku ke ko sa shi su se so ta chi tsu te to na ni nu ne no ha hi fu he ho "
         "ma mi mu me mo ya yu yo ra ri ru re ro wa wo n").split()
HIRAGANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
KATAKANA = "".join(chr(ord(c) + 0x60) for c in HIRAGANA)
FAMILIES = Path(__file__).with_name("kana_families.csv")  # what to draw, and the licence expected
SPELLED = {"Apache-2": "Apache-2.0", "SIL-1.1": "OFL-1.1", "Hanazono-Font-License or "
           "Open-Font-License": "OFL-1.1", "CC-BY-SA-3.0 or OFL-1.1": "OFL-1.1"}


def unpack(rows, debs, root):
    "Unpack every package into `root`, downloading what `debs` lacks; return package -> version."
    versions = {}
    for package in sorted({row["package"] for row in rows}):
        if not list(debs.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True)
        deb, = debs.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", deb, root / package], check=True)
        versions[package] = subprocess.run(["dpkg-deb", "-f", deb, "Version"], check=True,
                                           capture_output=True, text=True).stdout.strip()
    return versions


def rights(root, package):
    "Licence, copyright lines and licence text of the fonts, from the package's copyright file."
    path = root / package / "usr/share/doc" / package / "copyright"
    text = path.read_text(encoding="utf-8")
    stanza = next(s for s in text.split("\n\n") if re.search(r"^Files: (\*|.*\.ttf)", s, re.M))
    licence = re.search(r"^License: (.*)", stanza, re.M)[1].strip()
    holders = re.search(r"^Copyright:((?:.|\n(?= ))*)", stanza, re.M)[1]
    body = {m[1].strip(): re.sub(r"^ ?\.?$|^ ", "", m[2], flags=re.M).strip("\n")
            for m in re.finditer(r"^License: (.*)\n((?: .*\n?)+)", text, re.M)}
    licence_text = next((body[n] for n in (licence, *licence.split(" or ")[::-1]) if n in body), "")
    reserved = re.match(r"\s*Copyright(?:.|\n)*?(?=\n\n|\Z)", licence_text)
    lines = [h.strip() for h in holders.split("\n") if h.strip()]
    lines += [h.strip() for h in reserved[0].split("\n") if reserved and h.strip()] if reserved else []
    return SPELLED.get(licence, licence), lines, licence_text


def draw(path):
    "The 92 tiles of one font, scaled alike; None when it lacks a character."
    known = TTFont(path, fontNumber=0, lazy=True).getBestCmap()
    if any(ord(c) not in known for c in KATAKANA + HIRAGANA):
        return None
    font = ImageFont.truetype(str(path), BIG, layout_engine=ImageFont.Layout.BASIC)
    drawn = []
    for c in KATAKANA + HIRAGANA:
        big = Image.new("L", (3 * BIG, 3 * BIG))
        ImageDraw.Draw(big).text((BIG, BIG), c, fill=255, font=font)
        if not big.getbbox(): return None  # a glyph without ink
        drawn.append(big.crop(big.getbbox()))
    scale = INK / max(side for d in drawn for side in d.size)
    tiles = []
    for d in drawn:
        small = d.resize([max(1, round(side * scale)) for side in d.size], Image.Resampling.BOX)
        tiles.append(Image.new("L", (TILE, TILE), 255))
        tiles[-1].paste(ImageChops.invert(small), [(TILE - side) // 2 for side in small.size])
    return tiles


def alike(a, b):
    "The share of characters that two families draw almost the same."
    near = [ImageStat.Stat(ImageChops.difference(x, y)).mean[0] < 8 for x, y in zip(a, b)]
    return max(sum(near[:46]), sum(near[46:])) / 46


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--debs", type=Path)
    parser.add_argument("--out", type=Path, default=PICTURES)
    options = parser.parse_args()
    kept, notices, texts = {}, [], {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        rows = list(csv.DictReader(FAMILIES.read_text(encoding="utf-8").splitlines()))
        versions = unpack(rows, options.debs or root, root)
        for family, package, file, expected in map(dict.values, rows):
            path, = root.glob(f"{package}/**/{file}")
            licence, lines, text = rights(root, package)
            assert licence == expected, f"{package}: licence {licence}, expected {expected}"
            tiles = draw(path)
            twin = next((k for k in kept if tiles and alike(tiles, kept[k][0]) > 0.5), None)
            if not tiles or twin:
                print(f"dropped {family}: {f'drawn as {twin}' if twin else 'characters missing'}")
                continue
            kept[family] = tiles, package, versions[package], licence
            notices += [f"{family} ({package} {versions[package]}), {licence}"]
            notices += [f"    {line}" for line in lines]
            texts.setdefault(licence, text)
        apache = Path("/usr/share/common-licenses/Apache-2.0").read_bytes()
    sheet = Image.new("L", (TILE * len(kept), TILE * 92), 255)
    for column, (tiles, *_) in enumerate(kept.values()):
        for row, tile in enumerate(tiles):
            sheet.paste(tile, (column * TILE, row * TILE))
    names = [(row, "katakana" if row < 46 else "hiragana", ROMAN[row % 46], f"{ord(c):04X}")
             for row, c in enumerate(KATAKANA + HIRAGANA)]
    notice = ["kana.png shows characters drawn with these fonts; the fonts are not included.", ""]
    notice += notices + ["", "Apache-2.0: see LICENSE-Apache-2.0.txt"]
    for licence in sorted(texts.keys() - {"Apache-2.0"}):
        notice += ["", "-" * 72, licence, "-" * 72, texts[licence]]
    debian, version = "Debian 12 font packages of families.csv", "see families.csv"
    licences = " AND ".join(sorted({licence for *_, licence in kept.values()}))
    write(options.out, {
        "kana.png": (png(sheet), debian, version, licences),
        "kana.csv": (table(["row", "script", "name", "codepoint"], names),
                     "tools/make_kana.py", "", "Apache-2.0"),
        "families.csv": (table(["column", "family", "package", "version", "licence"],
                               [(i, f, *kept[f][1:]) for i, f in enumerate(kept)]),
                         "tools/make_kana.py", "", "Apache-2.0"),
        "LICENSE-fonts.txt": ("\n".join(notice + [""]).encode(), debian, version, licences),
        "LICENSE-Apache-2.0.txt": (apache, "Debian 12 base-files", "", "Apache-2.0"),
    })


if __name__ == "__main__":
    main()
