"""The cluster: decides which version of a model is active, remembers it, announces it.

Start at `app` for how the parts are put together, at `core` for what they decide.
"""

__version__ = "0.1.0"
