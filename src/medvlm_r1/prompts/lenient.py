"""Lenient parser: find the option that a careful reader would take from a reply outside the trained format.

The lenient letter is reported next to the strict letter and never replaces it. Strict accuracy and rewards do not use
the lenient letter. Rules:

1. A mention is the letter or the text of an option. A letter next to its own option text is one mention.
   "A" before a noun is an article. Longer option texts are matched first.
2. A mention is denied ("not B", "B is wrong", "rules out B"), hedged ("maybe B"), open ("if it were B", "B would
   show", any question) or affirmed. Only an affirmed mention can be the answer.
3. "B or C", "A, B and C", and a letter with the text of another option name several options and give no answer.
4. A mention is stated if a cue introduces or confirms it ("the answer is", "B is correct", LaTeX box, "therefore"), or
   if it is alone in its sentence or opens the reply. Items of a list (A, B, C in order) are stated only with a verdict.
5. The last stated mention is the answer. Stated letters take precedence over stated option texts, and both over the
   other mentions. If this mention names several options, or is later withdrawn or doubted, there is no answer.
6. If nothing is stated, the answer is the only affirmed letter; otherwise it is the only affirmed option text. There
   is no answer after a refusal, before a final doubt, or if the reasoning is cut off.

`lenient_words.txt` has the words of each role in English, German, French and Chinese. Time is linear in the length of
the text, because only its first `HEAD` and its last `WINDOW` characters are read.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.prompts.words import read_words

WINDOW, HEAD = 2000, 500
_LATIN, _CHINESE = "A-Za-z0-9À-ɏ", "\u3000-鿿"
_LETTERS, _TEXTS, _MENTION = "[\ue000-\ue009]", "[\ue00a-\ue013]", "[\ue000-\ue013]"
"""Characters of the masked text: one for each letter A to J, and one for each option text."""

_ROLES = {
    role: rf"(?:(?:(?<![{_LATIN}'])|(?=[{_CHINESE}]))(?:{words})(?:(?![{_LATIN}])|(?<=[{_CHINESE}])))"
    for role, words in read_words("lenient_words.txt").items()
}


def _re(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which `<role>` stands for any word of that role."""
    return re.compile(re.sub(r"<(\w+)>", lambda role: _ROLES[role[1]], pattern), re.IGNORECASE)


_SPACE = r"[^\w\n\ue000-\ue013]"
_GAP = r"(?:[^\w\ue000-\ue013]|<filler>){0,40}+$"
_PREDICATE = r"^(?:\W?[\w']+)?(?>\W|<filler>){0,24}?"
_CUE = _re(rf"<noun>[^\ue000-\ue013]{{0,60}}?<copula>{_GAP}|(?:<choose>|<revise>){_GAP}|^\W*(?:<conclude>|[→>])")
_CONFIRM = _re(r"^(?=\W{0,6}(?:[(-]|would|<copula>))(?>\W|<filler>){0,16}?<confirm>|^\W*(?:<affirm>|\ue014)")
_DENY_BEFORE, _HEDGE_BEFORE, _IF = _re("<deny>"), _re("<hedge>"), _re("<if>")
_DENY_AFTER = _re(rf"{_PREDICATE}<wrong>|^\W{{0,6}}(?:no|nein|non)\s*(?:[,.;)\n—-]|$)")
_DENY_NEXT = _re(r"\W{0,4}<join>?\s*<deny>(?:\s|<filler>){0,12}+$")
_HEDGE_AFTER = _re(rf"{_PREDICATE}(?:possible|plausible|möglich|可能)|^\W{{0,3}}(?:or|oder|ou|other than)\b|^或")
_WOULD, _VERB, _PRONOUN = _re(r"^\W*(?:\w+\W+)?<would>"), _re("<copula>|<verb>"), _re(rf"<pronoun>{_GAP}")
_JOIN, _JOINED = _re("<join>|/"), _re(r"(?:[^\w\ue000-\ue013]|<join>|<hedge>|even|also|option|choice){0,12}+")
_BARE = _re(r"(?:\W|<filler>|<conclude>|<choose>|<revise>)*+")
_DOUBT, _REFUSE, _CONTRAST = _re("<doubt>"), _re("<refuse>"), _re("<contrast>")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[eiz]\.[gebGEB]\.)(?<!\bvs\.)\s+|(?<=[;。])|\n")
_CLAUSE = _re(rf"(?=<clause>)|,(?= ?(?:<start>|{_MENTION} (?:is|ist)\b))|(?<=[{_CHINESE}]),|[(](?=<join>?\s*<deny>)")

# Replacements before parsing: LaTeX, Markdown, JSON keys, contractions, and idioms that do not deny anything.
_REWRITES = Path(__file__).with_name("lenient_rewrites.txt").read_text(encoding="utf-8")
_CLEAN = [
    (re.compile(f"(?mi){pattern}"), f" {text} ")
    for pattern, _, text in (line.rpartition(" =>") for line in _REWRITES.splitlines())
]
# A capital letter that is not part of a compound, or a lower-case letter that is marked as an answer.
_LETTER = re.compile(
    rf"(?<![{_LATIN}°&])(?<![{_LATIN}][-'])([A-J])(?![{_LATIN}&])(?![-'][{_LATIN}])"
    r"|\(([a-j])\)|(?m:^)\W{0,4}([a-j])(?=\s?[.):]|\W{0,4}(?m:$))"
    rf"|(?i:{_ROLES['noun']}(?:\W|{_ROLES['copula']}|option|choice){{1,8}})([a-j])(?=\W*(?:[.,;)\]\n\"']|$))"
)
_NOUN_FOLLOWS = _re(r"\s+(?!<copula>|<join>|<clause>|<would>|<deny>|<verb>|<affirm>|\w+[^suia]s\b)(?-i:[a-zà-ÿ])")
_CALLED, _NAMED_BEFORE = _re(r"(?:<noun>|<join>|<clause>|<pronoun>|than|that|towards?)\W{1,3}$"), _re(r"<named>\s?$")
_NAMED_AFTER = _re(r"[\s-](?:cells?|lines?|mode|waves?|arm|dimer|spine|scan|virus)\b|\s?[型级超]")
# "The heart is normal" does not name the option "normal"; "the image is normal" does.
_NORMAL = {"normal", "abnormal", "healthy", "unremarkable", "unauffällig", "正常"}
_WHOLE_BEFORE = _re(r"(?:^|<whole>s?|<noun>|[:=,.(])\W*(?:<filler>|'s|within|not|\W)*+$")
_WHOLE_AFTER = _re(r"\W*$|\s*[.,;:)!?\n(-]|\s+(?:and|or|but|because|since|so|to|with|option|<whole>)\b")
_YES_NO = {"yes", "no", "ja", "nein", "oui", "non", "是", "否", "true", "false"}
_LIVE = ("affirmed", "hedged", "several")


@dataclass(slots=True, kw_only=True)
class _Mention:
    """One mention of an option. Rules 2 to 4 of the module determine its status."""

    letter: str
    is_letter: bool
    end: int
    status: str = "affirmed"
    stated: bool = False
    item: bool = False


def letter_in_prose(text: str, options: Sequence[str]) -> str | None:
    """Option letter that a reply names as its answer, by the rules of this module.

    Args:
        text: The reply, the text inside an answer tag, or the text after the reasoning.
        options: Option texts of the question. If empty, any letter from A to J is accepted.

    Returns:
        The letter; None if the reply names no answer, or more than one.
    """
    if len(text) > HEAD + WINDOW:
        text = re.sub(r"[^\s.]*$", "", text[:HEAD]) + "\n" + re.sub(r"^\S*\s", "", text[-WINDOW:])
    cores: dict[str, str] = {}
    for letter, option in zip(LETTERS, options, strict=False):
        core = re.sub(r"^(?:an?|the)\s+(?=\S{2})", "", _core(option))
        # An option text that is a single letter cannot be distinguished from the letter of another option.
        if core and not (len(core) == 1 and core.upper() in LETTERS) and len(core) <= WINDOW:
            cores.setdefault(core, letter)
    if (whole := _core(text)) in cores:
        return cores[whole]
    unfinished = "<think>" in text.lower() and "</think>" not in text.lower()
    text = _mask(_clean(text), cores)
    return _decide(_read(text), text, LETTERS[: len(options) or len(LETTERS)], unfinished)


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    for pattern, replacement in _CLEAN:
        text = pattern.sub(replacement, text).replace("  ", " ")
    return text


def _core(text: str) -> str:
    text = " ".join(_clean(text[: HEAD + WINDOW + 1]).split()).casefold()
    return text.strip(" .,;:!?\"'()") or text


def _option_pattern(core: str) -> str:
    body = r"[\s-]+".join(re.escape(word) for word in re.split(r"[\s-]+", core) if word) or re.escape(core)
    if core.startswith("no "):
        body = rf"no(?:{_SPACE}(?:visible|obvious|acute|clear|definite|apparent|evidence|signs?|of))*{body[2:]}"
    if core in _YES_NO:
        return rf"(?<![\w不]){body}(?=的?\W*(?:$|[.,;:!?)/(\n—-]|(?:or|oder|ou|there|it|this|the|i)\b))"
    if core[-1].isascii() and core[-1].isalpha() and len(core) > 3:
        body = body[:-1] + "(?:ys?|ies)" if core[-1] == "y" else body + "(?:e?s)?"
    left = rf"(?<![{_LATIN}])(?<!\d[.,])" if re.match(f"[{_LATIN}]", core) else ""
    right = rf"(?![{_LATIN}])" if re.search(f"[{_LATIN}]$", core) else ""
    if core[-1].isdigit():
        right = rf"w?{right}(?![.,]\d)" + r"(?!\s?(?:cm|mm))" * core.isdigit()
    return left + body + right + r"(?!\s(?:answer|choice|diagnosis)\b)"


def _mask(text: str, cores: dict[str, str]) -> str:
    """Replace every mention in the text by one character."""
    ordered = sorted(cores, key=len, reverse=True)

    def option(match: re.Match[str]) -> str:
        core = ordered[(match.lastindex or 1) - 1]
        before, after = text[max(0, match.start() - 120) : match.start()], text[match.end() : match.end() + 20]
        if core in _NORMAL and not (_WHOLE_BEFORE.search(before.rpartition("\n")[2]) and _WHOLE_AFTER.match(after)):
            return match[0]
        return chr(0xE00A + LETTERS.index(cores[core])) + "\ue014," * (core in _YES_NO)

    def letter(match: re.Match[str]) -> str:
        index = match.lastindex or 1
        start, end = match.span(index)
        before, after = match.string[max(0, start - 40) : start], match.string[end : end + 20]
        article = match[index] in "AI" and _NOUN_FOLLOWS.match(after) and not _CALLED.search(before)
        if article or _NAMED_BEFORE.search(before) or _NAMED_AFTER.match(after):
            return match[0]
        marked = chr(0xE000 + LETTERS.index(match[index].upper()))
        return match[0][: start - match.start()] + marked + match.string[end : match.end()]

    bodies = "|".join(f"({_option_pattern(core)})" for core in ordered) or "(?!)"
    article = rf"(?:(?<![{_LATIN}])(?:an?|the|der|die|das|den|eine?n?|une?|la|les?)\s+|\bl')?"
    text = re.sub(f"{article}(?:{bodies})", option, text, flags=re.IGNORECASE)
    text = _LETTER.sub(letter, text)

    # "B) Lung nodule" and "Lung nodule (B)" are one mention; "B) Pneumonia" names several options.
    for name, body in ((chr(0xE000 + index), chr(0xE00A + index)) for index in range(len(LETTERS))):
        text = re.sub(rf"{name}{_SPACE}{{0,6}}{body}|{body}{_SPACE}{{0,4}}(?:option |choice )?{name}", name, text)
    return re.sub(rf"({_LETTERS}){_SPACE}{{0,6}}({_TEXTS})", r"\1\2", text)


def _read(text: str) -> list[_Mention]:
    """Find all mentions in the masked text, with their status."""
    mentions: list[_Mention] = []
    start = 0
    for stop in [*(match.end() for match in _SENTENCE.finditer(text)), len(text)]:
        sentence, offset, start = text[start:stop], start, stop
        first, question = len(mentions), sentence.rstrip(" \n*\"')").endswith("?")
        bare = _BARE.fullmatch(re.sub(_MENTION, " ", sentence)) is not None
        cuts = [0, *(match.start() for match in _CLAUSE.finditer(sentence)), len(sentence)]
        for begin, end in pairwise(cuts):
            mentions += _read_clause(sentence[begin:end], offset + begin)
        opens = re.match(rf"\W*?{_MENTION}", sentence) and (not offset or "\n" in text[max(0, offset - 3) : offset])
        condition = _IF.search(sentence)
        for mention in mentions[first:]:
            conditional = condition and offset + condition.end() < mention.end
            mention.status = "open" if mention.status == "affirmed" and (question or conditional) else mention.status
            mention.stated |= bare
            mention.item &= bool(opens) and mention is mentions[first]
        if bare:
            _merge(mentions[first:])
    return mentions


def _read_clause(clause: str, offset: int) -> list[_Mention]:
    spans = [match.start() for match in re.finditer(_MENTION, clause)]
    runs: list[list[_Mention]] = []
    start, previous, denied, hedged = 0, 0, False, False
    for at, following in pairwise([*spans, len(clause)]):
        before, between = clause[start:at], clause[previous:at]
        after = _DENY_NEXT.sub("", clause[at + 1 : following]) if following < len(clause) else clause[at + 1 :]
        joined = bool(runs) and _JOINED.fullmatch(between) is not None
        goes_on = bool(runs) and (joined or not _VERB.search(before))
        denied = _DENY_BEFORE.search(before) is not None or (denied and goes_on)
        hedged = _HEDGE_BEFORE.search(before) is not None or (hedged and goes_on)
        confirmed = None if denied else _CONFIRM.match(after)
        wrong = None if confirmed else _DENY_AFTER.match(after)
        possible = _HEDGE_AFTER.match(after)
        index, tail = ord(clause[at]) - 0xE000, before[-150:]
        mention = _Mention(letter=LETTERS[index % 10], is_letter=index < 10, end=offset + at + 1, item=not confirmed)
        cue = confirmed or _CUE.search(tail) or (mention.is_letter and _PRONOUN.search(tail))
        mention.stated = bool(cue)
        if denied or wrong:
            mention.status = "denied"
        elif hedged or possible:
            mention.status = "hedged"
        elif not confirmed and _WOULD.match(after):
            mention.status = "open"
        runs = runs if joined else [*runs, []]
        runs[-1].append(mention)
        if joined and wrong and _JOIN.search(between):
            for member in runs[-1]:
                member.status = "denied"
        previous = at + 1
        start = previous + max((match.end() for match in (confirmed, wrong, possible) if match), default=0)
    for run in runs:
        _merge(run)
    return [mention for run in runs for mention in run]


def _merge(run: list[_Mention]) -> None:
    """Set the status "several" on the mentions of a run that names several options, such as "B or C"."""
    live = [mention for mention in run if mention.status in _LIVE]
    if len({mention.letter for mention in live}) > 1:
        stated = any(mention.stated for mention in live)
        for mention in live:
            mention.status, mention.stated = "several", stated


def _decide(mentions: list[_Mention], text: str, valid: str, unfinished: bool) -> str | None:
    """Apply rules 4 to 6 of the module: the letter of the answer, or None."""
    for a, b in pairwise([mention for mention in mentions if mention.item]):
        if a.letter < b.letter and a.is_letter == b.is_letter and "denied" not in (a.status, b.status):
            a.status = b.status = "open"
    live = [mention for mention in mentions if mention.status in _LIVE]
    if live and live[0] is mentions[0] and live[0].is_letter and re.match(rf"\W*?{_MENTION}", text):
        live[0].stated = True
    stated = [mention for mention in live if mention.stated and mention.status != "hedged"]
    stated = [mention for mention in stated if mention.is_letter] or stated
    if stated:
        last = stated[-1]
        later = [m for m in mentions if m.end > last.end and m.is_letter >= last.is_letter]
        denied = any(m.status == "denied" and m.letter == last.letter for m in later)
        changed = any(m.status == "hedged" and m.letter != last.letter and (m.is_letter or m.stated) for m in later)
        doubt = denied or changed or last.status == "several" or _DOUBT.search(text, last.end)
        return None if doubt or last.letter not in valid else last.letter
    for pool in ([m for m in live if m.is_letter and m.letter in valid], [m for m in live if not m.is_letter]):
        affirmed = [mention for mention in pool if mention.status == "affirmed" and not unfinished]
        if affirmed:
            last = affirmed[-1]
            refusal = _REFUSE.search(text)
            refused = refusal and not _CONTRAST.search(text, max(0, refusal.start() - 15), last.end)
            changed = any(m.letter != last.letter and (m.status == "affirmed" or m.end > last.end) for m in pool)
            return None if refused or changed or _DOUBT.search(text, last.end) else last.letter
    return None
