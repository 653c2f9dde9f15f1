"""Lenient reading: the option that a careful reader takes from a reply that is not in the trained format.

It is reported next to the strict letter and never replaces it. Strict accuracy and rewards do not use it.
The rules, in the order in which they apply:

1. A mention is a letter of an option or the text of an option. A letter next to its own option is one mention.
   "A" before a noun is an article. Longer option texts are matched first.
2. A mention is denied ("not B", "B is wrong", "rules out B"), hedged ("maybe B"), hypothetical ("if it were B",
   "B would show") or affirmed. A question affirms nothing. A denied option is never the answer.
3. "B or C", "A, B and C" and a list of all options name several options, so they name none.
4. A mention is stated if a cue introduces or confirms it ("the answer is", "B is correct", a box, "therefore"), or if
   it stands alone in its sentence or opens the reply. An item of a list is stated only by a verdict.
5. The last stated mention is the answer. Stated letters take precedence over stated option texts, and both over the
   explanation. If the last statement names several options or is withdrawn, there is no answer.
6. If nothing is stated: the one affirmed letter; otherwise the one affirmed option text; otherwise none. A refusal or
   a final doubt gives none.

`_WORDS` holds the words of each role in English, German, French and Chinese. Time is linear in the length of the
text: only its first `HEAD` and its last `WINDOW` characters are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.data.sample import LETTERS

WINDOW = 2000
HEAD = 500

_WORDS: dict[str, tuple[str, str, str, str]] = {
    # "not B"
    "deny_before": (
        "no(?!,)|not|nor|neither|never|without|non|exclud(?:e|es|ed|ing)|exclusion|rul(?:e|es|ed|ing) out|eliminat\\w+|except"
        "|rather than|instead of|opposed to|unlike|unlikely|than|absen\\w+|lacks?|negative for|free of|against|anything but"
        "|hardly|scarcely|fails? to|nothing|none|mistaken for|mimic\\w*|confused with|reject\\w*|dismiss\\w*"
        "|initially|at first|first thought|previously|other than|unable|differential\\w*|whether",
        "nicht|kein\\w*|ohne|statt|anstatt|anstelle|außer|weder|ausschlie\\w+|ausgeschlossen|unwahrscheinlich|zunächst|zuerst",
        "ne|n'\\w+|pas|sans|aucune?|ni|plutôt que|au lieu|sauf|exclu\\w*|écart\\w+|absence|d'abord",
        "不(?!仅|但)|没|无|未|非(?!常)|排除|除了",
    ),
    # "B is wrong"
    "deny_after": (
        "not|never|incorrect|wrong|false|(?:rul|exclud|eliminat)ed|unlikely|absent|less (?:likely|probable|consistent)|out"
        "|inconsistent|implausible|improbable|rejected|lacks?|inappropriate",
        "nicht|falsch|inkorrekt|ausgeschlossen|auszuschließen|unwahrscheinlich|unpassend",
        "pas|faux|fausse|incorrecte?|inexacte?|exclue?s?|écartée?s?|improbable|peu probable",
        "不|错|排除|没有|未见",
    ),
    # "maybe B"
    "hedge": (
        "could|may|might|maybe|perhaps|possibly|possible|potentially|either|between|plausible",
        "könnten?|vielleicht|möglicherweise|möglich|eventuell|entweder|zwischen",
        "peut-être|pourrait|possiblement|possible|soit|entre",
        "(?<![最不])可能|也许|或许|要么",
    ),
    # "if it were B"
    "if": (
        "if|unless|(?:probability|likelihood|risk) of|concern\\w*|consult|recommend\\w*",
        "wenn|falls|ob",
        "si",
        "如果|若|是否|要是|建议",
    ),
    # "B would show"
    "would": (
        "would|might|may|could|can|typically|usually|often|commonly|generally|refers? to"
        "|(?:is|are|appears?|looks?) (?:clear|normal|unremarkable|spared|intact|unaffected)",
        "würden?|könnte",
        "serait|pourrait",
        "会|通常",
    ),
    # "B or C"
    "join": ("or|and|nor|vs|versus", "und|oder|sowie|noch", "ou|et|ni", "和|或者?|与|及|、"),
    # "the answer is B": a noun and a copula
    "noun": (
        "answer|ans|choice|option|response|letter|correct|verdict|conclusion|diagnosis|prediction|selection"
        "|(?:right|best|final|likely|appropriate|probable) \\w+",
        "(?:\\w+)?antwort\\w*|lösung|wahl|auswahl|richtige?|korrekte?|diagnose",
        "réponse|reponse|choix|solution|diagnostic|bonne|respuesta|resposta|risposta",
        "答案|选项|诊断|正确|答|结论",
    ),
    "copula": (
        "is|are|was|be|[:=→]|[-–—]\\s",
        "lautet|ist|wäre|sei",
        "est|serait|es|è",
        "是|为|应|选",
    ),
    # "I'd go with B"
    "choose": (
        "choose|chose|pick|select|go(?:ing)? (?:with|for)|opt for|lean(?:ing)?(?: \\w+)? towards?|settle (?:on|for)|guess"
        "|vote for|conclude|say|bet on|leaves|leaving|left with|favou?r|answer with|stick with",
        "wählen?|nehmen?|tippen?(?: auf)?|entscheide mich für|sagen?",
        "choisis|choisirais|opte pour|dirais|penche pour|retiens",
        "选择?|应该是|而是|应为",
    ),
    # "it is B", "not A but B"
    "pronoun": (
        "(?:it|this|that)(?: is|'s| must be| should be)|but|rather",
        "(?:es|das) ist|sondern",
        "c'est|mais",
        "这是|应是",
    ),
    # "consistent with a nodule"
    "finding": (
        "(?:consistent|compatible) with|(?:characteristic|suggestive|typical|indicative|diagnosis) of",
        "vereinbar mit|passend zu",
        "compatible avec|en faveur d[eu]",
        "符合|提示",
    ),
    # "wait, B"
    "correction": (
        "wait|actually|no|correction|sorry|hmm|instead|scratch that",
        "nein|doch",
        "non|pardon",
        "不对|等等",
    ),
    "conclude": (
        "so|therefore|thus|hence|consequently|in conclusion",
        "also|daher|deshalb|folglich|somit",
        "donc|ainsi",
        "因此|所以|综上所述|故",
    ),
    # "B is correct"
    "confirm": (
        "correct|right|true|yes|(?:the )?(?:\\w+ ){0,3}?answer|(?:the )?(?:best|(?:more |most )?likely|most appropriate)|(?:fits|matches) best",
        "richtige?|korrekte?|wählen|nehmen|die beste",
        "correcte?|exacte?|vraie?|juste|la (?:bonne|meilleure)",
        "正确|对|答案|最佳",
    ),
    # what may stand between a cue and a mention
    "filler": (
        "is|are|was|were|be|been|can|could|would|should|must|does|do|did|has|have|seems?|appears?|looks?|to|also|the|an?|that"
        "|it|this|with|for|here|more|very|most|likely|probably|options?|choices?|answer|letter|response|diagnosis|final|\\w+ly|both"
        "|all|therefore|thus|so|then|now|my|i|we|am|of|in|case|as|best|correct|one|considered",
        "ist|sind|war|kann|können|zu|die|der|das|den|dem|eine?|einen|antwort|wohl|wahrscheinlich|klar|damit|daher|eher",
        "est|sont|être|peut|les?|la|l'|une?|de|du|d'|réponse|n'|ne|probablement|donc|il|s'agit|que",
        "[是为应该最可以能的选项择也都了我即就这其它并明显法]",
    ),
    "doubt": (
        "not (?:\\w+ )?(?:sure|certain)|unsure|uncertain|hard to (?:say|tell)|do not know",
        "nicht (?:ganz )?sicher|unklar|weiß (?:es )?nicht",
        "pas (?:\\w+ )?(?:sûre?|certaine?)|ne sais pas",
        "不确定|不清楚|不知道",
    ),
    "refuse": (
        "sorry|unable|can not (?:\\w+ )?(?:assist|help|provide|diagnos\\w*|determin\\w*|interpret|tell|say|answer|identify|be)"
        "|not able|difficult to|insufficient|not enough|unclear",
        "unmöglich|leider",
        "impossible|désolée?",
        "无法|不能|抱歉",
    ),
    "contrast": ("but|however|although|though|while|nevertheless", "aber|jedoch", "mais|cependant", "但|然而"),
    # where a clause begins
    "clause": (
        "(?<!thing )but|however|so|because|since|although|though|while|whereas|which|due to|based on"
        "|and (?=(?:the|there|it|this|is|i)\\b)|as (?=(?:the|it|there|no|this|an?)\\b)",
        "sondern|aber|weil|da|denn|deshalb|daher|und (?=(?:es|das|die|der)\\b)",
        "mais|car|donc|parce|tandis|puisque|et (?=(?:il|elle|le|la)\\b)",
        "而是|但|因为|所以|因此|由于|应",
    ),
    # where a clause begins after a comma
    "start": (
        "its?|this|that|there|these|the|i|we|he|she|not|with|rather|instead|and (?:not|it|the|there|i)|\\w+ing|therefore|thus|hence|then|my",
        "es|er|sie|das|die|der|nicht",
        "ils?|elle|ce|c'est|on|je|et non|pas",
        "[一-鿿]",
    ),
}
_LATIN = "A-Za-z0-9À-ɏ"
_LEFT, _RIGHT = f"(?<![{_LATIN}])", f"(?![{_LATIN}])"
_MENTION = "[\ue000-\ue013]"


def _words(*roles: str) -> str:
    """A pattern for any word of the roles; Latin words have word boundaries."""
    rows = [_WORDS[role] for role in roles]
    latin = "|".join(word for row in rows for word in row[:3])
    return f"(?:(?<![{_LATIN}'])(?:{latin})(?![{_LATIN}])|{'|'.join(row[3] for row in rows)})"


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_GAP = rf"(?:[^\w\ue000-\ue013]|{_words('filler')}){{0,40}}+$"
_CUES = [
    _re(rf"{_words('noun')}[^\ue000-\ue013]{{0,60}}?{_words('copula')}{_GAP}"),
    _re(rf"{_words('choose', 'finding')}{_GAP}"),
    _re(rf"^\W*{_words('conclude')}"),
]
_PRONOUN = _re(rf"{_words('pronoun')}{_GAP}")
_CORRECTION = _re(rf"{_words('correction')}{_GAP}")
_DENY_BEFORE = _re(_words("deny_before"))
_DENY_TAIL = _re(rf"\W{{0,4}}(?:{_words('join')}\s*)?{_words('deny_before')}(?:\s|{_words('filler')}){{0,12}}+$")
_PREDICATE = rf"^(?:[^\w\n]*[\w']+)?(?>\W|{_words('filler')}){{0,24}}?"
_DENY_AFTER = _re(rf"{_PREDICATE}{_words('deny_after')}|^\W{{0,6}}(?:no|nein|non)\s*(?:[,.;)\n—-]|$)")
_CONFIRM = _re(
    rf"^(?=\W{{0,6}}(?:[:(–—-]|{_words('copula')}))(?>\W|{_words('filler')}){{0,16}}?{_words('confirm')}|^\W*(?:yes|ja|oui|wählen)\b"
)
_WOULD = _re(rf"^\W*(?:\w+\W+)?{_words('would')}")
_HEDGE_BEFORE = _re(_words("hedge"))
_HEDGE_AFTER = _re(rf"{_PREDICATE}(?:possible|plausible|möglich|可能)|^\W{{0,3}}(?:or|oder|ou|或)\b")
_IF = _re(_words("if"))
_VERB = _re(
    r"\b(?:is|are|was|were|shows?|seems?|appears?|has|have|fits|matches|ist|sind|zeigt|est|sont|montre)\b|是|为"
)
_JOINED = _re(rf"(?:[^\w\ue000-\ue013]|{_words('join', 'hedge')}|even|also|option|choice){{0,12}}+")
_JOIN = _re(rf"{_words('join')}|/")
_BARE = _re(rf"(?:\W|{_words('filler', 'conclude', 'choose')}|hmm|{_words('correction')})*+")
_THIS = r"^\W*(?:so|thus|therefore)?\W*(?:this|that|it|dies|das|ce|ceci|这|该)(?:\s?\w+){0,2}?"
_THIS_WRONG = _re(rf"{_THIS}\W{_words('copula')}?\W*(?:\w+\W+){{0,2}}?{_words('deny_after')}")
_THIS_RIGHT = _re(rf"{_THIS}\W{_words('copula')}\W*(?:\w+\W+){{0,2}}?{_words('confirm')}")
_DOUBT, _REFUSE, _CONTRAST = _re(_words("doubt")), _re(_words("refuse")), _re(_words("contrast"))
_FIRST_NO = _re(r"^\W*(?:no|nein|non|yes|ja|oui|well|ok(?:ay)?)[,.:]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[;。])|\n")
_CLAUSE = _re(
    rf"(?={_words('clause')})|[,](?=\s*{_words('start')})|(?<=[一-鿿]),|[(](?={_words('join')}?\s*{_words('deny_before')})"
)

# Rewriting before anything is read: LaTeX, markdown, contractions, idioms that hold a denial without one.
_CLEAN = [
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), text)
    for pattern, text in (
        ("[\ue000-\ue0ff\u200b-\u200f\ufe0f\ufeff]", ""),
        (r"</?[a-z]{1,8}\s?/?>", " "),
        (r"^[\s*-]*[✅✔✓☑]", "correct: "),
        (r"^[\s*-]*[❌✗✘✖]", "not "),
        (r"[✅✔✓☑]", ": correct; "),
        (r"[❌✗✘✖]", ": incorrect; "),
        (r"\\f?boxed\s*", " answer: "),
        (r"[,{]\s*[\"'](\w{1,20})[\"']\s*:", r"\n\1: "),
        (r"\\[a-z]{1,12}\s*(?=\{)|\\[()\[\]]|[$`{}#]|\*\*|_", " "),
        (r"(?<!\w)\*([^*\n]{1,200}?)\*(?!\w)", r"\1"),
        (r"[‘’]", "'"),
        (r"\bcan(?:not|'t)", "can not"),
        (r"n't\b", " not"),
        (r"\bif i (?:really )?(?:had|have|must|need)(?: to)? \w+", "I"),
        (r"\bno doubt\b|\bwithout (?:a |any )?doubt\b|\bnot only\b|\bnicht nur\b", "surely"),
        (r"\b(?:can|could) not (?:be )?(?:entirely |completely )?(?:ruled? out|excluded?)", "possibly, possible"),
        (r"^[\s>•*-]+(?=\S)", ""),
        (
            r"\b(answer|choice|option|response|diagnosis|is|are|with|be|antwort|lautet|ist|réponse|est|答案|是)[^\w\n]*\n\s*",
            r"\1: ",
        ),
    )
]
_NUMBERED = re.compile(r"^\s*\d{1,2}[.)]\s+(?=\S)", re.MULTILINE)
# An answer letter is no article, no name ("hepatitis B", "B cells") and no half of a compound.
_LETTER = re.compile(rf"(?<![{_LATIN}°&])(?<![{_LATIN}][-'])([A-J])(?![{_LATIN}&])(?![-'][{_LATIN}])")
_SMALL = _re(
    rf"\(([a-j])\)|^\W*([a-j])(?=\s*[.):]|\W*$)"
    rf"|{_words('noun')}(?:\W|{_words('copula')}|option|choice){{1,8}}([a-j])(?=\W*(?:[.,;)\]\n\"']|$))"
)
_ARTICLE = re.compile(
    r"\s+(?!(?:is|was|and|or|as|because|since|seems|appears|matches|fits|would|could|can|with|for|due|but|not|over|rather"
    r"|instead|though|if|based|given|looks|best|does|has|should|might|may|no|yes|ist|und|oder|weil|est|ou|et|car)\b)[a-zà-ÿ]"
)
_CALLED = _re(r"\b(?:option|choice|letter|answer|antwort|réponse)\W{1,3}$")
_NAMED_BEFORE = _re(
    r"\b(?:vitamin|hepatitis|type|typ|stage|stadium|stade|grad|grade|class|klasse|classe|group|gruppe|groupe|zone|phase"
    r"|stanford|figure|panel|image|arrow|view|marked|labell?ed|structure|organ|point|influenza|h[ae]+mophilia|hépatite|kerley|child-pugh|category|level)\s$|维生素$"
)
_NAMED_AFTER = _re(r"[\s-](?:cells?|lines?|mode|waves?|arm|dimer|spine|scan|virus)\b|\s?[型型级超]")
_NORMAL = {"normal", "abnormal", "healthy", "unremarkable", "unauffällig", "正常"}
_YES_NO = {"yes", "no", "ja", "nein", "oui", "non", "是", "否", "true", "false"}
_WHOLE = r"(?:chest|brain|x-?ray|radiograph|image|picture|scan|study|exam\w*|ct|mri|film|finding|anatomy|result|retina|fundus|skin|befund|bild|aufnahme|examen)"
_IS_WHOLE = _re(
    rf"(?:^|\b{_WHOLE}s?|\b(?:it(?:'s)?|this|that|everything|all|patient|as|suggest\w*|indicat\w*|consistent with|be|answer|diagnosis|option)|[:=,.(]"
    r"|图像|胸片|影像|结果|检查|诊断|答案)\W*"
    r"(?:(?:is|are|was|appears?|looks?|seems?|to|be|within|completely|entirely|clearly|not|likely|most|an?|the|option|ist|est|是|为|:)\b\W*)*$"
)
_WHOLE_FOLLOWS = _re(rf"\W*$|\s*[.,;:)!?\n(-]|\s+(?:and|or|but|because|since|so|with|option|{_WHOLE})\b")


@dataclass(slots=True, kw_only=True)
class _Mention:
    """One mention of an option: rules 2 to 4 decide its status."""

    letter: str
    is_letter: bool
    end: int
    status: str = "affirmed"
    stated: bool = False
    confirmed: bool = False
    corrected: bool = False
    opens_line: bool = False


def letter_in_prose(text: str, options: Sequence[str]) -> str | None:
    """The option that a reply names as its answer.

    Args:
        text: The reply, the text of an answer tag, or the part after the reasoning.
        options: Option texts; without them any of A to J is a letter.

    Returns:
        A letter by the rules of this module; None if there is no answer, or more than one.
    """
    if len(text) > HEAD + WINDOW:
        head, tail = re.split(r"[^\s.]*$", text[:HEAD])[0], re.split(r"^\S*\s", text[-WINDOW:], maxsplit=1)[-1]
        text = f"{head}\n{tail}"
    cores = _cores(options)
    whole = cores.get(_core(text))
    if whole:
        return whole
    text = _mask(_clean(text), cores)
    mentions = _unlist(_read(text, cores))
    return _decide(mentions, text, LETTERS[: len(options) or len(LETTERS)])


def _core(text: str) -> str:
    """Text for comparing: lower case, single spaces, no punctuation around it."""
    text = " ".join(_clean(text[: WINDOW + 1]).split()).casefold()
    return text.strip(" .,;:!?\"'()") or text


def _cores(options: Sequence[str]) -> dict[str, str]:
    """Core of each option's text to its letter; the first of equal texts counts, as in `Sample.letter`."""
    cores: dict[str, str] = {}
    for letter, text in zip(LETTERS, options, strict=False):
        core = re.sub(r"^(?:an?|the)\s+(?=\S{2})", "", _core(text))
        # An option that is itself a letter cannot be told from the letter of another.
        if core and not (len(core) == 1 and core.upper() in LETTERS) and len(core) <= WINDOW:
            cores.setdefault(core, letter)
    return cores


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _CLEAN:
        text = pattern.sub(replacement, text)
    return _NUMBERED.sub("", text) if len(_NUMBERED.findall(text)) > 1 else text


def _option_pattern(core: str) -> str:
    body = r"[\s-]+".join(re.escape(part) for part in re.split(r"[\s-]+", core) if part) or re.escape(core)
    if core in _YES_NO:
        return rf"(?<![\w不]){body}(?=的?\W*(?:$|[.,;:!?)/(\n—-]|(?:or|oder|ou|there|it|this|the|i)\b))"
    if core[-1] == "y":
        body = body[:-1] + "(?:y|ies)"
    elif core[-1].isascii() and core[-1].isalpha() and len(core) > 3:
        body += "(?:e?s)?"
    left = rf"(?<![{_LATIN}])" if re.match(f"[{_LATIN}]", core) else ""
    right = rf"(?![{_LATIN}])" if re.search(f"[{_LATIN}]$", core) else ""
    if core[0].isdigit():
        left += r"(?<!\d[.,])"
    if core[-1].isdigit():
        right = r"(?:w(?=\b))?" + right + r"(?![.,]\d)" + (r"(?!\s?(?:cm|mm))" if core.isdigit() else "")
    return left + body + right + r"(?!\s(?:answer|choice|diagnosis)\b)"


def _mask(text: str, cores: dict[str, str]) -> str:
    """The text with every mention replaced by one character: letters U+E000 on, option texts U+E00A on."""
    if cores:
        ordered = sorted(cores, key=len, reverse=True)
        bodies = "|".join(f"(?P<o{index}>{_option_pattern(core)})" for index, core in enumerate(ordered))
        named = _re(rf"(?:{_LEFT}(?:an?|the|der|die|das|den|eine?n?|une?|la|les?)\s+|\bl')?(?:{bodies})")

        def option(match: re.Match[str]) -> str:
            core = ordered[int((match.lastgroup or "o0")[1:])]
            before, after = text[max(0, match.start() - 120) : match.start()], text[match.end() : match.end() + 20]
            if core in _NORMAL and not (_IS_WHOLE.search(before.rpartition("\n")[2]) and _WHOLE_FOLLOWS.match(after)):
                return match[0]
            return chr(0xE00A + LETTERS.index(cores[core])) + "," * (core in _YES_NO)

        text = named.sub(option, text)

    def letter(match: re.Match[str]) -> str:
        before, after = text[max(0, match.start(1) - 40) : match.start(1)], text[match.end(1) : match.end(1) + 20]
        called = _CALLED.search(before)
        if _NAMED_BEFORE.search(before) or _NAMED_AFTER.match(after):
            return match[0]
        if match[1] in "AI" and not called and _ARTICLE.match(after):
            return match[0]
        return chr(0xE000 + LETTERS.index(match[1]))

    def small(match: re.Match[str]) -> str:
        index = match.lastindex or 1
        at = match.start(index) - match.start()
        return match[0][:at] + match[0][at].upper() + match[0][at + 1 :]

    text = _LETTER.sub(letter, _SMALL.sub(small, text))
    # "B) Lung nodule" and "Lung nodule (B)" are one mention, by the letter.
    text = re.sub(
        r"([\ue000-\ue009])[^\w\n\ue000-\ue013]{0,6}([\ue00a-\ue013])",
        lambda match: match[1] if ord(match[2]) - ord(match[1]) == 10 else match[1] + match[2],
        text,
    )
    return re.sub(
        r"([\ue00a-\ue013])[^\w\n\ue000-\ue013]{0,4}(?:option |choice )?([\ue000-\ue009])",
        lambda match: match[2] if ord(match[1]) - ord(match[2]) == 10 else match[0],
        text,
    )


def _read(text: str, cores: dict[str, str]) -> list[_Mention]:
    """All mentions in the masked text, with their status."""
    mentions: list[_Mention] = []
    start = 0
    for stop in [*(match.start() for match in _SENTENCE.finditer(text)), len(text)]:
        sentence, offset, start = text[start:stop], start, stop
        found = re.findall(_MENTION, sentence)
        if not found:
            if mentions and _THIS_WRONG.match(sentence):
                mentions[-1].status = "denied"
            elif mentions and _THIS_RIGHT.match(sentence):
                mentions[-1].stated = True
            continue
        question = sentence.rstrip(" *\"')").endswith("?")
        bare = _BARE.fullmatch(re.sub(_MENTION, " ", sentence)) is not None
        opens = text[:offset].rstrip(" ").endswith("\n") or not text[:offset].strip() or sentence.startswith("\n")
        first = len(mentions)
        no = _FIRST_NO.match(sentence)
        cuts = [
            0,
            *([no.end()] if no else []),
            *(match.start() for match in _CLAUSE.finditer(sentence, no.end() if no else 0)),
        ]
        for begin, end in zip(cuts, [*cuts[1:], len(sentence)], strict=True):
            mentions += _read_clause(sentence[begin:end], offset + begin)
        for mention in mentions[first:]:
            if mention.status == "affirmed" and (question or _IF.search(text, offset, mention.end)):
                mention.status = "open"
            mention.stated |= bare
        if bare:
            _close(mentions[first:], False)
        if opens and re.match(rf"\W*?{_MENTION}", sentence):
            mentions[first].opens_line = True
    names = {letter: core for core, letter in cores.items()}
    live = any(mention.status in ("affirmed", "hedged", "several") for mention in mentions)
    for mention in mentions:
        core = names.get(mention.letter, "")
        mention.stated |= core in _YES_NO
        # Without another option, "no visible fracture" affirms the option "no fracture".
        if not live and mention.status == "denied" and not mention.is_letter and f"no {core}" in cores:
            mention.letter, mention.status, mention.stated = cores[f"no {core}"], "affirmed", False
    return mentions


def _read_clause(clause: str, offset: int) -> list[_Mention]:
    spans = [match.start() for match in re.finditer(_MENTION, clause)]
    mentions: list[_Mention] = []
    run: list[_Mention] = []
    start, denied, hedged, coordinated = 0, False, False, False
    for at, following in zip(spans, [*spans[1:], len(clause)], strict=False):
        before, after = clause[start:at], clause[at + 1 : following]
        if following < len(clause):
            after = _DENY_TAIL.sub("", after)
        index = ord(clause[at]) - 0xE000
        mention = _Mention(letter=LETTERS[index % 10], is_letter=index < 10, end=offset + at + 1)
        between = clause[spans[len(mentions) - 1] + 1 : at] if mentions else ""
        joined = bool(run) and _JOINED.fullmatch(between) is not None
        goes_on = bool(mentions) and (joined or not _VERB.search(before))
        denied = _DENY_BEFORE.search(before) is not None or (denied and goes_on)
        hedged = _HEDGE_BEFORE.search(before) is not None or (hedged and goes_on)
        confirmed = None if denied else _CONFIRM.match(after)
        wrong = None if confirmed else _DENY_AFTER.match(after)
        possible = _HEDGE_AFTER.match(after)
        tail = before[-150:]
        mention.confirmed, mention.corrected = confirmed is not None, _CORRECTION.search(tail) is not None
        mention.stated = mention.confirmed or mention.corrected or any(cue.search(tail) for cue in _CUES)
        mention.stated |= mention.is_letter and _PRONOUN.search(tail) is not None
        if denied or wrong:
            mention.status = "denied"
        elif hedged or possible:
            mention.status = "hedged"
        elif not confirmed and _WOULD.match(after):
            mention.status = "open"
        start = at + 1 + max((match.end() for match in (confirmed, wrong, possible) if match), default=0)
        if not joined:
            _close(run, coordinated)
            run, coordinated = [], False
        coordinated |= joined and _JOIN.search(between) is not None
        run.append(mention)
        mentions.append(mention)
    _close(run, coordinated)
    return mentions


def _close(run: list[_Mention], coordinated: bool) -> None:
    """Give the mentions of "A, B and C" a common status."""
    if coordinated and run[-1].status == "denied":
        for mention in run:
            mention.status = "denied"
    live = [mention for mention in run if mention.status in ("affirmed", "hedged")]
    if len({mention.letter for mention in live}) > 1:
        stated = any(mention.stated for mention in live)
        for mention in live:
            mention.status, mention.stated = "several", stated


def _unlist(mentions: list[_Mention]) -> list[_Mention]:
    """Items of a list state nothing unless they carry a verdict."""
    items = [mention for mention in mentions if mention.opens_line]
    for first, second in zip(items, items[1:], strict=False):
        if first.letter < second.letter and "denied" not in (first.status, second.status):
            for item in (first, second):
                if not item.confirmed:
                    item.status = "open"
    return mentions


def _decide(mentions: list[_Mention], text: str, valid: str) -> str | None:
    live = [mention for mention in mentions if mention.status in ("affirmed", "hedged", "several")]
    if live and live[0].is_letter and re.match(rf"\W*?{_MENTION}", text) and live[0] is mentions[0]:
        live[0].stated = True
    stated = [mention for mention in live if mention.stated and mention.status != "hedged"]
    for pool in ([m for m in stated if m.is_letter or m.corrected], stated):
        if pool:
            last = pool[-1]
            later = [m for m in mentions if m.end > last.end and m.is_letter >= last.is_letter]
            withdrawn = any(
                m.letter == last.letter
                if m.status == "denied"
                else m.status == "hedged" and m.letter != last.letter and (m.is_letter or m.stated)
                for m in later
            )
            doubted = withdrawn or last.status == "several" or _DOUBT.search(text, last.end)
            return None if doubted or last.letter not in valid else last.letter
    for pool in ([m for m in live if m.is_letter and m.letter in valid], [m for m in live if not m.is_letter]):
        named = {m.letter for m in pool if m.status == "affirmed"}
        if len(named) > 1:
            return None
        if named:
            last = [m for m in pool if m.letter in named][-1]
            refusal = _REFUSE.search(text, 0, last.end)
            refused = refusal and not _CONTRAST.search(text, max(0, refusal.start() - 15), last.end)
            changed = any(m.end > last.end and m.letter != last.letter and m.status != "several" for m in pool)
            return (
                None
                if refused or changed or _DOUBT.search(text, last.end) or _REFUSE.search(text, last.end)
                else last.letter
            )
    return None
