"""``python -m fragrecon`` is ``python -m fragrecon.run``."""

from fragrecon import search_path

if __name__ == "__main__":
    search_path.leave_working_folder()

from fragrecon.run import main

main()
