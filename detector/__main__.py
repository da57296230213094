"""``python -m detector`` is the command `roadblocks`."""

from detector.cli import main

main()
