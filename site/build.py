"""Build the site from the notebooks: python site/build.py [--out _site] [--url https://…]

Every notebook becomes a page; the glossary, the reference and "name your run" are made from the package's
own data. Nothing is run and torch is not needed: outputs are those that the notebooks hold.

Why a generator of our own: smalldocs was tried first. It wants Python 3.11, loads 0.8 MB of themes on every
page, and knows one language a site; the languages, the links to terms, alternative texts, the reference and the
page that names a run would all have been ours beside it. Other tools find no Japanese words inside sentences.
Markdown, templates, colours of code and formulas come from markdown-it-py, Jinja, Pygments and latex2mathml.
"""
import argparse
import ast
import hashlib
import json
import posixpath
import re
import shutil
import sys
from configparser import ConfigParser
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import jinja2

here = Path(__file__).resolve().parent
root = here.parent
sys.path[:0] = [str(here), str(root)]

import cells  # noqa: E402
import reference  # noqa: E402
from glossary import TermLinks  # noqa: E402
from verdicts import build_tables, page_data  # noqa: E402

from ft_tutorial.terms import CASES, GLOSSARY, QUESTIONS, SCHOOLS, VALUES, Run  # noqa: E402
from ft_tutorial.rules import _meanings  # noqa: E402

nbs = root / "nbs"
texts = json.loads((here / "texts.json").read_text(encoding="utf-8"))
navigation = json.loads((here / "navigation.json").read_text(encoding="utf-8"))


@dataclass
class Page:
    "One page of the site."
    url: str  # relative to the root of the site
    lang: str
    group: str
    label: str  # in the navigation
    title: str
    summary: str = ""  # Markdown, one sentence
    template: str = "page.html"
    notebook: cells.Notebook | None = None
    body: cells.Rendered = field(default_factory=cells.Rendered)
    data: dict = field(default_factory=dict)
    twin: "Page | None" = None  # the same in the other language
    label_ja: str = ""  # in the navigation of Japanese pages, where it has no twin


def settings() -> dict:
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(root / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def notebook_page(notebook: cells.Notebook) -> Page:
    "Where a notebook stands on the site."
    folder, _, stem = notebook.key.rpartition("/")
    name = re.sub(r"^\d+[a-z]?_", "", stem)
    label, label_ja = navigation["labels"].get(notebook.key, [notebook.title, ""])
    number = re.match(r"(\d\d)([a-z]?)_", stem)
    if folder == "ja":
        other = next((key for key in navigation["labels"] if re.sub(r"^\d+[a-z]?_", "", key) == name), None)
        label = navigation["labels"][other][1] if other else notebook.title
        return Page(f"ja/{name}.html", "ja", "start" if name == "index" else "words", label, notebook.title,
                    notebook.summary, notebook=notebook)
    if stem in navigation["inside"] or number and number[2] and stem not in navigation["labels"]:
        return Page(f"inside/{name}.html", "en", "inside", label, notebook.title, notebook.summary, notebook=notebook,
                    label_ja=label_ja)
    group = "start" if not number else "words" if number[1] == "00" else \
        "experiments" if number[1] >= "10" else "helpers"
    return Page(f"{name}.html", "en", group, label, notebook.title, notebook.summary, notebook=notebook,
                label_ja=label_ja)


def chapter(key: str) -> str:
    "The number of the chapter that a notebook belongs to, or stands behind."
    number = navigation["behind"].get(key, key.removeprefix("ja/")[:2])
    return "09" if number >= "10" else number


class Site:
    "All pages, and what they share."

    def __init__(self, out: Path, url: str = ""):
        self.out, self.url = out, url.rstrip("/")
        self.settings = settings()
        self.page: Page | None = None  # the page that is being written
        self.figures: dict = {}
        self.files: dict = {}  # file outside the notebooks -> address
        self.search: list = []
        self.terms = TermLinks(lambda lang, id: self.to(("ja/" if lang == "ja" else "") + f"glossary.html#{id}"))
        paths = sorted(p for p in nbs.rglob("*.ipynb") if not re.search(r"/[._]", p.relative_to(root).as_posix()))
        self.notebooks = [cells.read_notebook(path, nbs) for path in paths]
        self.pages = [notebook_page(notebook) for notebook in self.notebooks]
        self.by_key = {page.notebook.key: page for page in self.pages}
        self._read_reference()
        self._add_made_pages()
        self._order()
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(here / "theme"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined)
        self.environment.filters |= {"curly": cells.curly, "whole": cells.whole}
        self.stamp = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8]
                      for path in (here / "theme").glob("*.*")}

    # addresses

    def to(self, url: str) -> str:
        "An address on this site, relative to the page that is being written."
        if self.page.template == "404.html":
            return urlsplit(self.url).path + "/" + url
        path, mark, anchor = url.partition("#")
        here = posixpath.dirname(self.page.url)
        return posixpath.relpath(path, here or ".") + mark + anchor if path != self.page.url else mark + anchor or \
            posixpath.basename(path)

    def href(self, target) -> str:
        "The relative address of a page, a notebook, or another file of the project."
        if isinstance(target, str):
            return self.to(target)
        if target.suffix == ".ipynb":
            return self.to(self.by_key[target.relative_to(nbs).with_suffix("").as_posix()].url)
        name = target.relative_to(root).as_posix()
        self.files[target] = f"files/{name}" + (".txt" if not target.suffix else "")
        return self.to(self.files[target])

    # what is public

    def _read_reference(self) -> None:
        self.entries, self.public = [], {}
        for notebook in self.notebooks:
            if not notebook.module:
                continue
            names = reference.public_names(root / "ft_tutorial" / f"{notebook.module}.py")
            self.public[notebook.module] = names
            for cell in notebook.cells:
                if cells.is_exported(cell):
                    self.entries += reference.entries_of(cell, notebook, names)
        reference.find_uses(self.entries, self.notebooks)
        reference.describe_values(self.entries, self.notebooks)
        self.module_of = {n.module: n for n in self.notebooks if n.module}
        front = (root / "ft_tutorial/__init__.py").read_text(encoding="utf-8")
        self.front = ast.literal_eval(re.search(r"_public = (\{.*?\n\})", front, re.S)[1])

    def reference_url(self, entry) -> str:
        return f"reference/{navigation['reference'][chapter(entry.notebook)]}.html#{entry.name}"

    def names_for(self, notebook: cells.Notebook) -> dict:
        "Public name -> address in the reference; of two alike the one nearer to this notebook."
        found = {}
        for entry in sorted(self.entries, key=lambda e: (chapter(e.notebook) != chapter(notebook.key), e.module == "tables")):
            for one in (entry, *entry.members):
                name = one.name if one is not entry else entry.name
                found.setdefault(name, self.reference_url(entry).split("#")[0] + f"#{one.name}")
                if "." in name:
                    owner, _, method = name.partition(".")
                    found.setdefault(f"{owner.lower()}.{method}", found[name])
        return found

    # pages

    def _add_made_pages(self) -> None:
        t = texts
        for lang, folder in (("en", ""), ("ja", "ja/")):
            count = len(GLOSSARY)
            self.pages += [
                Page(f"{folder}name.html", lang, "start", t["name"][lang], t["name_title"][lang],
                     t["name_lead"][lang], "name.html"),
                Page(f"{folder}glossary.html", lang, "glossary", t["glossary"][lang], t["glossary"][lang],
                     t["glossary_lead"][lang].format(count=count), "glossary.html")]
        all_names, all_names_ja = navigation["labels"]["reference"]
        self.pages.append(Page("reference/index.html", "en", "reference", all_names, "Reference",
                               "Every public function, class and value of the package, with its parameters, its "
                               "source and the cells that show it.", "reference_index.html", label_ja=all_names_ja))
        for number, name in navigation["reference"].items():
            entries = [entry for entry in self.entries if chapter(entry.notebook) == number]
            if not entries:
                continue
            main = next((n for n in self.notebooks if n.key.startswith(f"{number}_")), None)
            label, label_ja = navigation["labels"].get(main.key) or \
                next(group[1:] for group in navigation["groups"] if group[0] == name)
            modules = ", ".join(f"`ft_tutorial.{m}`" for m in dict.fromkeys(e.module for e in entries))
            self.pages.append(Page(f"reference/{name}.html", "en", "reference", label, f"Reference: {label}",
                                   f"What {modules} {'make' if ',' in modules else 'makes'} public.",
                                   "reference.html", label_ja=label_ja, data={"entries": entries}))

    def _order(self) -> None:
        groups = [group[0] for group in navigation["groups"]]
        self.pages.sort(key=lambda p: (p.lang, groups.index(p.group), "index" not in p.url))  # stable
        by_url = {page.url: page for page in self.pages}
        if len(by_url) != len(self.pages):
            raise ValueError("two pages have one address: rename a notebook")
        for page in self.pages:
            page.twin = by_url.get(page.url[3:] if page.lang == "ja" else f"ja/{page.url}")

    def neighbours(self, page: Page) -> tuple:
        row = [p for p in self.pages if p.lang == page.lang and (p.group == "inside") == (page.group == "inside")]
        if page not in row:
            return None, None
        at = row.index(page)
        return row[at - 1] if at else None, row[at + 1] if at + 1 < len(row) else None

    def insides(self, page: Page) -> list:
        "The notebooks behind this one."
        if page.notebook is None or page.group in ("inside", "start") or page.lang == "ja":
            return []
        return [p for p in self.pages if p.group == "inside" and chapter(p.notebook.key) == chapter(page.notebook.key)]

    def menu(self, page: Page) -> list:
        "Groups with their pages, as seen from `page`: Japanese pages first where there are any."
        found = []
        for id, label, label_ja in navigation["groups"]:
            own = [p for p in self.pages if p.group == id and p.lang == page.lang]
            if page.lang == "ja":
                own += [p for p in self.pages if p.group == id and p.lang == "en" and p.twin is None]
            foreign = page.lang == "ja" and bool(own) and all(p.lang == "en" for p in own)  # then the group says so
            rows = []
            for p in own:
                text = (p.lang != page.lang and p.label_ja) or p.label
                rows.append({"page": p, "label": cells.curly(text), "foreign": p.lang != page.lang and not foreign,
                             "lang": "en" if p.lang != page.lang and text == p.label else None})
            found.append({"id": id, "label": label_ja if page.lang == "ja" else label, "rows": rows,
                          "foreign": foreign, "single": len(rows) == 1})
        return found

    # parts of pages

    def card(self, entry, names: dict, t, anchor: bool, level: int = 3) -> str:
        "Documentation of one name: signature, text, parameters, source."
        rows = [(name, self.types(type, names), default, cells.markdown_html(meaning))
                for name, type, default, meaning in entry.rows if meaning or name != "returns"]
        rows = rows if any(row[3] for row in rows) else []  # the signature says as much
        defaults = any(row[2] for row in rows)
        return self.environment.get_template("card.html").render(
            entry=entry, rows=rows, defaults=defaults, t=t, anchor=anchor, level=level, signature=self.signature(entry),
            doc=cells.markdown_block(entry.doc), source=cells.code_block(entry.source),
            reference=self.to(self.reference_url(entry).split("#")[0] + f"#{entry.name}"),
            defined=self.to(self.by_key[entry.notebook].url + f"#cell-{entry.cell}"),
            defined_in=self.by_key[entry.notebook].label, host=self.host_link(entry),
            members=[self.card(m, names, t, anchor, level + 1) for m in entry.members])

    def signature(self, entry) -> str:
        "A signature whose parameters stay whole where a line ends."
        name, mark, rest = entry.signature.partition("(")
        inside, _, after = rest.rpartition(")")
        if not mark:
            return cells.code_html(entry.signature)
        parts = []
        for part in _split(inside):
            parameter, equals, default = part.partition("=")
            parts.append(parameter + equals + (cells.code_html(default) if equals else ""))
        text = f"{name}(" + ",\n".join(parts) + f"){cells.code_html(after)}"
        return " ".join(f'<span class="part">{part}</span>' for part in text.split("\n"))

    def types(self, text: str, names: dict) -> str:
        return re.sub(r"\b[A-Z]\w+", lambda m: f'<a href="{self.to(names[m[0]])}">{m[0]}</a>'
                      if m[0] in names else m[0], escape(text, quote=False))

    def host_link(self, entry) -> str:
        "The line in the public repository, when there is one."
        home = self.settings["repository_url"].rstrip("/")
        if not home:
            return ""
        file = f"ft_tutorial/{entry.module}.py"
        lines = (root / file).read_text(encoding="utf-8").splitlines()
        name = entry.name.rpartition(".")[2]
        line = next((n for n, text in enumerate(lines, 1) if re.match(rf"\s*(def|class) {name}\b|{name}\b", text)), 1)
        return f"{home}/blob/main/{file}#L{line}"

    def exported(self, t):
        "What a renderer calls for an exported cell: its public names as cards."
        def card(cell, renderer):
            entries = [e for e in self.entries if (e.notebook, e.cell) == (renderer.notebook.key, cell.id)]
            documented = [e for e in entries if e.rows and e.kind != "value"]
            if not documented or len(documented) != len(entries):
                return None
            level = 3 if renderer.page.headings else 2
            for entry in entries:
                renderer.page.headings.append((level, f"cell-{cell.id}", entry.name))
            return "".join(self.card(entry, renderer.names, t, anchor=False, level=level) for entry in entries)
        return card

    def shown(self, entry, t, already: set) -> dict:
        "Links to the cells that show an entry, and the first of them, if it is not on the page already."
        html, places = "", {}
        for key, id in entry.shown_in:
            places.setdefault(key, []).append((self.to(self.by_key[key].url + f"#cell-{id}"), id))
        links = [(self.by_key[key], found[:4]) for key, found in list(places.items())[:4]]
        for key, id in entry.shown_in[:1]:
            if (key, id) not in already:
                already.add((key, id))
                page = self.by_key[key]
                renderer = self.renderer(page.notebook, t)
                cell = next(cell for cell in page.notebook.cells if cell.id == id)
                html = renderer.code(cell).replace(f' id="cell-{id}"', "")
                self.figures.update(renderer.page.figures)
        return {"html": html, "links": links}

    def renderer(self, notebook, t):
        return cells.Renderer(notebook, self.href, self.terms, self.names_for(notebook), self.to("figures/x")[:-1],
                              self.exported(t), t, self.by_key[notebook.key].group)

    # writing

    def write(self) -> None:
        if self.out.exists():
            shutil.rmtree(self.out)
        tables, follows = build_tables()
        for page in self.pages:
            self.page = page
            if page.notebook:
                page.body = self.renderer(page.notebook, self.t(page.lang)).render()
                self.figures.update(page.body.figures)
        for page in [*self.pages, Page("404.html", "en", "", "", texts["lost_title"]["en"], texts["lost"]["en"],
                                       "404.html")]:
            self.page = page
            self._save(page.url, self._html(page))
            self._index(page)
        for name, content in self.figures.items():
            self._save(f"figures/{name}", content)
        for file, url in self.files.items():
            self._save(url, file.read_bytes())
        for notebook in self.notebooks:
            self._save(f"notebooks/{notebook.key}.ipynb", notebook.path.read_bytes())
        for file in (here / "theme").glob("*.*"):
            if file.suffix not in (".html", ".md"):
                self._save(f"assets/{file.name}", file.read_bytes())
        for lang in ("en", "ja"):
            data = json.dumps(page_data(tables, follows, lang), ensure_ascii=False, separators=(",", ":"))
            self._save(f"assets/name-data-{lang}.js", f"const nameData = {data};\n")
        index = json.dumps(self.search, ensure_ascii=False, separators=(",", ":"))
        self._save("assets/search-data.js", f"window.searchData = {index};\n")
        self._save(".nojekyll", "")
        if self.url:
            places = "".join(f"<url><loc>{self.url}/{page.url}</loc></url>" for page in self.pages)
            self._save("sitemap.xml", '<?xml version="1.0" encoding="UTF-8"?>\n'
                       f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{places}</urlset>\n')

    def t(self, lang: str):
        return lambda key, **values: texts[key][lang].format(**values) if values else texts[key][lang]

    def _html(self, page: Page) -> str:
        t = self.t(page.lang)
        previous, following = self.neighbours(page)
        extra = {"name.html": self._name, "glossary.html": self._glossary, "reference.html": self._reference,
                 "reference_index.html": self._reference_index}.get(page.template, lambda page, t: {})(page, t)
        home = self.settings["repository_url"].rstrip("/")
        description = t("answer") if page.url in ("index.html", "ja/index.html") else cells.plain(page.summary)
        return self.environment.get_template(page.template).render(
            page=page, t=t, menu=self.menu(page), previous=previous, following=following, to=self.to,
            insides=self.insides(page), **{"toc": [h for h in page.body.headings if h[0] <= 3]} | extra,
            summary=cells.markdown_html(page.summary, page.lang == "en"), description=description,
            home=home, absolute=self.url + "/" if self.url else "", version=self.stamp, texts=texts,
            home_page=next(p for p in self.pages if p.url == ("ja/" if page.lang == "ja" else "") + "index.html"))

    def _save(self, url: str, content) -> None:
        path = self.out / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)

    def _index(self, page: Page) -> None:
        "Add a page to what the search knows."
        if page.template == "404.html":
            return
        title = page.label if page.title == "ft_tutorial" else page.title
        self.search.append([page.url, page.lang, title, "", cells.plain(page.summary)])
        for anchor, heading, text in page.body.sections:
            if text.strip():
                self.search.append([page.url + (f"#{anchor}" if anchor else ""), page.lang, title, heading,
                                    text.strip()])

    def _name(self, page, t) -> dict:
        ja = page.lang == "ja"
        groups = [("name_group_start", ("carrier", "inherited")), ("name_group_does", ("update", "moved", "added")),
                  ("name_group_new", ("domain_same", "task_same", "data", "objective_same", "labelled")),
                  ("name_group_how", ("small_step", "after_frozen", "same_run"))]
        if {fact for _, facts in groups for fact in facts} != set(VALUES):
            raise ValueError("a fact has no group on the page that names a run")
        mark = "？" if ja else ""
        questions = [(t(label), [(fact, QUESTIONS[fact]["question_ja" if ja else "question"].rstrip("？") + mark,
                                  [({True: "yes", False: "no"}.get(v, v), _meanings[fact][v][ja],
                                    v == getattr(Run(), fact)) for v in VALUES[fact]]) for fact in facts])
                     for label, facts in groups]
        schools = [(s.id, s.name_ja if ja else s.name, s.meaning_ja if ja else s.meaning) for s in SCHOOLS.values()]
        page.body.sections = [["", "", " ".join(q for _, rows in questions for _, q, _ in rows)],
                              ["verdicts", t("name_verdicts"), " ".join(f"{n}. {m}" for _, n, m in schools)]]
        return {"questions": questions, "schools": schools,
                "cases": [(c.id, c.name_ja if ja else c.name) for c in CASES.values()]}

    def _glossary(self, page, t) -> dict:
        rows = []
        for term in GLOSSARY.values():
            pages = [self.by_key[key] for key in self.terms.used.get(term.id, {})]
            pages = [p for p in pages if p.lang == page.lang and p.group != "inside"]
            rows.append({"term": term, "pages": pages[:8]})
        page.body.sections = [
            [term.id, f"{term.ja} · {term.en}" if page.lang == "ja" else f"{term.en} · {term.ja}", " ".join(
                [term.meaning_ja, "、".join(term.synonyms_ja), term.beware_ja, ", ".join(term.synonyms)]
                if page.lang == "ja" else [term.meaning, ", ".join(term.synonyms), term.beware,
                                           "、".join(term.synonyms_ja)])]
            for term in GLOSSARY.values()]
        return {"rows": rows}

    def _reference(self, page, t) -> dict:
        entries = page.data["entries"]
        names = self.names_for(self.module_of[entries[0].module])
        page.body.headings = [(2, entry.name, entry.name) for entry in entries]
        page.body.sections = [[e.name, e.name, " ".join([cells.plain(e.doc), *(cells.plain(r[3]) for r in e.rows)])]
                              for entry in entries for e in (entry, *entry.members)]
        already: set = set()  # a cell stands below the function that it shows rather than below a class
        shown = {id(e): self.shown(e, t, already) for e in sorted(entries, key=lambda e: e.kind == "class")}
        return {"toc": page.body.headings, "entries": [
            {"card": self.card(e, names, t, anchor=True, level=2), "shown": shown[id(e)]} for e in entries]}

    def _reference_index(self, page, t) -> dict:
        def row(entry):
            return {"name": entry.name, "url": self.to(self.reference_url(entry)),
                    "doc": cells.markdown_html(entry.doc.split("\n\n")[0]) or
                    ("" if "\n" in entry.source else f"<code>{escape(entry.source)}</code>")}
        found = {(e.module, e.name): e for e in self.entries}
        front = []
        for module, names in self.front.items():
            for name in names:
                entry = found.get((module, name)) or next(e for e in self.entries if e.name == name)
                front.append(row(entry))
        groups = [(p, [row(e) for e in p.data["entries"]]) for p in self.pages if p.template == "reference.html"]
        page.body.headings = [(2, "front-door", "The front door")] + [
            (2, posixpath.basename(p.url)[:-5], p.label) for p, _ in groups]
        return {"front": front, "groups": groups, "toc": page.body.headings}


def _split(text: str) -> list:
    "Split the parameters of a signature at its outer commas."
    parts, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        depth += (c in "([{") - (c in ")]}") if not quote else 0
        if c == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts if part.strip()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "_site")
    parser.add_argument("--url", default="", help="public address of the site, for the 404 page and link previews")
    arguments = parser.parse_args()
    site = Site(arguments.out, arguments.url)
    site.write()
    print(f"{len(site.pages)} pages in {arguments.out}")
