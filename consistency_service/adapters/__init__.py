"""One module or package per third-party library, behind a port; no exception of a library leaves this package."""
