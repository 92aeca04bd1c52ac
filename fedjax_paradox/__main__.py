"""`python -m fedjax_paradox`."""

from fedjax_paradox.cli import main

main()
