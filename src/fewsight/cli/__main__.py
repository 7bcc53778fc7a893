"""`python -m fewsight.cli`."""

from fewsight.cli.main import main

main()
