"""The documentation as a site: how it is put together, and the pages and pictures of it that are made from the code."""
