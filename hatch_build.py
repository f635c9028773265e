"""Compile the native kernels where there is a compiler; without one the package runs its plain forms."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface):  # type: ignore[type-arg]
    """The wheel's build, and that of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the wheel after the machine it is for."""
        path = Path(self.root) / "src/kinetograph/kernels/build.py"
        spec = importlib.util.spec_from_file_location("kernels_build", path)
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            build.compile_all()
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"the native kernels are left out, the package will be slower: {error}")
            return
        build_data["pure_python"] = False
        machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{machine}"
