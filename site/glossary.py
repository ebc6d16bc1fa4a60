"The first use of each term on a page links to the glossary, in English and in Japanese."
import re
from html import escape

from ft_tutorial.terms import GLOSSARY

# Synonyms that are also everyday words, or letters that mean something else as well.
_everyday = {"top", "source", "target", "problem", "pass", "fixed", "lock", "block", "snapshot", "restart",
             "alignment", "upstream", "weight", "tuned further", "層", "領域", "分野", "一から学習", "課題",
             "さらに学習", "更に学習", "further training", "more training"}


def _words(lang: str) -> dict:
    "Every spelling of every term -> its id; the longest spelling first."
    found = {}
    for term in GLOSSARY.values():
        own, others = (term.ja, term.synonyms_ja) if lang == "ja" else (term.en, term.synonyms)
        for word in (own, *others):
            if word not in _everyday:
                found.setdefault(word, term.id)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _pattern(words: dict, lang: str) -> re.Pattern:
    "Abbreviations match as they are written, other English words in any case and in the plural too."
    if lang == "ja":
        return re.compile("|".join(map(re.escape, words)))
    choices = [re.escape(word) if word.isupper() or len(word) < 3 else f"(?i:{re.escape(word)})s?" for word in words]
    return re.compile(r"(?<![\w-])(?:" + "|".join(choices) + r")(?![\w-])")


class TermLinks:
    "Links terms, and remembers on which pages each is used."

    def __init__(self, href):
        self.href = href  # (language, term id) -> address, relative to the page being written
        self.used: dict = {}  # term id -> keys of pages, in the order of building
        self.seen: set = set()
        self._words = {lang: _words(lang) for lang in ("en", "ja")}
        self._pattern = {lang: _pattern(self._words[lang], lang) for lang in ("en", "ja")}
        self._folded = {lang: {word.casefold(): id for word, id in words.items()}
                        for lang, words in self._words.items()}

    def link(self, html: str, page: str, lang: str) -> str:
        "Link what `page` uses for the first time in this language; `html` holds text, links and no other tags."
        def replace(match):
            word = match[0].casefold()
            id = self._folded[lang].get(word) or self._folded[lang].get(word.removesuffix("s"))
            if (page, lang, id) in self.seen:
                return match[0]
            self.seen.add((page, lang, id))
            self.used.setdefault(id, {})[page] = None
            term = GLOSSARY[id]
            meaning = escape(term.meaning_ja if lang == "ja" else term.meaning)
            return f'<a class="term" href="{self.href(lang, id)}" title="{meaning}">{match[0]}</a>'
        parts = re.split(r"(<a .*?</a>)", html)
        return "".join(part if part.startswith("<a ") else self._pattern[lang].sub(replace, part) for part in parts)
