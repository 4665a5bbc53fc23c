"""Ops of text. A word is what stands between white space; white space stays where it is.

The random ones are those of EDA (Wei and Zou 2019, arXiv 1901.11196) and AEDA (Karimi et al. 2021, arXiv 2108.13230)
that need no lexicon; labels of whole sentences usually survive them at small shares. A reversal is no such op: it is
for tests of robustness, and for models that are to ignore the order of words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from edgekit.augment.text.graphemes import clusters
from edgekit.augment.text.op import TEXT_OPS, TextOp
from edgekit.spec import option

if TYPE_CHECKING:
    import numpy as np

    from edgekit.augment.text.op import Params

MARKS = (".", ";", "?", ":", "!", ",")  # of AEDA
_WORD = re.compile(r"\S+")


def share_field(default: float, help: str) -> Any:
    """Declare how much of a text is changed."""
    return option(default, help=help, ge=0, le=1)


@TEXT_OPS.add
class flip(TextOp):
    """Reverse the order of the words; the meaning changes, so labels may not hold.

    Twice is the text itself, whatever its characters. With unit=chars grapheme clusters are reversed, so that accents,
    emoji and syllables stay whole; a text whose reversal would join or part some of them stays as it is.
    """

    unit: str = option("words", help="what is reversed", choices=("words", "chars"))

    def change(self, text: str, params: Params) -> str:
        """Reverse; the white space between words stays in its place."""
        if self.unit == "words":
            words = iter(_WORD.findall(text)[::-1])
            return _WORD.sub(lambda _: next(words), text)
        turned = clusters(text)[::-1]
        joined = "".join(turned)
        return joined if clusters(joined) == turned else text


@TEXT_OPS.add
class swap(TextOp):
    """Swap random pairs of words; labels usually hold.

    EDA's random swap: share times the number of words, rounded, and one at least; a word may be moved again.
    """

    share: float = share_field(0.1, "swaps, as a share of the number of words; one at least")
    adjacent: bool = option(False, help="swap neighbours only")

    def sample(self, rng: np.random.Generator, text: str) -> Params:
        """Draw the pairs: the places of two words each, in order."""
        count = len(_WORD.findall(text))
        if count < 2:
            return {}
        pairs = []
        for _ in range(max(1, round(self.share * count))):
            one = int(rng.integers(count - 1 if self.adjacent else count))
            other = one + 1 if self.adjacent else (one + 1 + int(rng.integers(count - 1))) % count
            pairs.append([one, other])
        return {"swaps": pairs}

    def change(self, text: str, params: Params) -> str:
        """Swap, one pair after the other."""
        words = _WORD.findall(text)
        for one, other in params.get("swaps", ()):
            words[one], words[other] = words[other], words[one]
        rest = iter(words)
        return _WORD.sub(lambda _: next(rest), text)


@TEXT_OPS.add
class delete(TextOp):
    """Leave out random words; labels usually hold.

    EDA's random deletion: every word goes with probability share; when all would go, one stays.
    """

    share: float = share_field(0.1, "probability of each word to go")

    def sample(self, rng: np.random.Generator, text: str) -> Params:
        """Draw the places of the words that go."""
        count = len(_WORD.findall(text))
        if count < 2:
            return {}
        gone = (rng.random(count) < self.share).nonzero()[0].tolist()
        if len(gone) == count:
            gone.remove(int(rng.integers(count)))
        return {"words": gone}

    def change(self, text: str, params: Params) -> str:
        """Leave them out, each with the white space before it; the first one kept begins where the text begins."""
        gone = set(params.get("words", ()))
        words = list(_WORD.finditer(text))
        if not gone:
            return text
        parts = [text[: words[0].start()]]
        for place, word in enumerate(words):
            if place not in gone:
                between = text[words[place - 1].end() : word.start()] if len(parts) > 1 else ""
                parts.append(between + word.group())
        return "".join([*parts, text[words[-1].end() :]])


@TEXT_OPS.add
class punctuate(TextOp):
    """Put random punctuation marks between the words; labels usually hold.

    AEDA: as many as are drawn from one to share of the number of words, each of .;?:!, before a random word.
    """

    share: float = share_field(0.3, "most marks, as a share of the number of words; one at least")

    def sample(self, rng: np.random.Generator, text: str) -> Params:
        """Draw the marks: the place of the word that follows, and the mark, in order."""
        count = len(_WORD.findall(text))
        if not count:
            return {}
        number = int(rng.integers(1, max(1, int(self.share * count)) + 1))
        places = sorted(int(place) for place in rng.choice(count, number, replace=False))
        return {"marks": [[place, MARKS[int(rng.integers(len(MARKS)))]] for place in places]}

    def change(self, text: str, params: Params) -> str:
        """Put each mark and a space before its word."""
        marks = dict(params.get("marks", ()))
        words = enumerate(_WORD.findall(text))

        def marked(_: object) -> str:
            place, word = next(words)
            return f"{marks[place]} {word}" if place in marks else word

        return _WORD.sub(marked, text)
