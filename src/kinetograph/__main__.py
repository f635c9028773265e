"""``python -m kinetograph`` is ``kinetograph``."""

from kinetograph.cli import main

main()
