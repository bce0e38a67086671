"""``python -m fragrecon`` is ``python -m fragrecon.run``."""

from fragrecon.run import main

main()
