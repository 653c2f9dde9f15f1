"""`python -m medvlm_r1`."""

from medvlm_r1.cli import main

main()
