"""Targets are read as one path, or refused. Allowed forms are read in one way, too."""

import unicodedata
from itertools import combinations
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.paths import Allowance, BadTarget, Normaliser, normalise


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/?", "/"),
        (b"/premium", "/premium"),
        (b"/%70remium", "/premium"),
        (b"/premium/", "/premium"),
        (b"//premium", "/premium"),
        (b"/./premium", "/premium"),
        (b"/x/../premium", "/premium"),
        (b"/premium/x/..", "/premium"),
        (b"/premium/.", "/premium"),
        (b"/premium?", "/premium"),
        (b"/premium?a=/../b%2f%zz\\", "/premium"),
        (b"/PREMIUM", "/PREMIUM"),
        (b"/a//b///", "/a/b"),
        (b"/a.b/.well-known/...", "/a.b/.well-known/..."),
        (b"/a;v=1/b", "/a;v=1/b"),
        (b"/caf%C3%A9", "/café"),
        (b"/models/x%3Apredict", "/models/x:predict"),
        (b"/a%20b", "/a b"),
        (b"/100%25", "/100%"),
        (b"/a%2520b", "/a%20b"),
        (b"http://api.test/premium?x", "/premium"),
        (b"HTTPS://api.test", "/"),
        (b"http://api.test?x=/y", "/"),
        (b"http://api.test/x/../premium", "/premium"),
        (b"*", "*"),
    ],
)
def test_a_target_is_normalised(target: bytes, path: str) -> None:
    assert normalise(target) == path


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"?x",
        b"premium",
        b"api.test:443",
        b"http:///premium",
        b"http://user@api.test/premium",
        b"http://api.test\\premium",
        b"ftp://api.test/premium",
        b"/premium#x",
        b"/premium?x#y",
        b"/x%2fpremium",
        b"/x%2Fpremium",
        b"/x\\..\\premium",
        b"/x%5cpremium",
        b"/premium%00",
        b"/premium%0a",
        b"/premium%7F",
        b"/premium%C2%85",
        b"/premium\x01",
        b"/premium?\x00",
        b"/pre mium",
        b"/premium%",
        b"/premium%2",
        b"/premium%zz",
        b"/..",
        b"/x/../../premium",
        b"/%2e%2e/premium",
        b"/x/%2e%2E/premium",
        b"/x/.%2e/premium",
        b"/x/%2e/premium",
        b"/x//../premium",
        b"/x//./../premium",
        b"/x/;/../premium",
        b"/x/%20/../premium",
        b"/x%EF%BC%8Fy/../premium",
        b"/x/..%20/premium",
        b"/x/%E2%80%A5/premium",
        b"/x/..%3F/premium",
        b"/x/..%23premium",
        b"/x/.%EF%BC%9F/premium",
        b"/x%3Fy/../premium",
        b"/x%EF%BC%852fpremium",
        b"/x/%EF%BC%8E%EF%BC%8E/premium",
        b"/x%EF%BC%8F..%EF%BC%8Fpremium",
        b"/..;/premium",
        b"/x/..;a=b/premium",
        b"/x/.;/premium",
        b"/x/..%3b/premium",
        b"/%2570remium",
        b"/x/%252e%252e/premium",
        b"/x%252fpremium",
        b"/%25252e",
        b"/%c0%afpremium",
        b"/%c0%2e%c0%2e/premium",
        b"/%e0%80%afpremium",
        b"/%25c0%25afpremium",
        b"/x%u002fpremium",
        b"/x%25u002fpremium",
        b"/x%EF%BC%85u002fpremium",
        b"/x%EF%BC%85c0%EF%BC%85afpremium",
        b"/x%EF%BC%8500premium",
        b"/%ff",
        b"/%ed%a0%80",
        "/０".encode(),
    ],
)
def test_a_target_that_can_be_read_in_two_ways_is_refused(target: bytes) -> None:
    with pytest.raises(BadTarget, match=r"^[a-z]"):
        normalise(target)


@pytest.mark.parametrize(
    ("allowance", "target", "path"),
    [
        (Allowance.ENCODED_SLASH, b"/a%2fb%2F", "/a%2Fb%2F"),
        (Allowance.ENCODED_SLASH, b"/%2f//b/./c", "/%2F/b/c"),
        (Allowance.BACKSLASH, b"/a\\b", "/a\\b"),
        (Allowance.BACKSLASH, b"/a%5Cb/c", "/a\\b/c"),
        (Allowance.DOUBLE_ENCODING, b"/a%252Fb", "/a%2Fb"),
        (Allowance.DOUBLE_ENCODING, b"/https%253A%252F%252Fx", "/https%3A%2F%2Fx"),
        (Allowance.NOT_UTF8, b"/caf%e9/%C3%A9", "/caf%E9/é"),
        (Allowance.SEMICOLON, b"/a;b/c", "/a;b/c"),
    ],
)
def test_an_allowed_form_is_read_in_one_way(allowance: Allowance, target: bytes, path: str) -> None:
    allowing = Normaliser(frozenset({allowance}))
    assert allowing(target) == path
    assert set(allowing.readings(target)) == {path}
    if allowance is not Allowance.SEMICOLON:
        with pytest.raises(BadTarget):
            normalise(target)


@pytest.mark.parametrize(
    "target",
    [
        b"/x%00",
        b"/x%2500",
        b"/x%25250a",
        b"/%2e%2e/x",
        b"/x/%2e%2e/y",
        b"/x/..%2fy",
        b"/x%2f..%2fy",
        b"/x%2f../y",
        b"/x/%2f../y",
        b"/x/..\\y",
        b"/x\\..\\y",
        b"/x%5c%2e%2e/y",
        b"/x/%252e%252e/y",
        b"/x/%25252e./y",
        b"/x/%252e%252e%252fy",
        b"/x%252f%252e%252e/y",
        b"/x/%2525252525252e./y",
        b"/x/..;/y",
        b"/x/..;a=b/y",
        b"/x/..%3bz/y",
        b"/x/..%20/y",
        b"/x/a%2fb/../y",
        b"/x/a\\b/../y",
        b"/x%c0%afy",
        b"/x%25c0%25afy",
        b"/%e0%80%ae./y",
        b"/%f0%80%80%af",
        b"/%f8%80%80%80%af",
        b"/%fc%80%80%80%80%af",
        b"/x%25u002fy",
        b"http:\\\\api.test/x",
        b"http://api.test\\x",
    ],
)
def test_nul_dots_and_overlong_forms_are_refused_with_any_allowance(target: bytes) -> None:
    everything = Normaliser(frozenset(Allowance))
    with pytest.raises(BadTarget):
        everything(target)


def test_setting_names_of_allowances() -> None:
    names = {"encoded-slash", "backslash", "double-encoding", "not-utf8", "semicolon"}
    assert set(Allowance) == names


ALLOWED = [frozenset(some) for size in range(6) for some in combinations(Allowance, size)]
PIECES = [
    b"/", b"/", b"a", b".", b"..", b";", b"?", b"#", b"*", b"%", b"%%", b" ", b"\\", b"\x00",
    b"%2e", b"%2F", b"%5c", b"%00", b"%0a", b"%20", b"%25", b"%252e", b"%252f", b"%2520", b"%3b",
    b"%3f", b"%23", b"%c0%af", b"%e9", b"%c3%a9", b"%cc%81", b"%ef%bc%8f", b"%ef%bc%8e",
    b"%ef%bc%85", b"http://a", b"\xc3\xa9", b"%ed%a0%80", b"%e2%80%a6", b"%u002f", b"2", b"f",
]  # fmt: skip
TARGETS = st.binary(max_size=24) | st.lists(st.sampled_from(PIECES), max_size=8).map(
    lambda pieces: b"/" + b"".join(pieces)
)


def encoded(path: str, allow: frozenset[Allowance]) -> bytes:
    """Encode a path for a request target."""
    text = quote(path, safe="/*")
    if Allowance.ENCODED_SLASH in allow:
        text = text.replace("%252F", "%2F")
    if Allowance.NOT_UTF8 in allow:
        parts = text.split("%25")
        text = parts[0] + "".join(
            ("%" if part[:1] in ("8", "9", *"ABCDEF") else "%25") + part for part in parts[1:]
        )
    return text.encode()


@given(TARGETS, st.sampled_from(ALLOWED))
@example(b"/%2e%2e/%2f", frozenset(Allowance))
def test_a_target_is_refused_or_read_as_a_path_in_normal_form(
    target: bytes, allow: frozenset[Allowance]
) -> None:
    reader = Normaliser(allow)
    try:
        path, *others = reader.readings(target)
    except BadTarget as refused:
        assert str(refused)
        return
    if b"%2f" in target.lower().partition(b"?")[0] and Allowance.ENCODED_SLASH not in allow:
        with pytest.raises(BadTarget, match="an encoded slash"):  # it has no single reading
            reader(target)
    else:
        assert reader(target) == path
        if not {Allowance.DOUBLE_ENCODING, Allowance.NOT_UTF8} <= allow:  # %E9 may stand for both
            assert reader(encoded(path, allow)) == path
    for one in (path, *others):
        assert one == "*" or one.startswith("/")
        assert "//" not in one
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in one)
    assert not {".", ".."} & set(path.split("/"))
    assert path == "/" or not path.endswith("/")


@given(TARGETS)
def test_allowances_do_not_change_targets_that_are_accepted_by_default(
    target: bytes,
) -> None:
    try:
        path = normalise(target)
    except BadTarget:
        return
    for allow in ALLOWED:
        assert Normaliser(allow)(target) == path


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), st.sampled_from(ALLOWED))
def test_decoding_again_never_produces_a_dot_segment(
    pieces: list[bytes], allow: frozenset[Allowance]
) -> None:
    try:
        path = Normaliser(allow)(b"/" + b"".join(pieces))
    except BadTarget:
        return
    again = unquote_to_bytes(path).replace(b"\\", b"/")
    assert not {b".", b".."} & set(again.split(b"/"))
    assert b"\x00" not in again


@pytest.mark.parametrize("allow", [frozenset[Allowance](), frozenset(Allowance)], ids=len)
@pytest.mark.parametrize(
    "unit",
    [
        b"/", b"/a", b"/./", b"/..", b"/a/..", b"a.", b"/a.", b";", b"/;", b"%20", b"%252e", b"%25",
        b"25", b"%2f", b"%5c", b"%ef%bc%8f", b"%e2%80%a6", b"%cc%81%cc%a3", b"%ef%b7%ba", b"%3f",
        b"%e9", b"%c0", b"%u002f", b"\\", b"http://a", b"?",
    ],
)  # fmt: skip
def test_a_huge_target_takes_no_longer_than_its_size(
    unit: bytes, allow: frozenset[Allowance]
) -> None:
    """Quadratic work would not end here."""
    size = 120_000
    reader = Normaliser(allow)
    for start, end in ((b"/", b""), (b"/%25", b""), (b"/", b"%"), (b"", b"\xff"), (b"/a|", b"/b")):
        target = start + unit * (size // len(unit)) + end
        try:
            assert len(reader(target)) <= 4 * len(target)
        except BadTarget as refused:
            assert len(str(refused)) < 100
