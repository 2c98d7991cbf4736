"""Subsets of settings: only those asked for, from the same sources."""

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


def test_sources_are_flag_variable_file_and_default_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("redis_prefix: file\nspool: /file\nsource: /file\nreserved_prefix: /file/\n")
    monkeypatch.setenv("SIDECAR_CONFIG", str(file))
    monkeypatch.setenv("SIDECAR_REDIS_PREFIX", "variable")
    monkeypatch.setenv("SIDECAR_SPOOL", "/variable")
    names = ("config", "redis_prefix", "spool", "reserved_prefix", "allow_in_path")
    settings = load_subset(*names, redis_prefix="flag", spool=None)
    assert (settings.redis_prefix, str(settings.spool)) == ("flag", "/variable")
    assert (settings.reserved_prefix, settings.allow_in_path) == ("/file/", ())


def test_plan_file_and_upstream_are_required_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_subset("spool").spool == Settings.model_fields["spool"].default
    with pytest.raises(SettingsError, match=r"--plans \(SIDECAR_PLANS\): is missing"):
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
def test_other_settings_are_not_checked(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, str]
) -> None:
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert load_subset("redis", "spool").upstream == Origin("http", "none", 80)


def test_settings_asked_for_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_REDIS", "nonsense")
    with pytest.raises(SettingsError, match="--redis"):
        load_subset("redis")


def test_an_unknown_setting_in_the_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("spol: /x\n")
    with pytest.raises(SettingsError, match="write spool, or remove it"):
        load_subset("config", "spool", config=str(file))


def test_a_setting_that_is_twice_in_the_file_is_rejected_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("spool: /a\nlisten: 127.0.0.1:1\n# here\nspool: /b\nlisten: 127.0.0.1:2\n")
    with pytest.raises(SettingsError) as caught:
        Settings.load({"config": str(file)})
    assert str(caught.value).splitlines() == [
        f"--config (SIDECAR_CONFIG): {file}: spool is set on lines 1 and 4; keep one of them",
        f"--config (SIDECAR_CONFIG): {file}: listen is set on lines 2 and 5; keep one of them",
    ]


def test_a_setting_that_is_twice_in_toml_is_rejected_with_its_line(tmp_path: Path) -> None:
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
    with pytest.raises(SettingsError, match=r"--listen .* and --control .*: must differ"):
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
def test_different_addresses_are_accepted(listen: str, control: str) -> None:
    flags = {"plans": "p", "upstream": "http://api", "listen": listen, "control": control}
    assert str(Settings.load(flags).control) == control


def test_an_unknown_variable_has_a_message_with_the_nearest_setting() -> None:
    messages = unknown_variables(
        ["SIDECAR_LISEN", "SIDECAR_ZZZ", "sidecar_spol", "PATH", *KNOWN], KNOWN
    )
    assert messages == [
        "SIDECAR_LISEN is not a setting and has no effect; write SIDECAR_LISTEN, or remove it",
        "SIDECAR_ZZZ is not a setting and has no effect; see docs/reference/settings.md",
        "sidecar_spol is not a setting and has no effect; write SIDECAR_SPOOL, or remove it",
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
def test_variables_of_the_platform_and_lower_case_names_have_no_message(name: str) -> None:
    assert unknown_variables([name], KNOWN) == []
