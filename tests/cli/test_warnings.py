"""What the command line makes of warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

import kinetograph
from kinetograph.cli import _show_warning

OURS = Path(kinetograph.__file__).with_name("learned_potential.py")


def test_our_own_warnings_are_sentences_and_others_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    left: list[tuple[object, ...]] = []

    def otherwise(*arguments: object) -> None:
        left.append(arguments)

    for message in ("atoms [0, 1] are close", "atoms [0, 1] are close."):
        _show_warning(otherwise, UserWarning(message), UserWarning, str(OURS), 7)
        assert capsys.readouterr().err == "Warning: atoms [0, 1] are close.\n"
    assert not left
    _show_warning(otherwise, "theirs", UserWarning, "/elsewhere/module.py", 7)
    assert left == [("theirs", UserWarning, "/elsewhere/module.py", 7)]
    assert capsys.readouterr().err == ""
