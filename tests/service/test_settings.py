from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, cache_folder


def test_a_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_PORT", "8080")

    assert Settings.load().port == 8080


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_PORT", "8080")

    assert Settings.load(port=9090).port == 9090


def test_what_is_given_as_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_PORT", "8080")

    assert Settings.load(port=None).port == 8080


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_PORT", "")

    assert Settings.load().port == 5001


def test_azures_name_of_the_timeout_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORING_TIMEOUT_MS", "1500")

    assert Settings.load().scoring_timeout_ms == 1500


def test_our_name_of_the_timeout_wins_over_azures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORING_TIMEOUT_MS", "1500")
    monkeypatch.setenv("SOLOV2_SCORING_TIMEOUT_MS", "2500")

    assert Settings.load().scoring_timeout_ms == 2500


def test_weights_come_from_the_flag_then_our_variable_then_azures_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", "/azure")
    from_azure = Settings.load().weights_path
    monkeypatch.setenv("SOLOV2_WEIGHTS", "/variable")
    from_variable = Settings.load().weights_path
    from_flag = Settings.load(weights="/flag").weights_path

    assert [from_flag, from_variable, from_azure] == [
        Path("/flag"),
        Path("/variable"),
        Path("/azure"),
    ]


def test_the_shipped_weights_are_the_default() -> None:
    assert Settings.load().weights_path.parts[-2:] == ("weights", "default.safetensors")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SOLOV2_PORT", "http"),
        ("SOLOV2_PORT", "70000"),
        ("SOLOV2_MAX_QUEUE_IMAGES", "0"),
        ("SOLOV2_GRACE_S", "-1"),
        ("SOLOV2_SCORE_THRESHOLD", "1.5"),
        ("SOLOV2_PRECISION", "fp8"),
        ("SOLOV2_DEVICES", "gpu"),
        ("SOLOV2_APPLY_EXIF", "perhaps"),
        ("SCORING_TIMEOUT_MS", "soon"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as caught:
        Settings.load()

    text = str(caught.value)
    assert variable in text
    assert repr(value) in text
    assert "\n" not in text


def test_settings_arrive_in_a_worker_as_they_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Settings.load(port=1, weights="/flag", scoring_timeout_ms=9)
    monkeypatch.setenv("SOLOV2_SCORING_TIMEOUT_MS", "7")
    monkeypatch.setenv("SOLOV2_PORT", "7")

    assert Settings.model_validate_json(sent.model_dump_json()) == sent


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(None, "home/.cache/solov2"), ("relative", "home/.cache/solov2"), ("/c", "/c/solov2")],
)
def test_the_cache_is_where_the_desktop_keeps_caches(
    variable: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if variable is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", variable)

    assert cache_folder() == tmp_path / expected


def test_devices_are_a_list_with_one_worker_for_each_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_DEVICES", "cuda:0, cuda:1,cuda:1")

    assert Settings.load().devices == ("cuda:0", "cuda:1", "cuda:1")


@pytest.mark.parametrize("devices", ["gpu", "cuda:", "cuda:x", "auto,cpu", ","])
def test_devices_that_do_not_exist_are_named_in_one_line(devices: str) -> None:
    with pytest.raises(SettingsError, match=r"^SOLOV2_DEVICES: ") as refused:
        Settings.load(devices=devices)

    assert "\n" not in str(refused.value)


def test_a_key_loses_the_line_break_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_API_KEY", "s3cret\n")

    key = Settings.load().api_key

    assert key is not None
    assert key.get_secret_value() == "s3cret"


def test_a_blank_key_is_refused_as_it_would_let_everybody_in() -> None:
    with pytest.raises(SettingsError, match=r"^SOLOV2_API_KEY: "):
        Settings.load(api_key=" ")


def test_the_key_is_neither_printed_nor_sent_to_workers() -> None:
    settings = Settings.load(api_key="s3cret")

    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
