"""Files are replaced in one go, and nothing else is touched."""

from pathlib import Path

from fcmae.files import write_text


def test_a_link_at_the_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    """A run folder of someone else may hold one; nor is the target of a link at the file's own name."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".new-report.html", "report.html"):
        (run / name).symlink_to(precious)
    write_text(run / "report.html", "new")
    assert precious.read_text() == "precious"
    assert (run / "report.html").read_text() == "new"
    assert not (run / "report.html").is_symlink()
    assert sorted(path.name for path in run.iterdir()) == ["report.html"]
