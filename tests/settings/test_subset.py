"""Settings for verbs that serve nothing: those asked for, from the same places, and no others."""

from pathlib import Path

import pytest

from sidecar.addresses import Origin
from sidecar.errors import SettingsError
from sidecar.settings import Settings, all_settings, load_subset, unknown_variables

KNOWN = [setting.env for setting in all_settings()]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)


def test_they_come_from_flag_variable_file_and_default_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("redis_prefix: file\nspool: /file\nsource: /file\nreserved_prefix: /file/\n")
    monkeypatch.setenv("SIDECAR_CONFIG", str(file))
    monkeypatch.setenv("SIDECAR_REDIS_PREFIX", "variable")
    monkeypatch.setenv("SIDECAR_SPOOL", "/variable")
    names = ("config", "redis_prefix", "spool", "reserved_prefix", "allow_in_path")
    found = load_subset(*names, redis_prefix="flag", spool=None)
    assert (found.redis_prefix, str(found.spool)) == ("flag", "/variable")
    assert (found.reserved_prefix, found.allow_in_path) == ("/file/", ())


def test_plan_file_and_upstream_are_needed_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_subset("spool").spool == Settings.model_fields["spool"].default
    with pytest.raises(SettingsError, match=r"--plans \(SIDECAR_PLANS\) is missing"):
        load_subset("plans")
    monkeypatch.setenv("SIDECAR_PLANS", "p.yaml")
    assert str(load_subset("plans").plans) == "p.yaml"


@pytest.mark.parametrize(
    "others",
    [
        {"SIDECAR_LISTEN": "8080"},
        {"SIDECAR_UPSTREAM": "https://api", "SIDECAR_UPSTREAM_CA": "ca.pem"},
        {"SIDECAR_UPSTREAM_CA": "ca.pem"},
        {"SIDECAR_TLS_CERT": "cert.pem"},
        {"SIDECAR_CONTROL": "127.0.0.1:8080"},
    ],
)
def test_what_is_set_of_others_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, str]
) -> None:
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert load_subset("redis", "spool").upstream == Origin("http", "none", 80)


def test_what_is_asked_for_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_REDIS", "nonsense")
    with pytest.raises(SettingsError, match="--redis"):
        load_subset("redis")


def test_an_unknown_setting_of_the_file_is_refused_here_too(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("spol: /x\n")
    with pytest.raises(SettingsError, match="did you mean spool"):
        load_subset("config", "spool", config=str(file))


def test_a_name_that_is_set_twice_in_the_file_is_refused_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("spool: /a\nlisten: 127.0.0.1:1\n# here\nspool: /b\nlisten: 127.0.0.1:2\n")
    with pytest.raises(SettingsError) as caught:
        Settings.load({"config": str(file)})
    assert str(caught.value).splitlines() == [
        f"--config (SIDECAR_CONFIG): {file}: spool is set on lines 1 and 4; keep one of them",
        f"--config (SIDECAR_CONFIG): {file}: listen is set on lines 2 and 5; keep one of them",
    ]


def test_a_name_that_is_set_twice_in_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('spool = "/a"\nspool = "/b"\n')
    with pytest.raises(SettingsError, match=r"at line 2"):
        Settings.load({"config": str(file)})


@pytest.mark.parametrize(
    ("listen", "control"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        ("[::1]:8080", "[::]:8080"),
    ],
)
def test_listen_and_control_must_differ(listen: str, control: str) -> None:
    flags = {"plans": "p", "upstream": "http://api", "listen": listen, "control": control}
    with pytest.raises(SettingsError, match=r"--listen .* and --control .* must differ"):
        Settings.load(flags)


@pytest.mark.parametrize(
    ("listen", "control"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:8080", "127.0.0.2:8080"),
        ("127.0.0.1:8080", "[::1]:8080"),
        ("unix:/run/a.sock", "127.0.0.1:8080"),
    ],
)
def test_addresses_that_do_differ_are_taken(listen: str, control: str) -> None:
    flags = {"plans": "p", "upstream": "http://api", "listen": listen, "control": control}
    assert str(Settings.load(flags).control) == control


def test_a_variable_that_is_no_setting_is_told_with_what_may_be_meant() -> None:
    told = unknown_variables(
        ["SIDECAR_LISEN", "SIDECAR_ZZZ", "sidecar_spol", "PATH", *KNOWN], KNOWN
    )
    assert told == [
        "SIDECAR_LISEN is not a setting and does nothing; did you mean SIDECAR_LISTEN?",
        "SIDECAR_ZZZ is not a setting and does nothing; "
        "docs/reference/settings.md lists all settings",
        "sidecar_spol is not a setting and does nothing; did you mean SIDECAR_SPOOL?",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "SIDECAR_SERVICE_HOST",
        "SIDECAR_SERVICE_PORT_HTTP",
        "SIDECAR_PORT",
        "SIDECAR_PORT_8080_TCP_ADDR",
        "SIDECAR_CONTROL_SERVICE_PORT",
        "sidecar_listen",
    ],
)
def test_what_the_platform_sets_and_small_letters_are_nothing_to_tell(name: str) -> None:
    assert unknown_variables([name], KNOWN) == []
