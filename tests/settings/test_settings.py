"""Sources of settings, messages about invalid ones, and docs/reference/settings.md."""

from pathlib import Path

import pytest

from sidecar.addresses import Origin
from sidecar.errors import SettingsError
from sidecar.settings import Address, Settings, UnixPath, all_settings

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
NEEDED = {"plans": "plans.yaml", "upstream": "http://127.0.0.1:3000"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in all_settings():
        monkeypatch.delenv(setting.env, raising=False)


def test_defaults_are_on_loopback_and_only_plans_and_upstream_are_required() -> None:
    settings = Settings.load(NEEDED)
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.control == Address("127.0.0.1", 9090)
    assert settings.upstream == Origin("http", "127.0.0.1", 3000)
    assert settings.sinks == ()


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(
        "redis_timeout_ms: 10\nmax_headers: 10\nmax_connections: 10\nsinks: [stdout, redis]\n"
    )
    monkeypatch.setenv("SIDECAR_CONFIG", str(file))
    monkeypatch.setenv("SIDECAR_MAX_HEADERS", "20")
    monkeypatch.setenv("SIDECAR_MAX_CONNECTIONS", "20")
    settings = Settings.load({**NEEDED, "max_connections": "30", "listen": None})
    assert settings.redis_timeout_ms == 10
    assert settings.max_headers == 20
    assert settings.max_connections == 30
    assert settings.upstream_connections == 256
    assert settings.sinks == ("stdout", "redis")


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('plans = "p.yaml"\nupstream = "http://api"\naccess_log = true\n')
    settings = Settings.load({"config": str(file)})
    assert (settings.upstream, settings.access_log) == (Origin("http", "api", 80), True)


def test_a_unix_socket_reads_and_prints_the_same() -> None:
    listen = Settings.load({**NEEDED, "listen": "unix:/run/sidecar/http.sock"}).listen
    assert listen == UnixPath("/run/sidecar/http.sock")
    assert str(listen) == "unix:/run/sidecar/http.sock"


def test_workers_may_be_a_number_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("workers: 4\nlisten_mode: 600\n")
    settings = Settings.load({**NEEDED, "config": str(file)})
    assert (settings.workers, settings.listen_mode) == ("4", "600")


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_LISTEN", "")
    assert Settings.load(NEEDED).listen.port == 8080


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"plans": None},
            "--plans (SIDECAR_PLANS): is missing; write --plans FILE, or set SIDECAR_PLANS",
        ),
        ({"upstream": None}, "--upstream (SIDECAR_UPSTREAM): is missing; write --upstream URL"),
        (
            {"upstream": "ftp://api"},
            "is not an upstream; write http://HOST:PORT, https://HOST:PORT",
        ),
        ({"upstream": "unix:run/api.sock"}, "is not a unix socket; write unix:/PATH"),
        ({"upstream": "http://api:3000/v1"}, "without a path"),
        ({"upstream_cert": "a.pem"}, "--upstream-cert and --upstream-key: need each other"),
        ({"upstream_ca": "a.pem"}, "need an https:// upstream"),
        ({"trusted_proxies": "10.0.0.0/8,me"}, '"me" is not a network; write it like 10.0.0.0/8'),
        ({"upgrades": "websocket,h2c"}, "an upgrade to HTTP/2 is not allowed"),
        ({"upgrades": "web socket"}, "is not a protocol"),
        (
            {"allow_in_path": "slash"},
            '"slash" cannot be allowed; write one or more of encoded-slash',
        ),
        ({"redis": "unix:run/redis.sock"}, "not a Redis URL"),
        ({"upstream": "http://api:99999"}, "is not an upstream"),
        (
            {"upstream": "http://u:hidden@api"},
            "an upstream cannot have a user or password; remove them",
        ),
        ({"listen": "8080"}, '--listen (SIDECAR_LISTEN): "8080" is not an address'),
        ({"listen": "::1:8080"}, "write HOST:PORT"),
        ({"listen": "unix:relative.sock"}, "write unix:/PATH"),
        ({"listen": "unix:/run/"}, "is not a unix socket"),
        ({"listen": f"unix:/{'x' * 100}"}, "is too long; write at most 100 bytes"),
        ({"listen_mode": "888"}, "is not a file mode; write it in octal, like 660"),
        (
            {"control": "unix:/run/x.sock"},
            '--control (SIDECAR_CONTROL): "unix:/run/x.sock" is not an address',
        ),
        ({"workers": "0"}, '"0" is not a number of workers; write a number from 1 to 256, or auto'),
        ({"shed": "0"}, '"0" is not a limit; write adaptive, off, or a number from 1 to 100000'),
        ({"shed": "100001"}, '--shed (SIDECAR_SHED): "100001" is not a limit'),
        ({"shed_min": "0"}, '"0" is too small; write at least 1'),
        ({"workers": "many"}, '--workers (SIDECAR_WORKERS): "many" is not a number of workers'),
        (
            {"tls_cert": "c.pem"},
            "--tls-key (SIDECAR_TLS_KEY): missing, and TLS needs certificate and key",
        ),
        (
            {"tls_key": "k.pem"},
            "--tls-cert (SIDECAR_TLS_CERT): missing, and TLS needs certificate and key",
        ),
        ({"tls_client_ca": "ca.pem"}, "--tls-cert (SIDECAR_TLS_CERT) and --tls-key"),
        ({"max_connection_age_s": "-1"}, '"-1" is too small; write at least 0'),
        ({"control": "127.0.0.1:70000"}, "--control (SIDECAR_CONTROL)"),
        ({"redis": "localhost:6379"}, "not a Redis URL; write redis://"),
        ({"redis": "redis://localhost/x"}, "not a Redis URL"),
        ({"redis": "redis://a:1,b:2"}, "several hosts need a cluster or sentinels"),
        ({"redis": "redis+sentinel://a:1,b:2"}, "the master's name is missing"),
        ({"redis": "redis+cluster://a:1,b:2/3"}, "a cluster has no master and no database"),
        ({"redis": "redis+cluster://a:1,,b:2"}, "one of the hosts is not HOST:PORT"),
        ({"redis": "redis://h?ssl_ca_certs=/ca.pem"}, "unknown option after the ?; write only db"),
        (
            {"redis": "rediss://h?ssl_certfile=/c.pem"},
            "ssl_certfile and ssl_keyfile need each other",
        ),
        ({"redis": "rediss://h?ssl_check_hostname=no"}, "ssl_check_hostname is not a boolean"),
        ({"redis_timeout_ms": "0"}, '"0" is too small; write at least 1'),
        ({"redis_timeout_ms": "a"}, '"a" is not a whole number'),
        ({"redis_prefix": "{x}"}, "--redis-prefix (SIDECAR_REDIS_PREFIX)"),
        ({"spool_full": "panic"}, "write 'refuse' or 'drop'"),
        ({"sinks": "kafka"}, '"kafka" is not a sink; write stdout, file:/path or redis'),
        ({"sinks": "stdout,stdout"}, "there are two sinks of the kind stdout"),
        ({"drain_timeout_s": "nan"}, "--drain-timeout-s (SIDECAR_DRAIN_TIMEOUT_S)"),
        ({"max_headers": "1000000"}, "is too large; write at most 10000"),
        ({"reserved_prefix": "/"}, "--reserved-prefix (SIDECAR_RESERVED_PREFIX)"),
        ({"log_level": "loud"}, "--log-level (SIDECAR_LOG_LEVEL)"),
        ({"config": "/nowhere/x.yaml"}, "/nowhere/x.yaml does not exist; name another"),
    ],
)
def test_an_invalid_value_has_a_message_with_flag_and_variable(
    flags: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({**NEEDED, **flags})
    assert message in str(caught.value)


def test_all_invalid_values_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"listen": "x", "max_headers": "y"})
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == [
        "--plans",
        "--upstream",
        "--listen",
        "--max-headers",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.yaml", "lisen: 127.0.0.1:1", 'unknown setting "lisen"; write listen, or remove it'),
        (
            "s.yaml",
            "zzz: 1",
            'unknown setting "zzz"; see docs/reference/settings.md',
        ),
        ("s.yaml", "listen: [", "line 1: not valid YAML"),
        ("s.yaml", "- listen", "is not a mapping; write lines like NAME: VALUE"),
        ("s.yaml", "config: other.yaml", "config cannot name another file"),
        ("s.toml", "listen = ", "--config (SIDECAR_CONFIG)"),
        ("s.toml", "listen = ", "; correct it, or name another with --config FILE"),
        ("s.yaml", "listen: [", "; correct it, or name another with --config FILE"),
    ],
)
def test_an_invalid_settings_file_is_rejected(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Settings.load({**NEEDED, "config": str(file)})
    assert message in str(caught.value)


def test_a_settings_file_that_cannot_be_read_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes(b"listen: \xe9")
    where = "--config (SIDECAR_CONFIG): "
    for file, message in {
        tmp_path / "none.yaml": "does not exist; name another with --config FILE",
        tmp_path: "is a directory; name another with --config FILE",
        tmp_path / "latin1.yaml": "is not UTF-8; save it as UTF-8",
    }.items():
        with pytest.raises(SettingsError) as caught:
            Settings.load({**NEEDED, "config": str(file)})
        assert str(caught.value) == f"{where}{file} {message}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@h:1/0", "redis://h:1"),
        ("rediss://:hunter2@[::1]/3?ssl_ca_certs=/ca.pem", "rediss://[::1]:6379/3"),
        ("unix://:hunter2@/run/redis.sock?db=2", "unix:/run/redis.sock"),
        (
            "redis+sentinel://u:hunter2@a,b:1/main/2?sentinel_password=hunter2",
            "redis+sentinel://a:26379,b:1/main/2",
        ),
        ("rediss+cluster://u:hunter2@a:1,b", "rediss+cluster://a:1,b:6379"),
    ],
)
def test_the_password_of_redis_is_never_shown(url: str, shown: str) -> None:
    settings = Settings.load({**NEEDED, "redis": url})
    assert "hunter2" not in repr(settings) + settings.redis_label + settings.model_dump_json()
    assert settings.redis_label == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis//u:hunter2@h",
        "redis://u:hunter2@a,b",
        "redis://u:p?hunter2=x@h",
        "redis://u:p/hunter2@h",
        "redis://h?password=hunter2",
        "redis://h?hunter2=1",
        "redis+cluster://u:hunter2@h/main",
    ],
)
def test_an_error_about_redis_does_not_show_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({**NEEDED, "redis": url})
    assert "hunter2" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    settings = Settings.load(NEEDED)
    with pytest.raises(ValueError, match="frozen"):
        settings.access_log = True


def rows() -> list[str]:
    """The rows of the table in docs/reference/settings.md, from the model."""
    return [
        f"| `{info.flag}` | `{info.env}` | "
        f"{'required' if info.default is None else f'`{info.default}`'} | {info.help} |"
        for info in all_settings()
    ]


def test_the_docs_have_the_table_of_settings() -> None:
    written = [line for line in DOCS.read_text().splitlines() if line.startswith("| `--")]
    assert written == rows()
