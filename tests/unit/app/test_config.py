from __future__ import annotations

import base64
from pathlib import Path

import pytest

from app.config import ConfigError, Settings, load, variable
from scripts import settings_table

KEY = base64.b64encode(bytes(range(32))).decode()


def problems_of(**env: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(env)
    return dict(line.split(": ", 1) for line in str(caught.value).splitlines())


def test_nothing_set_is_a_server_for_this_machine_alone() -> None:
    settings = load({})
    assert (settings.host, settings.port, settings.admin_port) == ("127.0.0.1", 8080, 9464)
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.allowed_hosts == ("127.0.0.1:8080", "localhost:8080", "[::1]:8080")
    assert settings.allowed_origins == tuple(f"http://{host}" for host in settings.allowed_hosts)
    assert settings.archive_path == Path("data/archive").absolute()
    assert settings.clinics_path == Path("data/clinics.json").absolute()
    assert settings.master_key_bytes is None
    assert settings.task_id


def test_the_environment_of_the_process_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIKITORI_PORT", "1")
    assert load({}).port == 8080


def test_empty_counts_as_not_set_and_other_variables_are_none_of_its_business() -> None:
    assert load({"KIKITORI_PORT": "", "PATH": "/bin", "KIKITORI_ENGINE": " "}).port == 8080


def test_every_mistake_is_told_at_once() -> None:
    problems = problems_of(
        KIKITORI_HOST="0.0.0.0",
        KIKITORI_PORT="65536",
        KIKITORI_ADMIN_HOST="example",
        KIKITORI_ADMIN_PORT="x",
        KIKITORI_PUBLIC_URL="kikitori.example",
        KIKITORI_ALLOWED_ORIGINS="*",
        KIKITORI_ALLOWED_HOSTS="a/b",
        KIKITORI_TRUSTED_PROXIES="10.0.0.0/8,proxy",
        KIKITORI_REDIS_URL="http://redis",
        KIKITORI_ARCHIVE_URL="/archive",
        KIKITORI_CLINICS_URL="file://elsewhere/clinics.json",
        KIKITORI_ENGINE="whisper",
        KIKITORI_TASK_ID="a b",
        KIKITORI_MAX_SESSIONS="0",
        KIKITORI_SEGMENT_SECONDS="12.5",
        KIKITORI_RESUME_WINDOW_SECONDS="nan",
        KIKITORI_POCKETSPHINX_WORKERS="-1",
        KIKITORI_MASTER_KEY=base64.b64encode(b"short").decode(),
        KIKITORI_DRAIN_SECONDS="61",
        KIKITORI_STICKY_COOKIE="a=b",
        KIKITORI_LOG_FORMAT="xml",
        KIKITORI_LOG_LEVEL="loud",
        KIKITORI_PROT="1",
    )
    assert len(problems) == 23
    assert all("; write " in text or "did you mean" in text for text in problems.values())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "kikitori.example"])
def test_other_machines_never_reach_the_development_issuer(host: str) -> None:
    assert "development issuer" in problems_of(KIKITORI_HOST=host)["KIKITORI_HOST"]


@pytest.mark.parametrize(
    ("host", "url"), [("::1", "http://[::1]:8080"), ("localhost", "http://localhost:8080")]
)
def test_the_public_url_follows_the_host(host: str, url: str) -> None:
    assert load({"KIKITORI_HOST": host}).public_url == url


def test_a_misspelt_setting_is_met_with_the_right_one() -> None:
    assert problems_of(KIKITORI_RESUME_WINDOW="3")["KIKITORI_RESUME_WINDOW"].endswith(
        "did you mean KIKITORI_RESUME_WINDOW_SECONDS?"
    )
    assert "no such setting" in problems_of(KIKITORI_XYZZY="3")["KIKITORI_XYZZY"]
    assert "KIKITORI_PORT" in problems_of(kikitori_port="3")["kikitori_port"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KIKITORI_OIDC_ISSUER", "https://issuer.example"),
    ],
)
def test_what_is_still_to_come_says_so(name: str, value: str) -> None:
    assert "not available in this version" in problems_of(**{name: value})[name]


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://r:6379",
        "redis+cluster://one,two:7000,[::1]:7001",
        "rediss+cluster://me:secret@one:7000,two:7001/?ssl_ca_certs=/ca.pem",
    ],
)
def test_a_cluster_is_named_by_some_of_its_nodes(url: str) -> None:
    assert load({"KIKITORI_MASTER_KEY": KEY, "KIKITORI_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    "url",
    ["redis+cluster://", "redis+cluster://one,,two", "http+cluster://one", "redis+cluster://one:secret"],
)
def test_what_names_no_nodes_of_a_cluster_is_refused(url: str) -> None:
    assert problems_of(KIKITORI_REDIS_URL=url).keys() == {"KIKITORI_REDIS_URL"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KIKITORI_MASTER_KEY", "c2VjcmV0LXZhbHVl"),
        ("KIKITORI_MASTER_KEY", "secret-value!"),
        ("KIKITORI_REDIS_URL", "redis://:secret-value@"),
        ("KIKITORI_REDIS_URL", "redis+cluster://:secret-value@"),
        ("KIKITORI_PORT", "secret-value"),
        ("KIKITORI_PUBLIC_URL", "https://u:secret-value@host/"),
        ("KIKITORI_PUBLIC_URL", "http://host:secret-value"),
    ],
)
def test_a_wrong_value_is_not_repeated(name: str, value: str) -> None:
    assert value not in problems_of(**{name: value})[name]
    assert "secret" not in problems_of(**{name: value})[name]


def test_secrets_are_not_displayed() -> None:
    settings = load({"KIKITORI_MASTER_KEY": KEY, "KIKITORI_REDIS_URL": "redis://me:hunter2@r:6379/0"})
    assert settings.master_key_bytes == bytes(range(32))
    shown = repr(settings) + "".join(settings.display(name) for name in Settings.model_fields)
    assert KEY not in shown
    assert "hunter2" not in shown
    assert settings.display("redis_url") == "redis://***@r:6379/0"
    clustered = load({"KIKITORI_MASTER_KEY": KEY, "KIKITORI_REDIS_URL": "redis+cluster://me:hunter2@a:1,b:2"})
    assert clustered.display("redis_url") == "redis+cluster://***@a:1,b:2"


def test_a_public_url_is_normalised_and_is_the_default_of_both_lists() -> None:
    settings = load({"KIKITORI_PUBLIC_URL": "HTTPS://Kikitori.Example:443/"})
    assert settings.public_url == "https://kikitori.example"
    assert settings.allowed_origins == ("https://kikitori.example",)
    assert settings.allowed_hosts == ("kikitori.example",)


def test_lists_are_separated_by_commas() -> None:
    settings = load(
        {
            "KIKITORI_ALLOWED_ORIGINS": "https://A.example, http://b.example:80 ,",
            "KIKITORI_ALLOWED_HOSTS": "A.example:8443,[::1]:80",
            "KIKITORI_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        }
    )
    assert settings.allowed_origins == ("https://a.example", "http://b.example")
    assert settings.allowed_hosts == ("a.example:8443", "[::1]:80")
    assert list(map(str, settings.trusted_proxies)) == ["10.0.0.0/8", "::1/128"]


def test_a_picked_port_is_put_in_wherever_it_was_left_open() -> None:
    settings = load({"KIKITORI_PORT": "0", "KIKITORI_MASTER_KEY": KEY}).with_port(40_000)
    assert settings.port == 40_000
    assert settings.public_url == "http://127.0.0.1:40000"
    assert "http://localhost:40000" in settings.allowed_origins
    assert "[::1]:40000" in settings.allowed_hosts
    assert settings.master_key_bytes == bytes(range(32))


def test_a_picked_port_leaves_what_was_chosen() -> None:
    settings = load({"KIKITORI_PORT": "0", "KIKITORI_PUBLIC_URL": "https://a.example"}).with_port(40_000)
    assert settings.public_url == "https://a.example"


def test_metrics_need_a_port_of_their_own() -> None:
    assert "public port" in problems_of(KIKITORI_PORT="9464")["KIKITORI_ADMIN_PORT"]
    assert load({"KIKITORI_PORT": "0", "KIKITORI_ADMIN_PORT": "0"}).admin_port == 0


def test_what_belongs_together_lies_in_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space%20"
    settings = load({"KIKITORI_DATA_DIR": str(folder)})
    assert settings.archive_path == folder / "archive"
    assert settings.clinics_path == folder / "clinics.json"


@pytest.mark.parametrize("url", ["file:///srv/a%20b", "file:/srv/a b", "file://localhost/srv/a%20b"])
def test_file_urls_in_every_spelling(url: str) -> None:
    assert load({"KIKITORI_ARCHIVE_URL": url}).archive_path == Path("/srv/a b")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).port = 1


def test_the_table_has_every_setting_between_the_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# K\n{settings_table.BEGIN}\noutdated\n{settings_table.END}\nrest\n")
    monkeypatch.setattr(settings_table, "README", readme)
    assert settings_table.main(["--check"]) == 1
    assert settings_table.main([]) == 0
    assert settings_table.main(["--check"]) == 0
    text = readme.read_text()
    assert text.startswith("# K\n")
    assert text.endswith("\nrest\n")
    assert "outdated" not in text
    assert all(f"| `{variable(name)}` |" in text for name in Settings.model_fields)


def test_a_readme_without_markers_is_not_touched() -> None:
    with pytest.raises(ValueError, match="settings:begin"):
        settings_table.rewritten("# K")


def test_the_production_settings_are_read() -> None:
    settings = load(
        {
            "KIKITORI_ENGINE": "aws",
            "KIKITORI_AWS_REGIONS": "ap-northeast-1, us-west-2",
            "KIKITORI_TRANSCRIBE_ENDPOINT": "wss://localhost:9444/",
            "KIKITORI_TRANSCRIBE_LANGUAGE_OPTIONS": "ja-JP,en-US",
            "KIKITORI_ARCHIVE_URL": "s3://bucket/some/prefix",
            "KIKITORI_S3_ROLE_ARN": "arn:aws:iam::123456789012:role/clinic",
        }
    )
    assert settings.on_s3
    assert settings.aws_regions == ("ap-northeast-1", "us-west-2")
    assert settings.transcribe_endpoint == "wss://localhost:9444"
    assert settings.transcribe_language_options == ("ja-JP", "en-US")
    assert not load({}).on_s3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KIKITORI_AWS_REGIONS", "Tokyo"),
        ("KIKITORI_AWS_REGIONS", "us-east-1,us-east-1"),
        ("KIKITORI_AWS_REGIONS", ","),
        ("KIKITORI_TRANSCRIBE_ENDPOINT", "https://localhost:9444"),
        ("KIKITORI_TRANSCRIBE_ENDPOINT", "wss://localhost:9444/path"),
        ("KIKITORI_TRANSCRIBE_STREAMS", "0"),
        ("KIKITORI_TRANSCRIBE_STABILITY", "sometimes"),
        ("KIKITORI_ARCHIVE_URL", "s3://"),
        ("KIKITORI_ARCHIVE_URL", "s3://Bucket"),
        ("KIKITORI_S3_ROLE_ARN", "role/clinic"),
    ],
)
def test_a_wrong_production_setting_says_what_to_write(name: str, value: str) -> None:
    assert "; write " in problems_of(**{name: value})[name]
