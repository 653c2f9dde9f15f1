"""Entry point of `python -m medvlm_r1`."""

from medvlm_r1.cli.main import main

main()
