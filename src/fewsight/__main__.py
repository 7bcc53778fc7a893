"""`python -m fewsight`."""

from fewsight.cli.main import main

main()
