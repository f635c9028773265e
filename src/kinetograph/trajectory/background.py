"""The thread that writes the files of the runs of this process, one thing after another, while they go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def in_background(
    task: Callable[Arguments, Answer], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Future[Answer]:
    """Do this after all that was handed over before."""
    return _thread.submit(task, *args, **kwargs)


def _new_thread() -> None:
    global _thread
    _thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="files of runs")


_thread: ThreadPoolExecutor
_new_thread()
if hasattr(os, "register_at_fork"):  # a forked process has no copy of the thread
    os.register_at_fork(after_in_child=_new_thread)
