"""The command line as a user types it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kinetograph.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run one command line in ``tmp_path``; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kinetograph", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused() -> Callable[..., None]:
    """Checks a result: one message on stderr, nothing on stdout, no traceback, exit code 2."""

    def check(result: tuple[int, str, str], *texts: str) -> None:
        code, out, err = result
        assert code == 2, err
        assert out == ""
        assert err.lstrip().startswith("Error: ")
        assert "Traceback" not in err
        for text in texts:
            assert text in err.replace("\n", " ")

    return check
