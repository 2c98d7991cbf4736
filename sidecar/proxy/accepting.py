"""Which of our two kinds of answers a client would rather have (RFC 9110, section 12.5.1)."""

import re
from typing import Final

MEMBERS: Final = 32  # of a list that are looked at
_RANKS: Final = {  # how closely a media range fits: the closest one decides
    b"application/problem+json": ("json", 4),
    b"application/json": ("json", 3),
    b"application/*": ("json", 2),
    b"text/plain": ("text", 4),
    b"text/*": ("text", 2),
}
_ANY: Final = b"*/*"
_WEIGHT: Final = re.compile(
    rb";[ \t]*q=(?:0(?:\.([0-9]{0,3}))?|(1)(?:\.0{0,3})?)[ \t]*(?:;|$)", re.IGNORECASE
)
_WEIGHS: Final = re.compile(rb";[ \t]*q=", re.IGNORECASE)
_Best = tuple[int, int]  # how closely it fits, and its weight in thousandths


def prefers_text(accept: bytes) -> bool:
    """Whether plain text is wanted more than JSON. `accept` is the value of the field.

    In doubt it is JSON: without the field, at equal weights, and when neither is wanted. Other
    parameters than the weight are not compared: whoever names one is best served all the same.
    """
    if not accept or accept == _ANY:
        return False
    best: dict[str, _Best] = {"json": (0, 0), "text": (0, 0)}
    for member in accept.split(b",", MEMBERS)[:MEMBERS]:
        media = member.partition(b";")[0].strip(b" \t").lower()
        found = [_RANKS[media]] if media in _RANKS else []
        if media == _ANY:
            found = [("json", 1), ("text", 1)]
        for kind, rank in found:
            best[kind] = max(best[kind], (rank, _weight(member)))
    return best["text"][1] > best["json"][1]


def _weight(member: bytes) -> int:
    """In thousandths. What is no weight weighs nothing."""
    found = _WEIGHT.search(member)
    if found is None:
        return 0 if _WEIGHS.search(member) else 1000
    return 1000 if found[2] else int((found[1] or b"0").ljust(3, b"0"))
