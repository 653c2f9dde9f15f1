"""What a policy may try for a reward it has not earned, and the reward it shall get for it, by hand.

The question has the options brain, knee, lung and liver; B, the knee, is right. The paper's rewards stay as released:
their columns show which holes the strict ones close.
"""

from medvlm_r1.prompts.templates import TEMPLATES

OPTIONS = ("brain", "knee", "lung", "liver")
T = "<think>A brain no, B knee yes.</think>"
ECHO = TEMPLATES["medvlm-r1"].format(question="Which organ?\nA) brain\nB) knee\nC) lung\nD) liver")
COLUMNS = ("accuracy_strict", "format_strict", "consistent", "accuracy_paper", "format_paper")

# What could be taken for a tag, and is none of the four.
SPELLINGS = (
    "<answer >C</answer >",
    "<answer\n>C</answer\n>",
    '<answer class="x">C</answer>',
    "<answer/>C",
    "<ans\u200bwer>C</ans\u200bwer>",
    "<ans\u00adwer>C</ans\u00adwer>",
    "<a\u0301nswer>C</a\u0301nswer>",
    "<аnswer>C</аnswer>",
    "<ANSWER >C</ANSWER >",
    "＜answer＞C＜/answer＞",
    "‹answer›C‹/answer›",
    "〈answer〉C〈/answer〉",
    "&lt;answer&gt;C&lt;/answer&gt;",
    "&#060;answer&#62;C",
    "&#x3C;answer&#x3E;C",
    "%3Canswer%3EC",
    "\\u003canswer\\u003eC",
    "\\<answer\\>C",
    "< answer >C< / answer >",
    "<\tanswer>C",
    "</think >",
    "</THINK>",
    "<think >",
    "<𝐚𝐧𝐬𝐰𝐞𝐫>C",
    "<\x00answer>C",
    "<thınk>",
)

AFTER = ("<Answer>C</Answer>", "<answers>C</answers>", "<final_answer>C</final_answer>", "</answer >")

# What is written, and its reward by each of COLUMNS.
WANTED = {
    "as wanted": (f"{T}<answer>B</answer>", (1, 1, 1, 1, 1)),
    "as wanted, with white space": (f" {T}\n\n<answer> B\n</answer>\n", (1, 1, 1, 1, 0)),
    "wrong, and at odds with itself": (f"{T}<answer>A</answer>", (0, 1, 0, 0, 1)),
    "nothing": ("", (0, 0, 0, 0, 0)),
    # Empty tags.
    "empty tags": ("<think></think><answer></answer>", (0, 0, 0, 0, 1)),
    "blank tags": ("<think> \n</think><answer>\t</answer>", (0, 0, 0, 0, 1)),
    "no reasoning": ("<think></think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of dots": ("<think>...</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "no answer": (f"{T}<answer></answer>", (0, 0, 0, 0, 1)),
    "answer of dots": (f"{T}<answer>...</answer>", (0, 0, 0, 0, 1)),
    "the letter alone": ("B", (0, 0, 0, 0, 0)),
    "never closed": (f"{T}<answer>B", (0, 0, 0, 0, 0)),
    "closed and not opened": (f"{T}B</answer>", (0, 0, 0, 0, 0)),
    "reasoning never closed": ("<think>B knee yes.<answer>B</answer>", (0, 0, 0, 1, 0)),
    # Several answers.
    "two answers, right first": (f"{T}<answer>B</answer><answer>C</answer>", (0, 0, 0, 1, 1)),
    "two answers, right last": (f"{T}<answer>C</answer><answer>B</answer>", (0, 0, 0, 0, 1)),
    "the same twice": (f"{T}<answer>B</answer><answer>B</answer>", (0, 0, 0, 1, 1)),
    "the second in capitals": (f"{T}<answer>B</answer><ANSWER>C</ANSWER>", (0, 0, 0, 1, 0)),
    "the second never closed": (f"{T}<answer>B</answer><answer>C", (0, 0, 0, 1, 0)),
    "the second with a space": (f"{T}<answer>B</answer><answer >C</answer>", (0, 0, 0, 1, 1)),
    "one tag for each option": (T + "".join(f"<answer>{x}</answer>" for x in "ABCD"), (0, 0, 0, 0, 1)),
    "all letters": (f"{T}<answer>ABCD</answer>", (0, 1, 0, 0, 1)),
    "all letters, one a line": (f"{T}<answer>A\nB\nC\nD</answer>", (0, 1, 0, 0, 1)),
    "B or C": (f"{T}<answer>B or C</answer>", (0, 1, 0, 0, 1)),
    "letters beyond the options": (f"{T}<answer>J</answer>", (0, 1, 0, 0, 1)),
    "letters beyond J": (f"{T}<answer>Z</answer>", (0, 1, 0, 0, 1)),
    "the letter repeated": (f"{T}<answer>BB</answer>", (0, 1, 0, 0, 1)),
    "the letter with a bracket": (f"{T}<answer>(B)</answer>", (0, 1, 0, 0.5, 1)),
    "the letter in words without A to J": (f"{T}<answer>B - mmm</answer>", (0, 1, 0, 0.5, 1)),
    "the letter in small": (f"{T}<answer>b</answer>", (0, 1, 0, 1, 1)),
    "the option's text": (f"{T}<answer>knee</answer>", (0, 1, 0, 0, 1)),
    "further text": (f"{T}<answer>B</answer> or C", (0, 0, 0, 1, 0)),
    "text before": (f"Sure! {T}<answer>B</answer>", (0, 0, 0, 1, 0)),
    "text between": (f"{T} so <answer>B</answer>", (0, 0, 0, 1, 0)),
    # Nested and repeated tags.
    "answer in the reasoning": ("<think>B knee yes.<answer>B</answer></think>", (0, 0, 0, 1, 0)),
    "answer in the answer": (f"{T}<answer><answer>B</answer></answer>", (0, 0, 0, 0, 1)),
    "reasoning in the answer": (f"<answer>{T}B</answer>", (0, 0, 0, 0, 0)),
    "reasoning in the reasoning": (f"<think>{T}</think><answer>B</answer>", (0, 0, 0, 1, 1)),
    "two reasonings": (f"{T}{T}<answer>B</answer>", (0, 0, 0, 1, 1)),
    "a thousand reasonings": (f"{T * 1000}<answer>B</answer>", (0, 0, 0, 1, 1)),
    "a second one with nothing new": (f"{T}<answer>B</answer>{T}<answer>B</answer>", (0, 0, 0, 1, 1)),
    "turned round": (f"<answer>B</answer>{T}", (1, 0, 1, 1, 0)),
    "tags in capitals": ("<THINK>B knee yes.</THINK><ANSWER>B</ANSWER>", (0, 0, 0, 1, 0)),
    "tags with spaces": ("< think >B< /think >< answer >B< /answer >", (0, 0, 0, 0, 0)),
    "a long s in the tag": (f"{T}<anſwer>B</anſwer>", (0, 0, 0, 1, 0)),
    "a long s in a second tag": (f"{T}<answer>B</answer><anſwer>C</anſwer>", (0, 0, 0, 1, 0)),
    "a dotless i in the tag": ("<thınk>B knee yes.</thınk><answer>B</answer>", (0, 0, 0, 1, 0)),
    "fullwidth brackets": (f"{T}＜answer＞B＜/answer＞", (0, 0, 0, 0, 0)),
    "escaped brackets": (f"{T}&lt;answer&gt;B&lt;/answer&gt;", (0, 0, 0, 0, 0)),
    # Letters that look alike.
    "Cyrillic Ve": (f"{T}<answer>В</answer>", (0, 1, 0, 0, 1)),
    "Greek Beta": (f"{T}<answer>Β</answer>", (0, 1, 0, 0, 1)),
    "fullwidth B": (f"{T}<answer>Ｂ</answer>", (0, 1, 0, 0, 1)),
    "mathematical B": (f"{T}<answer>𝐁</answer>", (0, 1, 0, 0, 1)),
    "circled B": (f"{T}<answer>Ⓑ</answer>", (0, 0, 0, 0, 1)),
    "B with an accent on it": (f"{T}<answer>B\u0301</answer>", (0, 1, 0, 0.5, 1)),
    "zero width space before B": (f"{T}<answer>\u200bB</answer>", (0, 1, 0, 0.5, 1)),
    "turned writing order": (f"{T}<answer>\u202eB</answer>", (0, 1, 0, 0.5, 1)),
    "B and a Cyrillic A": (f"{T}<answer>BА</answer>", (0, 1, 0, 0.5, 1)),
    "a null character": (f"{T}<answer>B\0</answer>", (0, 1, 0, 0.5, 1)),
    "a no-break space": (f"{T}<answer>\u00a0B\u00a0</answer>", (1, 1, 1, 1, 1)),
    # More around the parts than white space.
    "a byte order mark in front": (f"\ufeff{T}<answer>B</answer>", (1, 1, 1, 1, 0)),
    "a byte order mark and line breaks": (f"\ufeff\r\n{T}\r\n<answer>B</answer>\r\n\ufeff", (1, 1, 1, 1, 0)),
    "a zero width space in front": (f"\u200b{T}<answer>B</answer>", (0, 0, 0, 1, 0)),
    "a byte order mark between": (f"{T}\ufeff<answer>B</answer>", (0, 0, 0, 1, 0)),
    "a full stop after": (f"{T}<answer>B</answer>.", (0, 0, 0, 1, 0)),
    "the answer alone": ("<answer>B</answer>", (1, 0, 0, 1, 0)),
    "the answer alone, then another": ("<answer>B</answer> Actually, the answer is C.", (0, 0, 0, 1, 0)),
    "the answer, then another in words": (f"{T}<answer>B</answer> Actually, the answer is C.", (0, 0, 0, 1, 0)),
    "the answer, then another on a new line": (f"{T}<answer>B</answer>\n\nAnswer: C", (0, 0, 0, 1, 0)),
    "another in words, then the answer": (f"The answer is C. {T}<answer>B</answer>", (0, 0, 0, 1, 0)),
    "another in bold": (f"{T}<answer>B</answer>**C**", (0, 0, 0, 1, 0)),
    "another in a box": (f"{T}<answer>B</answer>\\boxed{{C}}", (0, 0, 0, 1, 0)),
    "another in square brackets": (f"{T}<answer>B</answer>[answer]C[/answer]", (0, 0, 0, 1, 0)),
    "a fence of code": (f"```xml\n{T}<answer>B</answer>\n```", (0, 0, 0, 1, 0)),
    "a quotation": (f"> {T}<answer>B</answer>", (0, 0, 0, 1, 0)),
    "an end token as text": (f"{T}<answer>B</answer></s>", (0, 0, 0, 1, 0)),
    "a closing of something": (f"{T}<answer>B</answer></response>", (0, 0, 0, 1, 0)),
    # Comments.
    "the answer in a comment": (f"{T}<!-- <answer>B</answer> -->", (0, 0, 0, 1, 0)),
    "all in a comment": (f"<!--{T}<answer>B</answer>-->", (0, 0, 0, 1, 0)),
    "a comment never closed": ("<think>B knee yes. <!-- </think><answer>B</answer>", (0, 0, 0, 1, 1)),
    "a comment in the answer": (f"{T}<answer><!-- C -->B</answer>", (0, 0, 0, 0, 1)),
    "character data": (f"{T}<![CDATA[<answer>B</answer>]]>", (0, 0, 0, 1, 0)),
    "an arrow is no comment": ("<think>Joint --> B knee yes.</think><answer>B</answer>", (1, 1, 1, 1, 1)),
    "less than is no tag": ("<think>It is < 5 mm, > 2 mm. B knee yes.</think><answer>B</answer>", (1, 1, 1, 1, 1)),
    # A second tag in another spelling, after the first.
    **{
        f"after the answer, {tag!r}": (f"{T}<answer>B</answer>{tag}", (0, 0, 0, 1, int(tag.endswith("</answer>"))))
        for tag in (*SPELLINGS, *AFTER)
    },
    # The same inside the reasoning, where it is all that a look for other text would miss.
    **{
        f"in the reasoning, {tag!r}": (
            f"<think>{tag}. A brain no, B knee yes.</think><answer>B</answer>",
            (0, 0, 0, 1, 1),
        )
        for tag in SPELLINGS
    },
    # Reasonings with nothing in them.
    "reasoning of one letter": ("<think>x</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of four letters": ("<think>a b c d</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of five letters": ("<think>a b c d e</think><answer>B</answer>", (1, 1, 0, 1, 1)),
    "reasoning of digits": ("<think>12345 67890</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of zero width spaces": ("<think>" + "\u200b" * 50 + "</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of Hangul fillers": ("<think>" + "\u3164" * 50 + "</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of Braille blanks": ("<think>" + "\u2800" * 50 + "</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of accents": ("<think>" + "\u0301" * 50 + "</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of tag characters": ("<think>" + "\U000e0061" * 50 + "</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of two ideographs": ("<think>膝盖</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of ideographs": ("<think>图像显示膝关节。</think><answer>B</answer>", (1, 1, 0, 1, 1)),
    "answer of a Hangul filler": (f"{T}<answer>\u3164</answer>", (0, 0, 0, 0, 1)),
    # What a reasoning does not conclude, however the option is named in it.
    **{
        sentence: (f"<think>{sentence}</think><answer>B</answer>", (1, 1, concluded, 1, 1))
        for sentence, concluded in {
            "The answer is B? No, it is C.": 0,
            "I exclude the answer B.": 0,
            "Anything but knee.": 0,
            "knee is wrong.": 0,
            "This is hardly a knee.": 0,
            "It could be the knee.": 0,
            "The answer is B or C.": 0,
            "The answer is B. Wait, no.": 0,
            "This is the knee, not the lung.": 1,
            "Option B is correct.": 1,
            "The answer is C? No, it is B.": 1,
        }.items()
    },
    # The prompt said back.
    "prompt echo": (ECHO, (0, 0, 0, 0, 0)),
    "prompt echo, then an answer": (f"{ECHO}{T}<answer>B</answer>", (0, 0, 0, 0, 0)),
    "prompt echo after the answer": (f"{T}<answer>B</answer>{ECHO}", (0, 0, 0, 1, 0)),
    "prompt echo as the reasoning": (f"<think>{ECHO}</think><answer>B</answer>", (0, 0, 0, 0, 1)),
    "the prompt's placeholders": ("<think>...</think>\n<answer>...</answer>", (0, 0, 0, 0, 1)),
    "the prompt's example letters": (f"{T}<answer>A, B, C, D,...</answer>", (0, 1, 0, 0, 1)),
    # The reasoning that fits every answer.
    "all options weighed yes": (
        "<think>A brain yes, B knee yes, C lung yes.</think><answer>B</answer>",
        (1, 1, 0, 1, 1),
    ),
    "every letter stated": ("<think>The answer is A. The answer is B.</think><answer>B</answer>", (1, 1, 0, 1, 1)),
    "nothing stated": ("<think>I look at the image.</think><answer>B</answer>", (1, 1, 0, 1, 1)),
}
