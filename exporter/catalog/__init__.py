"""The collectors: the format of their files and what reads them."""
