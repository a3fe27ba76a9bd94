"""`python -m anybatch.cli`: the command where no script is installed."""

from . import main

main()
