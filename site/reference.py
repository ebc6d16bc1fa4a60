"""Everything public, read from the exported cells: signature, documentation of each parameter, and where it is shown.

Nothing is imported, so the site builds without torch.
"""
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from textwrap import dedent

from cells import is_exported, is_hidden


@dataclass
class Entry:
    "One public function, class or value."
    name: str  # as one writes it: `freeze`, `Movement.plot`
    kind: str  # function, class, method, property, value
    module: str
    notebook: str  # key of the notebook that defines it
    cell: str  # id of the cell that defines it
    signature: str  # as in the source, without comments
    doc: str  # docstring, Markdown
    rows: list  # (parameter, type, default, meaning); ("returns", type, "", meaning) comes last
    source: str
    members: list = field(default_factory=list)  # of a class: its public methods and properties
    shown_in: list = field(default_factory=list)  # (notebook key, cell id), the best first


def _comments(source: str) -> dict:
    "Line number -> comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}


def _arguments(node, comments: dict, source: str) -> tuple:
    "The signature of a function, and a row for each of its parameters that has a comment."
    arguments = node.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    found = [("", arg, default) for arg, default in zip(positional, defaults)]
    if arguments.vararg:
        found.append(("*", arguments.vararg, None))
    elif arguments.kwonlyargs:
        found.append(("*", None, None))
    found += [("", arg, default) for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    if arguments.kwarg:
        found.append(("**", arguments.kwarg, None))
    found = [one for one in found if one[1] is None or one[1].arg not in ("self", "cls")]
    own = [arg.lineno for _, arg, _ in found if arg]
    lines = own + ([node.returns.end_lineno] if node.returns else [])
    parts, rows = [], []
    for sign, arg, default in found:
        text = ast.get_source_segment(source, default) if default is not None else ""
        parts.append(sign + (arg.arg if arg else "") + (f"={text}" if default is not None else ""))
        if arg:  # a comment belongs to what stands alone on its line
            said = comments.get(arg.lineno, "") if lines.count(arg.lineno) == 1 else ""
            rows.append([sign + arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", text, said])
    returns = ast.unparse(node.returns) if node.returns else ""
    start = node.returns.end_lineno if node.returns else max([node.lineno, *own])
    said = next((comments[line] for line in range(start, node.body[0].lineno)
                 if line in comments and (node.returns or line not in own)), "")
    if said or returns not in ("", "None"):
        rows.append(["returns", returns, "", said])
    return ", ".join(parts) + ")" + (f" → {returns}" if returns else ""), rows


def _default(value, source: str) -> str:
    "The default of a field, also where `field(default=...)` gives it."
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "field":
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    return ast.get_source_segment(source, value) if value is not None else ""


def _is_property(node) -> bool:
    return any(isinstance(d, ast.Name) and "property" in d.id for d in node.decorator_list)


def _function(node, comments, source, name, kind, where) -> Entry:
    "A function, or a method; `source` is the cell that it stands in."
    signature, rows = _arguments(node, comments, source)
    if kind == "property":
        signature, rows = name + (f" → {ast.unparse(node.returns)}" if node.returns else ""), []
    else:
        signature = f"{name}({signature}"
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    text = dedent("\n".join(source.splitlines()[start - 1:node.end_lineno]))
    return Entry(name, kind, *where, signature, ast.get_docstring(node) or "", rows, text)


def _class(node, comments, source, where) -> Entry:
    "A class: its fields or the parameters of `__init__`, and its public members."
    signature, rows, members = node.name, [], []
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_"):
            rows.append([part.target.id, ast.unparse(part.annotation), _default(part.value, source),
                         comments.get(part.lineno, "")])
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            text, rows = _arguments(part, comments, source)
            signature = f"{node.name}({text}"
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            kind = "property" if _is_property(part) else "method"
            hook = re.match(r"(before|after)_", part.name)  # called by fastai, not by readers
            if ast.get_docstring(part) or kind == "method" and not hook:
                members.append(_function(part, comments, source, f"{node.name}.{part.name}", kind, where))
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Call) and \
                getattr(part.value.func, "id", "") == "property" and not part.targets[0].id.startswith("_"):
            doc = next((k.value.value for k in part.value.keywords if k.arg == "doc"), "")
            if doc:
                name = f"{node.name}.{part.targets[0].id}"
                members.append(Entry(name, "property", *where, name, doc, [], ast.unparse(part)))
    fields = [row for row in rows if "(" not in signature]
    if fields and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        signature += "(" + ", ".join(f"{r[0]}={r[2]}" if r[2] else r[0] for r in fields) + ")"
    return Entry(node.name, "class", *where, signature, ast.get_docstring(node) or "", rows, source, members)


def _value(node, comments, source, names, where) -> list:
    "Values that a module assigns."
    targets = [t.id for t in (node.targets if isinstance(node, ast.Assign) else [node.target])
               if isinstance(t, ast.Name)]
    doc = comments.get(node.lineno, "") or comments.get(node.end_lineno, "")
    shown = ast.get_source_segment(source, node).replace(f"  # {doc}\n", "\n")
    return [Entry(name, "value", *where, name, doc, [], shown)
            for name in targets if name in names]


def public_names(module_file) -> set:
    "The names in `__all__` of an exported module, re-exported ones included."
    for node in ast.parse(module_file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def entries_of(cell, notebook, public: set) -> list:
    "What one exported cell makes public, in its order; methods that it adds to a class elsewhere included."
    source = cell.source.strip()
    comments, where, found = _comments(source), (notebook.module, notebook.key, cell.id), []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            patched = [d for d in node.decorator_list if ast.unparse(d).startswith("patch")]
            if patched and not node.name.startswith("_"):
                owner = ast.unparse(node.args.args[0].annotation)
                kind = "property" if "as_prop" in ast.unparse(patched[0]) else "method"
                found.append(_function(node, comments, source, f"{owner}.{node.name}", kind, where))
            elif node.name in public:
                found.append(_function(node, comments, source, node.name, "function", where))
        elif isinstance(node, ast.ClassDef) and node.name in public:
            found.append(_class(node, comments, source, where))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found += _value(node, comments, source, public, where)
    return found


def _uses(source: str) -> set:
    "Names and attributes in a piece of code."
    try:
        nodes = list(ast.walk(ast.parse(dedent(source))))
    except SyntaxError:
        return set(re.findall(r"\w+", source))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def describe_values(entries: list, notebooks: list) -> None:
    "A value without a comment is described by the sentence that names it in its notebook, if there is one."
    cells = {notebook.key: notebook.cells for notebook in notebooks}
    for entry in (e for e in entries if e.kind == "value" and not e.doc):
        text = "\n\n".join(cell.source for cell in cells[entry.notebook] if cell.cell_type == "markdown")
        found = re.search(rf"(?<![^.\n] )(?<!\w )[^.\n]*`{entry.name}`[^.:]*\.", text)
        entry.doc = " ".join(found[0].split()) if found else ""


def find_uses(entries: list, notebooks: list) -> None:
    "Note for each entry the cells that show it: first those that follow its definition, then those elsewhere."
    used = []
    for notebook in notebooks:
        exported = None
        for cell in notebook.cells:
            if is_exported(cell):
                exported = cell.id
            elif cell.cell_type == "code" and not is_hidden(cell):
                used.append((notebook.key, cell.id, exported, cell.source, _uses(cell.source)))
    for entry in entries:
        owner, _, name = entry.name.rpartition(".")
        places = [(key, cell, key == entry.notebook, exported == entry.cell)
                  for key, cell, exported, source, names in used if name in names
                  and (not owner or key == entry.notebook or f"{owner.lower()}.{name}" in source)]
        places.sort(key=lambda place: (not (place[2] and place[3]), not place[2], place[0].startswith("ja/")))
        entry.shown_in = [place[:2] for place in places]
    for entry in entries:  # a class that no cell names is shown where what returns it is shown
        if not entry.shown_in and entry.kind == "class":
            makers = [e for e in entries if re.search(rf"→ .*\b{entry.name}\b", e.signature) and e.shown_in]
            entry.shown_in = makers[0].shown_in[:] if makers else []
        if not entry.shown_in:  # else where the next cell stands that shows anything
            entry.shown_in = [(key, cell) for key, cell, exported, _, _ in used
                              if (key, exported) == (entry.notebook, entry.cell)][:1] or _next_shown(entry, notebooks)


def _next_shown(entry, notebooks: list) -> list:
    "The first cell behind a definition that is shown and exports nothing."
    cells = next(notebook.cells for notebook in notebooks if notebook.key == entry.notebook)
    at = next(number for number, cell in enumerate(cells) if cell.id == entry.cell)
    return [(entry.notebook, cell.id) for cell in cells[at:] if cell.cell_type == "code"
            and not is_hidden(cell) and not is_exported(cell)][:1]
