from pathlib import Path

from commands import run


def test_convert_refuses_what_is_no_checkpoint_in_one_line(tmp_path: Path) -> None:
    source = tmp_path / "noise.pth"
    source.write_bytes(b"noise")

    code, output = run("convert", source, tmp_path / "out.safetensors")

    assert code == 1
    assert output.startswith(f"solov2: {source}: ")
    assert output.count("\n") == 1


def test_download_of_an_unknown_variant_lists_those_there_are() -> None:
    code, output = run("download", "r18")

    assert code == 1
    assert "no published weights of 'r18'" in output
    assert "light_r18_3x" in output
