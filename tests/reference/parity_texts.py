"""A thousand varied texts, and sentences to train tokenizers of the tests on."""

import random

_ENGLISH = (
    "a the of on in with and photo picture close-up red Blue GREEN dark-brown golden striped old "
    "oak table mug teapot lamp T-shirt café's sign statue building bridge painting book cover toy "
    "bear shoes vase it's isn't 2nd 19th-century Eiffel Tower's hand-made limited edition logo"
)
# Scripts that the tokenizers are trained on, and those that they know nothing of.
_KNOWN = (
    "naïve Ünïcödé ÄÖÜ grün Straße ẞ İstanbul ı ñandú ¿Qué? ¡Sí! œuvre Łódź čeština ångström ﬁsh "
    "Привет Мир фото красная кружка ΑΣ Σίσυφος ὀδός 東京タワー 赤い カップ ﾊﾝｶｸ 北京 红色的杯子 "
    "مرحبا كوب أحمر שלום ½ x² № ㎏ ™ © 5€ £3.50 1,234.5 3/4 10x15cm 50% #1 @home C++ f(x)=2x"
)
_UNKNOWN = (
    "สวัสดี ถ้วยสีแดง 빨간 컵 한국어 नमस्ते लाल கோப்பை ქართული አማርኛ 😀 👍🏽 👩‍👩‍👧‍👦 🇫🇷 ☕️ 🏛 ✓ → ∑ ∞ "
    "𝔘𝔫𝔦 𐍈 e\u0301 zero\u200bwidth soft\u00adhyphen \u202ertl\u202c Z\u0336a\u0335l\u0334go \ufffd"
)
_ESCAPED = (
    "&amp; &amp;amp; &lt;b&gt; &#39;x&#39; caf&eacute; &nbsp; &notanentity; &#x20AC; &quot;q&quot; "
    "&#0; &copy &; &amp;lt;i&amp;gt; &#128512; &hearts; <br/> http://a.b/c?d=e&f=%20g [SEP] <s> "
    "</s> <pad> <unk> <eos> <bos> <extra_id_0> <0x0A> ▁ ▁low_bar"
)
_BETWEEN = (" ",) * 12 + (
    "  ",
    "_",
    "-",
    ", ",
    "\n",
    "\r\n",
    "\t",
    "\u00a0",
    "... ",
    "/",
    "",
    "\u3000",
)
_CASES = (str, str, str, str.lower, str.upper, str.title, str.swapcase)
_SYLLABLES = (
    "ba ke ti lo mu sha rin vel dor pex quo zi",
    "ка ре ти лов ный ста при во",
    "λα με τι ρος φω κη",
    "か ら ナ の 大 山 水 木",
)
ENGLISH, KNOWN, UNKNOWN, ESCAPED = (
    text.split(" ") for text in (_ENGLISH, _KNOWN, _UNKNOWN, _ESCAPED)
)


def _invented(rng: random.Random) -> str:
    """A word of one to four syllables of one script."""
    syllables = rng.choice(_SYLLABLES).split()
    return "".join(rng.choice(syllables) for _ in range(rng.randint(1, 4)))


def _word(rng: random.Random, pools: tuple[list[str], ...]) -> str:
    return _invented(rng) if rng.random() < 0.4 else rng.choice(rng.choice(pools))


def _words(rng: random.Random, count: int) -> list[str]:
    return [_word(rng, (ENGLISH,) * 5 + (KNOWN,) * 2 + (UNKNOWN, ESCAPED)) for _ in range(count)]


def _joined(rng: random.Random, words: list[str]) -> str:
    return "".join(word + rng.choice(_BETWEEN) for word in words)


def _misread(rng: random.Random, text: str) -> str:
    """UTF-8 taken for another encoding."""
    return text.encode().decode(rng.choice(("cp1252", "latin-1", "mac-roman")), "replace")


def _composed(rng: random.Random) -> str:
    """A text of one to 20 words, one of 20 of up to 200, some in one script, some broken."""
    count = rng.randint(50, 200) if rng.random() < 0.05 else rng.randint(1, 20)
    words = _words(rng, count)
    if rng.random() < 0.3:
        words = [_word(rng, (ENGLISH, KNOWN)) for _ in words]
    text = rng.choice(_CASES)(_joined(rng, words))
    return _misread(rng, text) if rng.random() < 0.1 else text


def _edges() -> list[str]:
    """One of each thing that cleaning or tokenizing may trip over."""
    marks = [f"left{c}right {c} {c}{c}end{c}" for c in map(chr, range(33, 127)) if not c.isalnum()]
    plain = ["", " ", "\n", "\u200b", "a photo of a CAT", "The  Eiffel\tTower\n at   night "]
    broken = ["cafÃ©", "donâ€™t", "â€œquotedâ€\x9d", "Ã¼ber", "schÃƒÂ¶n", "\x85 \x93 \x94"]
    quotes = ["\u2018curly\u2019 \u201cquotes\u201d", "en\u2013dash em\u2014dash", "l\u2019Ã©tÃ©"]
    spaces = ["a\u00a0b\u2003c\u3000d", "line\u2028sep", "\ufeffbom", "v\x0bt\x0cf", "\x1c\x1d|"]
    control = ["a\x00b", "bell\x07", "\x1b[31mred\x1b[0m", "a\rb\r\nc\n\nd", "\x7f", "tail\x00"]
    letters = ["ΑΣ ΣΑΣ", "Ǆ ǆ ǅ", "ｆｕｌｌ ｗｉｄｔｈ", "ﷺ", "\U0001f3f4\U000e0067", "İ", "\u0345"]
    lengths = ["word " * n for n in (1, 10, 61, 62, 63, 64, 65, 100)] + ["A" * 300, "_" * 10]
    entities = ["Tom &amp; Jerry", "&amp;amp; twice", "1 < 2 caf&amp;eacute;", "&", "&#95;u&#95;"]
    return (
        plain + marks + broken + quotes + spaces + control + letters + lengths + entities
        + [*KNOWN, *UNKNOWN, *ESCAPED, " _._ _._ ", "." * 10]
    )  # fmt: skip


def texts(count: int = 1000, seed: int = 0) -> list[str]:
    """Texts for the comparison, no two the same."""
    rng = random.Random(seed)
    chosen = dict.fromkeys(_edges())
    while len(chosen) < count:
        chosen[_composed(rng)] = None
    return list(chosen)


def sentences(count: int = 4000, seed: int = 1) -> list[str]:
    """Sentences of the known scripts, clean, as a tokenizer's training set."""
    rng = random.Random(seed)
    pools = (ENGLISH,) * 4 + (KNOWN,)
    return [
        rng.choice(_CASES)(" ".join(_word(rng, pools) for _ in range(12))) for _ in range(count)
    ]
