"""Make README.md from nbs/index.ipynb, as nbdev processes it: hidden cells and folded inputs are left out.

    python tools/make_readme.py
"""
import base64
import re
from configparser import ConfigParser
from pathlib import Path

from nbdev.process import NBProcessor

root = Path(__file__).parents[1]


def output_of(cell, images: Path) -> str:
    "The outputs of a code cell as Markdown; pictures become files beside the README."
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            images.mkdir(exist_ok=True)
            path = images / f"{cell['id']}.png"
            path.write_bytes(base64.b64decode(data["image/png"]))
            alt = output["metadata"]["image/png"]["alt"]
            parts.append(f"![{alt}]({path.relative_to(root).as_posix()})")
            continue
        text = output.get("text") or data.get("text/plain", "")
        text = (text if isinstance(text, str) else "".join(text)).rstrip()
        if text and output.get("name") != "stderr" and "IPython.core.display.HTML" not in text:
            parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)


def readme() -> str:
    "README.md as text; links to notebooks are made relative to the root."
    parts = ["<!-- Made from nbs/index.ipynb by `make readme`: change that notebook, not this file. -->"]
    for cell in NBProcessor(root / "nbs/index.ipynb", process=True).nb.cells:
        directives = getattr(cell, "directives_", None) or {}
        if "hide" in directives:
            continue
        source = cell.source.strip()
        if cell.cell_type == "markdown":
            source = re.sub(r"\]\(\.\./", "](", re.sub(r"\]\(([\w/]+\.ipynb)", r"](nbs/\1", source))
            parts.append(source)
            continue
        shown = [] if "echo" in directives else [f"```python\n{source}\n```"]
        parts += filter(None, [*shown, output_of(cell, root / "images")])
    return "\n\n".join(parts) + "\n"


def badges() -> str:
    "Badges and buttons that need a public home; empty while settings.ini names none."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(root / "settings.ini", encoding="utf-8")
    home = config["DEFAULT"]["repository_url"].rstrip("/")
    return f"[Source]({home}) · [Questions and bugs]({home}/issues)\n\n" if home else ""


if __name__ == "__main__":
    head, rest = readme().split("\n\n", 1)
    (root / "README.md").write_text(f"{head}\n\n{badges()}{rest}", encoding="utf-8")
