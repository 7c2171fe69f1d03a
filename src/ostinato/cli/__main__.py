"""`python -m ostinato.cli`, for launchers such as torchrun."""

from ostinato.cli import main

main()
