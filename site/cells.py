"""A notebook as HTML: text, code, outputs; figures become files of their own.

Hidden cells are left out, folded ones fold, and what a cell exports is shown as documentation with its source.
"""
import ast
import base64
import io
import re
from dataclasses import dataclass, field
from html import escape, unescape
from itertools import groupby
from pathlib import Path
from unicodedata import east_asian_width

from latex2mathml.converter import convert as latex_to_mathml
from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbdev.process import NBProcessor
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_formatter = HtmlFormatter(nowrap=True)
_parser = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin)
_prose = MarkdownIt("commonmark", {"html": True, "typographer": True}).enable(["table", "smartquotes"]).use(
    dollarmath_plugin)
for _one in (_parser, _prose):  # formulas become MathML, which browsers draw without a script or a font
    _one.add_render_rule("math_inline", lambda self, tokens, at, options, env: latex_to_mathml(tokens[at].content))
    _one.add_render_rule("math_block", lambda self, tokens, at, options, env:
                         latex_to_mathml(tokens[at].content, display="block"))


@dataclass
class Notebook:
    "What a notebook says of itself, and its cells."
    path: Path  # of the .ipynb file
    key: str  # path below nbs/, without ending
    lang: str  # en or ja
    title: str
    summary: str  # Markdown, one sentence
    module: str | None  # name of the module that it exports
    cells: list  # as nbdev reads them; the title cell is left out


@dataclass
class Rendered:
    "The HTML of a page, and what other parts of the site need to know of it."
    html: str = ""
    headings: list = field(default_factory=list)  # (level, id, text)
    sections: list = field(default_factory=list)  # [id, heading, plain text], for the search
    figures: dict = field(default_factory=dict)  # file name -> bytes
    links: list = field(default_factory=list)  # relative targets outside the notebooks


def read_notebook(path: Path, folder: Path) -> Notebook:
    "Read `path`; its first cell must be `# Title`, a blank line and `> summary`."
    cells = NBProcessor(path, process=True).nb.cells
    head = re.match(r"# (.+)\n\n((?:> .+\n?)+)$", cells[0].source.strip() + "\n")
    if not head:
        raise ValueError(f"{path}: the first cell must be '# Title', a blank line and '> summary'")
    summary = " ".join(line.removeprefix("> ") for line in head[2].strip().splitlines())
    exports = [_directives(cell).get("default_exp") for cell in cells]
    key = path.relative_to(folder).with_suffix("").as_posix()
    return Notebook(path, key, "ja" if key.startswith("ja/") else "en", head[1].strip(), summary,
                    next(filter(None, exports), None), cells[1:])


def _directives(cell) -> dict:
    return getattr(cell, "directives_", None) or {}


def is_exported(cell) -> bool:
    return cell.cell_type == "code" and "export" in _directives(cell)


def is_hidden(cell) -> bool:
    return "hide" in _directives(cell) or "default_exp" in _directives(cell) and not is_exported(cell)


def slug(text: str, taken: set = frozenset()) -> str:  # an anchor that is not in `taken`
    "An anchor for a heading, in any script."
    base = re.sub(r"[^\w]+", "-", unescape(re.sub(r"<[^>]+>", "", text)).lower()).strip("-") or "section"
    found, count = base, 1
    while found in taken:
        count += 1
        found = f"{base}-{count}"
    return found


def code_html(source: str, language: str = "python") -> str:
    "Highlighted code, without a frame."
    try:
        lexer = get_lexer_by_name({"sh": "bash", "text": "output"}.get(language, language))
    except ClassNotFound:
        return escape(source)
    return highlight(source, lexer, _formatter).rstrip("\n")


def code_block(source: str, language: str = "python") -> str:
    "A frame with code; the script adds its copy button."
    return f'<div class="code"><pre><code>{code_html(source, language)}</code></pre></div>'


def plain(markdown: str) -> str:
    "The text of some Markdown."
    html = re.sub(r"</?(a|b|code|em|i|strong|span)\b[^>]*>", "", _parser.render(markdown))
    return _one_line(unescape(re.sub(r"<[^>]+>", " ", html)))


def _one_line(text: str) -> str:
    "Without line breaks; Japanese goes on without a space."
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"(?<=[、。）」ぁ-ヶー一-龥]) (?=[「（ぁ-ヶ一-龥])|(?<=[、。）」]) ", "", text)


def markdown_block(text: str) -> str:
    "Markdown without links to turn, as HTML."
    return _parser.render(text).strip()


def curly(text: str) -> str:
    "Plain text with the apostrophes and quotation marks of print."
    return re.sub(r'"([^"]*)"', "“\\1”", re.sub(r"(?<=\w)'", "’", text))


def whole(html: str) -> str:
    "A title whose two words for the matter do not break where a line ends."
    return Markup(re.sub(r"(?i)[“\"]?(?:fine-tuning|transfer learning)[”\"]?", r'<span class="whole">\g<0></span>',
                         str(html)))  # a Markup would be escaped again


def markdown_html(text: str, prose: bool = False) -> str:
    "The same without the outer paragraph; `prose` has curly quotation marks."
    html = _prose.render(text).strip() if prose else markdown_block(text)
    return html[3:-4] if html.count("<p>") == 1 and html.startswith("<p>") and html.endswith("</p>") else html


class Renderer:
    "Turns the cells of one page into HTML."

    def __init__(self, notebook, href, terms, names, figure_path, card, t, group):
        self.notebook, self.href, self.terms, self.names = notebook, href, terms, names
        self.figure_path, self.card, self.t, self.group = figure_path, card, t, group
        self.page = Rendered()
        self.cell_ids = {cell.id for cell in notebook.cells if not is_hidden(cell)}
        self.folded = None  # language of the <details> that is open

    def render(self) -> Rendered:
        shown = (cell for cell in self.notebook.cells if not is_hidden(cell))
        parts = []
        for fold, group in groupby(shown, self._fold):
            if fold:
                parts.append(self._fold_group(fold, list(group)))
            else:
                parts += [self._markdown(cell) if cell.cell_type == "markdown" else self.code(cell) for cell in group]
        self.page.html = "\n".join(filter(None, parts))
        return self.page

    # text

    def _markdown(self, cell) -> str:
        tokens = (_prose if self.notebook.lang == "en" else _parser).parse(cell.source)
        for index, token in enumerate(tokens):
            if token.type == "html_block":
                if found := re.search(r"<details(?: lang=\"(\w+)\")?", token.content):
                    self.folded = found[1] or self.notebook.lang
                if "</details>" in token.content:
                    self.folded = None
                self._say(re.sub(r"<[^>]+>", " ", token.content))
            elif token.type == "heading_open":
                self._heading(token, tokens[index + 1])
            elif token.type == "inline":
                quiet = tokens[index - 1].type == "heading_open" or any(
                    t.type == "blockquote_open" for t in tokens[:index]) and not any(
                    t.type == "blockquote_close" for t in tokens[:index])
                self._inline(token, link_terms=not quiet)
                if tokens[index - 1].type != "heading_open":
                    self._say(plain(token.content))
            elif token.type == "fence":
                language = token.info.split()[0] if token.info else "text"
                token.type, token.content = "html_block", code_block(token.content.rstrip(), language) + "\n"
            elif token.type == "table_open":
                token.attrSet("class", "prose-table")
        html = _parser.renderer.render(tokens, _parser.options, {})
        html = re.sub(r"<table class=\"prose-table\">.*?</table>",
                      lambda m: self._scroll(m[0].replace("<th></th>", "<td></td>").replace("<th>", '<th scope="col">')), html, flags=re.S)
        return f'<div class="text" id="cell-{cell.id}">{html}</div>'

    def _heading(self, token, inline) -> None:
        level = max(2, int(token.tag[1]))
        anchor = slug(inline.content, {h[1] for h in self.page.headings})
        token.attrSet("id", anchor)
        text = plain(inline.content)
        self.page.headings.append((level, anchor, text))
        self.page.sections.append([anchor, text, ""])

    def _say(self, text: str) -> None:
        "Text for the search."
        if not self.page.sections:
            self.page.sections.append(["", "", ""])
        self.page.sections[-1][2] = _one_line(f"{self.page.sections[-1][2]} {text}")

    def _inline(self, token, link_terms: bool) -> None:
        "Turn links to notebooks into links to pages; link names, cells and the first use of each term."
        out, inside_link = [], False
        for child, following in zip(token.children, [*token.children[1:], None]):
            if child.type == "softbreak" and following and (_ends_in(out[-1:], "。、）」")
                                                            or _japanese(out[-1:], -1) and _japanese([following], 0)):
                continue  # a line that ends in Japanese goes on without a space
            if child.type == "link_open":
                inside_link = True
                child.attrSet("href", self._target(child.attrGet("href")))
                if re.match(r"https?:", child.attrGet("href")):
                    child.attrSet("rel", "noopener")
            elif child.type == "link_close":
                inside_link = False
            elif child.type == "image":
                raise ValueError(f"{self.notebook.path}: show a picture by an output, not by Markdown")
            elif child.type == "code_inline" and not inside_link:
                child.type, child.content = "html_inline", self._code_inline(child.content)
            elif child.type == "text" and not inside_link:
                child.type, child.content = "html_inline", self._text(child.content, link_terms)
            out.append(child)
        token.children = out

    def _text(self, text: str, link_terms: bool) -> str:
        html = escape(text, quote=False)
        html = re.sub(r"(?<=[“\"])[a-z0-9]+(?:-[a-z0-9]+)+(?=[”\"])",
                      lambda m: f'<a href="#cell-{m[0]}">{m[0]}</a>' if m[0] in self.cell_ids else m[0], html)
        if not link_terms:
            return html
        return self.terms.link(html, self.notebook.key, self.folded or self.notebook.lang)

    def _code_inline(self, content: str) -> str:
        text = re.sub(r"(?<=[\w\])])([._(=/])(?=\w)", r"\1<wbr>", escape(content, quote=False))
        code = f"<code>{text}</code>" if len(content) > 24 else f'<code class="short">{escape(content, quote=False)}</code>'
        name = re.match(r"(?:ft_tutorial\.)?([\w.]+)(?:\(.*\))?$", content)
        if name and (target := self.names.get(name[1])):
            return f'<a class="name" href="{self.href(target)}">{code}</a>'
        return f'<a class="name" href="#cell-{content}">{code}</a>' if content in self.cell_ids else code

    def _target(self, link: str) -> str:
        "Where a link of the notebook leads on the site."
        if re.match(r"\w+:|#", link):
            return link
        path, _, anchor = link.partition("#")
        file = (self.notebook.path.parent / path).resolve()
        if not file.exists():
            raise ValueError(f"{self.notebook.path}: no file {link!r}")
        if file.suffix == ".ipynb":
            return self.href(file) + ("#" + slug(anchor) if anchor else "")
        self.page.links.append(file)
        return self.href(file)

    # code

    def _fold(self, cell) -> str:
        "What a reader may skip: imports, and what is not public unless the page is about it."
        source = cell.source.strip()
        if cell.cell_type != "code" or not source:
            return ""
        if _only_imports(source):
            return "imports" if self.group != "start" or source.count("\n") > 8 else ""
        private = is_exported(cell) and self.group != "inside" and all(name[0] == "_" for name in _defined(source))
        return "inner" if private and not cell.get("outputs") else ""

    def _fold_group(self, fold: str, group: list) -> str:
        "Cells that follow each other, folded into one."
        names = ", ".join(f"<code>{name}</code>" for cell in group for name in _defined(cell.source)) * (fold == "inner")
        blocks = "".join(f'<div class="cell{" exported" * is_exported(cell)}" id="cell-{cell.id}">'
                         + code_block(cell.source.strip()) + "</div>" for cell in group)
        return f'<details class="fold"><summary>{self.t(fold)}{": " * bool(names)}{names}</summary>{blocks}</details>'

    def code(self, cell) -> str:
        "A code cell with its outputs."
        if is_exported(cell) and (card := self.card(cell, self)):
            return f'<div class="cell exported" id="cell-{cell.id}">{card}</div>'
        outputs = "".join(filter(None, (self._output(cell, number, output)
                                        for number, output in enumerate(cell.get("outputs", [])))))
        source = "" if "echo" in _directives(cell) else self._source(cell)
        if not source and not outputs:
            return ""
        return (f'<div class="cell{" exported" * is_exported(cell)}" id="cell-{cell.id}">{source}'
                + (f'<div class="outputs">{outputs}</div>' if outputs else "") + "</div>")

    def _source(self, cell) -> str:
        source, directives = cell.source.strip(), _directives(cell)
        block = code_block(source)
        if directives.get("code-fold", "false") != "false":
            summary = directives.get("code-summary", self.t("code"))
            return f'<details class="fold"><summary>{escape(summary[0].upper() + summary[1:])}</summary>{block}</details>'
        return block

    def _output(self, cell, number: int, output) -> str:
        data = output.get("data", {})
        if "image/png" in data:
            alt = output["metadata"].get("image/png", {}).get("alt")
            if not alt:
                raise ValueError(f"{self.notebook.path}: the picture of cell {cell.id} has no alt text")
            return self._figure(f"{cell.id}-{number}" if number else cell.id, data["image/png"], alt)
        if "text/html" in data:
            return self._html(_text(data["text/html"]))
        if "text/markdown" in data:
            return self._html(_parser.render(_text(data["text/markdown"])))
        if output.get("name") == "stderr":
            return ""
        if output["output_type"] == "error":
            text = f"{output['ename']}: {output['evalue']}"
        else:
            text = _text(output.get("text") or data.get("text/plain", ""))
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()
        if not text or re.match(r"<(Figure size|IPython\.core\.display)", text):
            return ""
        if len(re.findall(r"^.*\S {2,}\S", text, re.M)) < 2:
            return f'<pre class="out sentences">{escape(text, quote=False)}</pre>'
        return f'<pre class="out">{"".join(map(_column_line, text.splitlines()))}</pre>'  # columns must not break

    def _figure(self, name: str, data: str, alt: str) -> str:
        file, content = f"{Path(self.notebook.key).name}-{name}.png", base64.b64decode(data)
        self.page.figures[file] = content
        picture = Image.open(io.BytesIO(content))
        width, height = picture.size
        return (f'<figure{" class=chart" * _is_chart(picture)} style="--width:{width}px"><a href="{self.figure_path}{file}"><img '
                f'src="{self.figure_path}{file}" alt="{escape(alt)}" width="{width}" height="{height}" loading="lazy" '
                'decoding="async"></a></figure>')

    def _html(self, html: str) -> str:
        html = re.sub(r"<style.*?</style>", "", html, flags=re.S).replace("overflow-x:auto", "")
        html = re.sub(r"<table border=\"1\"", "<table", html)
        html = re.sub(r"<thead>\s*<tr[^>]*>(.*?)</tr>\s*<tr>(.*?)</tr>\s*</thead>", _one_head, html, flags=re.S)
        html = re.sub(r"<th[^>]*></th>", "<td></td>", html)  # a header without text is none
        html = re.sub(r"<table.*?</table>", lambda m: self._scroll(m[0]), html, flags=re.S)
        return f'<div class="out-html">{html}</div>'

    def _scroll(self, table: str) -> str:
        "A table that scrolls inside itself; cells with much text get room, short ones do not break."
        table = re.sub(r"(?:(?:min-)?width|overflow-wrap|word-break|white-space):[^;\"]*;?", "", table)  # the theme decides
        columns = len(re.findall(r"<t[dh][ >]", table.partition("</tr>")[0]))
        few = columns < 3
        widths = [[], []]  # of the first and the last column

        def sized(cell):
            text = unescape(re.sub(r"<summary>|<details.*?</details>|<(?!br)[^>]+>", "", cell[3], flags=re.S))
            width = max(map(_width, text.split("<br>")))
            widths[len(widths[0]) > len(widths[1])].append(width)
            size = "short" if width < (32 if "「" in text else 17) else "medium" if width < 46 else "long" if width < 120 else "longest"
            if "writing-mode" in cell[2] or few and width >= 46:
                return cell[0]
            return f'<{cell[1]} class="{size}"{cell[2]}>{cell[3]}'
        table = re.sub(r"<(t[dh])((?: [^>]*)?)>(.*?)(?=</t[dh]>)", sized, table, flags=re.S)
        pair = columns == 2 and 8 <= max(widths[0]) < 46 and max(widths[1]) >= 60  # a source and what it says
        return f'<div class="scroll{" dense" * (columns > 8)}{" pair" * pair}" role="group" aria-label="{self.t("table")}">{table}</div>'


def _width(text: str) -> int:
    "In columns of a terminal."
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _column_line(line: str) -> str:
    "One line of a table in plain text; a long one goes on below the start of its last column."
    if _width(line) <= 104:
        return escape(line, quote=False) + "\n"
    before = re.match(r".*\S {2,}(?=\S)|\s*", line)[0]
    return f'<span class="goes-on" style="--start:{_width(before)}ch">{escape(line, quote=False)}</span>'


def _one_head(found) -> str:
    "pandas puts the name of the index into a row of its own: bring it up."
    rows = [re.findall(r"<th[^>]*>(.*?)</th>", row, re.S) for row in found.groups()]
    if len(rows[0]) != len(rows[1]) or any(a and b for a, b in zip(*rows)):
        return found[0]
    return "<thead><tr>" + "".join(f"<th>{a or b}</th>" for a, b in zip(*rows)) + "</tr></thead>"


def _is_chart(picture: Image.Image) -> bool:
    "Is this drawn in a few colours? Then dark mode may turn it dark; photographs and grey letters stay as they are."
    colours = picture.convert("RGB").getcolors(6000) or []  # none when there are more
    return any(count > 40 and max(colour) - min(colour) > 60 for count, colour in colours)


def _defined(source: str) -> list:
    "The names that a piece of code defines."
    nodes = ast.parse(source).body
    return [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))] + [
        target.id for node in nodes if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in getattr(node, "targets", [getattr(node, "target", None)]) if isinstance(target, ast.Name)]


def _ends_in(tokens: list, marks: str) -> bool:
    return bool(tokens) and tokens[0].content[-1:] != "" and tokens[0].content[-1:] in marks


def _japanese(tokens: list, place: int) -> bool:
    "Does the text of these tokens begin (0) or end (-1) in Japanese?"
    text = re.sub(r"<[^>]+>", "", tokens[0].content) if tokens else ""
    return bool(text) and bool(re.match(r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]", text[place]))


def _text(value) -> str:
    return value if isinstance(value, str) else "".join(value)


def _only_imports(source: str) -> bool:
    "Does this cell import, or list names, and do no more?"
    lines = re.sub(r"\([^)]*\)|\[[^\]]*\]", "", source).splitlines()
    return all(re.match(r"(import|from)\b|_all_ =|#|$|\s", line) for line in lines)
